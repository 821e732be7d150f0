"""Layers of deformable attention, DCNv3 and DCNv4, and the replacement of those of transformers."""
