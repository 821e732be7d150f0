"""A CUDA device on the CPU, so that every kernel runs and is watched where there is no GPU."""

from hostcuda.compiler import CompileError, compiled, compiler_path
from hostcuda.device import HostDevice, Launched
from hostcuda.library import KernelError

__all__ = ["CompileError", "HostDevice", "KernelError", "Launched", "compiled", "compiler_path"]
