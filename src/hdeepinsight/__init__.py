"""Hierarchical annotation of single cells from gene images.

Examples
--------
>>> import hdeepinsight as hdi
>>> hdi.Taxonomy.immune().n_leaves
50
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdeepinsight import annotation, data, datasets, hub, metrics, pl, pp, report, tl
    from hdeepinsight._workflow import annotate
    from hdeepinsight.annotation import Annotation
    from hdeepinsight.explanation import Explanation
    from hdeepinsight.image import GeneLayout
    from hdeepinsight.models import SCHDeepInsight
    from hdeepinsight.nn import CountThinning, GeneMasking, ModalityDropout
    from hdeepinsight.taxonomy import Taxonomy

__version__ = version("hdeepinsight")

__all__ = [
    "Annotation",
    "CountThinning",
    "Explanation",
    "GeneLayout",
    "GeneMasking",
    "ModalityDropout",
    "SCHDeepInsight",
    "Taxonomy",
    "__version__",
    "annotate",
    "annotation",
    "data",
    "datasets",
    "hub",
    "metrics",
    "pl",
    "pp",
    "report",
    "tl",
]

_HOMES = {
    "Annotation": "annotation",
    "CountThinning": "nn",
    "Explanation": "explanation",
    "GeneLayout": "image",
    "GeneMasking": "nn",
    "ModalityDropout": "nn",
    "SCHDeepInsight": "models",
    "Taxonomy": "taxonomy",
    "annotate": "_workflow",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the model needs scvi-tools, which takes seconds to load."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
