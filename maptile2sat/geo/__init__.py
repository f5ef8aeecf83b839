"""Places: grids and windows, coordinate systems, outlines and cutlines."""
