"""SCAGC: clusters of cells on a graph that is learned with them."""

from hdeepinsight.models.scagc._model import SCAGC

__all__ = ["SCAGC"]
