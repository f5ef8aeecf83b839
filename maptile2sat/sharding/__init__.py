"""Renders beyond one machine: a folder of blocks, and what describes it."""
