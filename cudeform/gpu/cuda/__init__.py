"""The device on CuPy: memory, kernel launches, cuBLAS. Only ``device.py`` here imports CuPy."""
