"""A library whose arrays speak DLPack and nothing else."""

from support.dlpackcases import elsewhere

__all__ = ["elsewhere"]
