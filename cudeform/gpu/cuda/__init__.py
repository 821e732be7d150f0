"""The device on CuPy: the only folder of the engine that imports it."""
