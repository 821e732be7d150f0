"""A CUDA device on the CPU: every kernel runs, and is checked, on machines without a GPU."""

from hostcuda.compiler import CompileError, compiled, compiler_path
from hostcuda.device import HostDevice, Launched
from hostcuda.library import KernelError

__all__ = ["CompileError", "HostDevice", "KernelError", "Launched", "compiled", "compiler_path"]
