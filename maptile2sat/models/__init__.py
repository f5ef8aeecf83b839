"""Models: bundles, the networks in them, and what computes them."""
