"""Adapters: the code for arrays of one library each; ``adapter.py`` has protocol and registry."""
