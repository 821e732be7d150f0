"""The interface between engine and device: protocol, commands, launch parameters, kernel source."""
