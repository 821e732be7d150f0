"""An array library whose arrays have DLPack and nothing else."""

from support.dlpackcases import elsewhere

__all__ = ["elsewhere"]
