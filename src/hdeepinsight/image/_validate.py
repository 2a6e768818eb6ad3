"""What makes a layout valid, and what to say when it is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def checked_genes(genes: Sequence[str]) -> tuple[str, ...]:
    if isinstance(genes, str):
        raise TypeError(
            f"The genes are the text {genes!r}, whose letters would be taken for genes. They must "
            "be a sequence of names. Pass a list, even for one gene."
        )
    names = tuple(genes)
    others = [name for name in names if not isinstance(name, str)]
    if others:
        strange = others[0]
        raise TypeError(
            f"{strange!r} is a {type(strange).__name__}. Gene names are strings. "
            "Pass the names, for example adata.var_names, not positions."
        )
    if not names:
        raise ValueError("There is no gene. A layout needs at least one. Check the gene selection.")
    if len(set(names)) < len(names):
        repeated = [name for name, count in Counter(names).items() if count > 1]
        raise ValueError(
            f"{len(repeated)} gene names occur more than once: {repeated[:5]}. Each gene has one "
            "pixel, so names must be unique. Merge or drop the repeated genes."
        )
    return tuple(map(str, names))


def checked_integers(pixel: npt.ArrayLike) -> npt.NDArray[np.int64]:
    values = np.asarray(pixel)
    if not np.issubdtype(values.dtype, np.integer):
        raise TypeError(
            f"The pixels are of dtype {values.dtype}. They must be integers, row * side + column. "
            "Convert them before building the layout."
        )
    return values.astype(np.int64)


def check_side(side: int, n_genes: int) -> int:
    whole = isinstance(side, int | np.integer) and not isinstance(side, bool)
    if not whole or side < 1 or side**2 < n_genes:
        raise ValueError(
            f"side={side!r} cannot hold {n_genes} genes. It must be an integer of at least "
            f"{int(np.ceil(np.sqrt(n_genes)))}. Choose a larger side, or leave it out."
        )
    return int(side)


def check_pixels(pixel: np.ndarray, n_genes: int, side: int) -> None:
    if pixel.shape != (n_genes,):
        raise ValueError(
            f"There are {n_genes} genes and pixels of shape {pixel.shape}. Each gene has exactly "
            "one pixel. Pass a flat list in the order of the genes."
        )
    if pixel.min() < 0 or pixel.max() >= side**2:
        raise ValueError(
            f"Pixels run from {pixel.min()} to {pixel.max()}. On {side} × {side} they must lie in "
            f"[0, {side**2 - 1}]. Choose a larger side or correct them."
        )
    values, counts = np.unique(pixel, return_counts=True)
    if len(values) < n_genes:
        raise ValueError(
            f"{int((counts > 1).sum())} pixels hold more than one gene, the first is pixel "
            f"{values[counts > 1][0]}. Each gene has a pixel of its own. Move one of the genes."
        )
