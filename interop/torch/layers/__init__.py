"""Layers whose constructors are those of ``torch.nn``'s convolutions."""
