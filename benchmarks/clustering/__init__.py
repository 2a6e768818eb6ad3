"""Datasets and methods that cluster cells without labels."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

#: Name of a method: module of this package and function. A function takes cells, the true number
#: of clusters and a seed, and returns ``labels`` and further figures.
METHODS: dict[str, str] = {
    "kmeans": "controls:kmeans",
    "leiden": "controls:leiden",
    "spectral": "controls:spectral",
}


def method(name: str) -> Callable[..., dict[str, Any]]:
    """Return the function of a method."""
    module, function = METHODS[name].split(":")
    return getattr(import_module(f"clustering.{module}"), function)
