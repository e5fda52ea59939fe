"""Weights that are shipped, and where those that are not come from."""
