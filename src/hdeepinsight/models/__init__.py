"""Models, one folder each."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdeepinsight.models._file._errors import ModelFileError
    from hdeepinsight.models.schdeepinsight import (
        AdaptationFigures,
        AdaptationReport,
        AdaptedSCHDeepInsight,
        SCHDeepInsight,
        convert_model,
    )

__all__ = [
    "AdaptationFigures",
    "AdaptationReport",
    "AdaptedSCHDeepInsight",
    "ModelFileError",
    "SCHDeepInsight",
    "convert_model",
]

_HOMES = dict.fromkeys(__all__, "schdeepinsight") | {"ModelFileError": "_file._errors"}


def __getattr__(name: str) -> Any:
    """Import on first use: looking into the folder of a model needs no network."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
