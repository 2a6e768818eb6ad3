"""Neighbour graphs of cells and linear systems on them; knows arrays only."""

from hdeepinsight.graph._neighbors import nearest_neighbors

__all__ = ["nearest_neighbors"]
