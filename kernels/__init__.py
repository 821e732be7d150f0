"""CUDA C sources by stage, read as text by ``cudeform.gpu.device_api.kernel_source``."""
