"""Hierarchical annotation of single cells from gene images.

Rooms and names are loaded when they are first used: scvi-tools takes seconds to import.

Examples
--------
>>> import hdeepinsight as hdi
>>> hdi.Taxonomy.immune().n_leaves
50
"""

import gc
from importlib.metadata import version
from typing import Any

import lazy_loader

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Load a room; what imports make is no garbage, and looking for some takes a quarter longer."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _load(name)
    finally:
        if was_enabled:
            gc.enable()


__version__ = version("hdeepinsight")
__all__ += ["__version__"]
