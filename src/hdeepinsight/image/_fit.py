"""How a layout is found: profiles, plane, rectangle, grid, pixels, report."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from threadpoolctl import threadpool_limits

from hdeepinsight.image._assign import CROWDED, assign_pixels
from hdeepinsight.image._embed import EmbeddingMethod, embed_genes
from hdeepinsight.image._profiles import gene_profiles
from hdeepinsight.image._rectangle import align_to_rectangle, scale_to_grid
from hdeepinsight.image._report import displacement, neighbors_kept

LayoutMethod = Literal["tsne", "umap", "mde", "random"]
Equalize = Literal["auto", "always", "never"]
Report = dict[str, float]


def default_side(n_genes: int) -> int:
    """Return the smallest multiple of 8 whose square holds all genes."""
    side = math.isqrt(n_genes - 1) + 1
    return 8 * math.ceil(side / 8)


def random_pixels(n_genes: int, side: int, seed: int) -> np.ndarray:
    """Draw distinct pixels at random, int64 ``(n_genes,)``."""
    return np.random.default_rng(seed).permutation(side * side)[:n_genes]


def fit_pixels(
    x: Any, side: int, *, method: LayoutMethod, equalize: Equalize, seed: int
) -> tuple[np.ndarray, Report]:
    """Place the genes of an expression matrix ``(n_cells, n_genes)`` on a ``side × side`` grid.

    Genes without any expression have no profile. They take the pixels that the others leave free,
    from the rim inwards, in the order of the genes.

    Returns
    -------
    Row-major pixels ``(n_genes,)`` and the report.
    """
    check_choice("method", method, get_args(LayoutMethod))
    check_choice("equalize", equalize, get_args(Equalize))
    # One thread: sums over threads differ in the last bit with the number of cores, and an
    # embedding amplifies that to another picture for the same seed.
    with threadpool_limits(limits=1):
        profiles, expressed = gene_profiles(x, seed=seed)
        random = random_pixels(len(expressed), side, seed)
        pixel, moved = random, Report()
        if method != "random":
            pixel, moved = _fit_expressed(profiles, expressed, side, method, equalize, seed)
        return pixel, {
            **moved,
            "occupancy": len(pixel) / side**2,
            "silent_genes": int((~expressed).sum()),
            "neighbors_kept": neighbors_kept(profiles, pixel[expressed], side),
            "neighbors_kept_random": neighbors_kept(profiles, random[expressed], side),
        }


def check_choice(name: str, value: str, valid: tuple[str, ...]) -> None:
    """Refuse a mode that does not exist, and list those that do."""
    if value not in valid:
        options = ", ".join(repr(option) for option in valid)
        raise ValueError(f"{name}={value!r} is not known. Valid are {options}. Choose one of them.")


def _fit_expressed(
    profiles: np.ndarray,
    expressed: np.ndarray,
    side: int,
    method: EmbeddingMethod,
    equalize: Equalize,
    seed: int,
) -> tuple[np.ndarray, Report]:
    crowded = len(profiles) > CROWDED * side**2
    coords = scale_to_grid(
        align_to_rectangle(embed_genes(profiles, method, seed=seed)),
        side,
        equalize=crowded if equalize == "auto" else equalize == "always",
    )
    pixel = np.empty(len(expressed), dtype=np.int64)
    pixel[expressed] = assign_pixels(coords, side)
    silent = int((~expressed).sum())
    pixel[~expressed] = rim_first(np.setdiff1d(np.arange(side**2), pixel[expressed]), side)[:silent]
    return pixel, displacement(coords, pixel[expressed], side)


def rim_first(pixels: np.ndarray, side: int) -> np.ndarray:
    """Order pixels by their distance to the edge of the image, then by index."""
    row, column = np.divmod(pixels, side)
    to_edge = np.minimum.reduce([row, column, side - 1 - row, side - 1 - column])
    return pixels[np.lexsort((pixels, to_edge))]
