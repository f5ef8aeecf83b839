"""`python -m maptile2sat`."""

from maptile2sat.cli import process

process()
