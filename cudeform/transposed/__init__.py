"""Transposed convolutions: their settings, their sizes and their engine."""
