"""The engine runs against a recorder once; its launches are replayed for every later call."""
