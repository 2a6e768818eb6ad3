"""Hierarchical annotation of single cells from gene images."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("hdeepinsight")
