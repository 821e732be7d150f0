"""What the engine asks of a device: protocol, commands, launch parameters, kernel source."""
