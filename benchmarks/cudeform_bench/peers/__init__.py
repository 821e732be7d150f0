"""Libraries beside which cudeform is measured, on torch tensors of any device."""
