"""Which client owns which examples: a partitioner deals the indices of a data set to clients."""

from fedalign.partitioning import Indices, deal

__all__ = ["Indices", "deal"]
