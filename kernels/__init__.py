"""CUDA C sources, read as text by ``cudeform.source``."""
