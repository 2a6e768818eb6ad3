"""What the explained cells are compared with: as many cells of every type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from hdeepinsight.data import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hdeepinsight.data import CountSource, GeneAlignment
    from hdeepinsight.nn import LeafProfiles


@dataclass(frozen=True, eq=False)
class Background:
    """Raw counts of as many cells of every type, types running fastest.

    Parameters
    ----------
    counts
        In the order of the model's genes, shape ``(per_type * n_types, n_genes)``.
    measured
        Whether each gene was measured in them, shape ``(n_genes,)``.
    per_type, n_types
        How many cells of how many types.
    source
        Where they come from.
    """

    counts: sparse.csr_matrix
    measured: np.ndarray
    per_type: int
    n_types: int
    source: str

    def __str__(self) -> str:
        return f"{self.per_type} × {self.n_types} types, {self.source}"

    def check_genes(self, measured: np.ndarray, genes: Sequence[str]) -> None:
        """Raise ``InputError`` if the query has genes that these cells lack.

        Their absence would count as not expressed, and the genes as reasons.
        """
        lacking = np.flatnonzero(measured & ~self.measured)
        if len(lacking):
            names = ", ".join(genes[i] for i in lacking[:5])
            raise InputError(
                f"The background lacks {len(lacking):,} genes that the query has ({names}).",
                "Valid is a background that has every gene of the query.",
                "Pass other cells, or a query without these genes.",
            )


def background_from_cells(
    source: CountSource,
    alignment: GeneAlignment,
    nodes: np.ndarray,
    *,
    per_type: int,
    seed: int,
    name: str,
) -> Background:
    """Draw as many cells of every node; cells of rare types more than once.

    Raises
    ------
    ValueError
        If no cell has a node.
    """
    types = np.unique(nodes[nodes > 0])
    if not len(types):
        msg = (
            f"No cell of {name} has a type. Valid are cells with a label that the taxonomy knows. "
            "Pass others as background."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    rows = np.stack([_draw(rng, np.flatnonzero(nodes == node), per_type) for node in types], 1)
    wanted, inverse = np.unique(rows.ravel(), return_inverse=True)
    parts = [
        chunk[wanted[(wanted >= cells.start) & (wanted < cells.stop)] - cells.start]
        for cells, chunk in source.chunks(alignment)
    ]
    counts = sparse.vstack(parts, format="csr")[inverse]
    return Background(counts, np.asarray(alignment.measured), per_type, len(types), name)


def background_from_profiles(profiles: LeafProfiles, *, per_type: int, seed: int) -> Background:
    """Draw cells from the mean profile of every type that has one.

    Counts are Poisson around the mean log values turned back: such cells are as sparse as real
    ones, but differ within a type by chance alone.
    """
    known = (profiles.n_cells > 0).nonzero().ravel()
    rates = profiles.mean[known].double().expm1().repeat(per_type, 1)
    generator = torch.Generator().manual_seed(seed)
    counts = torch.poisson(rates, generator).float().numpy()
    return Background(
        sparse.csr_matrix(counts),
        np.ones(counts.shape[1], dtype=bool),
        per_type,
        len(known),
        "drawn from the mean profiles in the model",
    )


def _draw(rng: np.random.Generator, rows: np.ndarray, n: int) -> np.ndarray:
    """Return n of these rows, each as often as any other, or once more."""
    rounds = [rng.permutation(rows) for _ in range(-(-n // len(rows)))]
    return np.concatenate(rounds)[:n]
