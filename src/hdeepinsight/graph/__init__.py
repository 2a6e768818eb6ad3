"""Neighbour graphs of cells and linear systems on them; knows arrays only."""

__all__: list[str] = []
