"""Hierarchical annotation of single cells from gene images.

Rooms and names are loaded when they are first used: scvi-tools takes seconds to import.

Examples
--------
>>> import hdeepinsight as hdi
>>> hdi.Taxonomy.immune().n_leaves
50
"""

from importlib.metadata import version

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = version("hdeepinsight")
__all__ += ["__version__"]
