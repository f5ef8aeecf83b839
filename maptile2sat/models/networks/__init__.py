"""Generators, discriminators and what can be computed about them."""
