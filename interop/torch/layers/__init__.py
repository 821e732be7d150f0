"""Layers of convolutions in one and three dimensions, transposed layers, and packs of them."""
