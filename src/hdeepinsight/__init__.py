"""Hierarchical annotation of single cells from gene images.

Subpackages are imported on first use, because importing scvi-tools takes seconds.

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
    """Import a subpackage or name without garbage collection, which would slow it by a quarter."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        return _load(name)
    finally:
        if was_enabled:
            gc.enable()


__version__ = version("hdeepinsight")
__all__ += ["__version__"]
