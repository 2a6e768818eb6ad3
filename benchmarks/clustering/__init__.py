"""Datasets and methods that cluster cells without labels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

#: Name of a method: module of this package and function, and
#: a privacy budget where the function takes one. A function takes cells, the true number
#: of clusters and a seed, and returns ``labels``, ``labels_<rule>`` of further rules, and
#: further figures.
METHODS: dict[str, str] = {
    "kmeans": "controls:kmeans",
    "leiden": "controls:leiden",
    "spectral": "controls:spectral",
    **{
        name: f"sce2tm:{name}"
        for name in ("sce2tm", "sce2tm_alone", "sce2tm_permuted", "sce2tm_no_transport")
    },
    "nmf": "sce2tm:nmf",
    "ldvae": "sce2tm:ldvae",
    "scagc": "scagc:cluster",
    **{f"scagc_{name}": f"scagc:{name}" for name in ("static", "random", "one_phase")},
    "no_projection": "dpdcan:no_projection",
    "random_projection": "dpdcan:random_projection",
    **{f"dp_pca_{epsilon}": f"dpdcan:dp_pca:{epsilon}" for epsilon in (1, 2, 4, 8)},
    **{f"dp_pca_centred_{epsilon}": f"dpdcan:dp_pca_centred:{epsilon}" for epsilon in (1, 2, 4, 8)},
    **{f"dpdcan_{epsilon}": f"dpdcan:dpdcan:{epsilon}" for epsilon in (1, 4)},
    "dpdcan": "dpdcan:dpdcan",
}


def method(name: str) -> Callable[..., dict[str, Any]]:
    """Return the function of a method."""
    module, function, *budget = METHODS[name].split(":")
    found = getattr(import_module(f"clustering.{module}"), function)
    return partial(found, epsilon=float(budget[0])) if budget else found
