"""Skips the tests of the CUDA device on the CPU if it cannot be built."""

from support.needs import COMPILER, has

collect_ignore_glob = [] if COMPILER and has("ml_dtypes") else ["test_hostcuda*"]
