"""Operators that sum samples without a filter: their settings, their sizes and their engine."""
