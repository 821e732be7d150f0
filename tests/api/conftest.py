"""An array library whose arrays support DLPack and nothing else."""

from support.dlpackcases import elsewhere

__all__ = ["elsewhere"]
