"""Adapters, one for each array library; ``adapter.py`` has the protocol and the registry."""
