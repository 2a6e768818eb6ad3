"""Models, one folder each."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hdeepinsight.models._base._io import ModelFileError, ModelFolder
    from hdeepinsight.models._base._registry import convert_model, load_model, model_class
    from hdeepinsight.models.schdeepinsight import (
        AdaptationFigures,
        AdaptationReport,
        AdaptedSCHDeepInsight,
        SCHDeepInsight,
    )

__all__ = [
    "AdaptationFigures",
    "AdaptationReport",
    "AdaptedSCHDeepInsight",
    "ModelFileError",
    "ModelFolder",
    "SCHDeepInsight",
    "convert_model",
    "load_model",
    "model_class",
]

_HOMES = {
    **dict.fromkeys(__all__, "schdeepinsight"),
    **dict.fromkeys(("ModelFileError", "ModelFolder"), "_base._io"),
    **dict.fromkeys(("convert_model", "load_model", "model_class"), "_base._registry"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: looking into the folder of a model needs no network."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
