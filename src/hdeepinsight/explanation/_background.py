"""What the explained cells are compared with: as many cells of every type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse

from hdeepinsight.data import AlignedQuery, InputError
from hdeepinsight.nn import LeafProfiles


@dataclass(frozen=True, eq=False)
class Background:
    """Raw counts of as many cells of every type, types running fastest.

    Parameters
    ----------
    counts
        In the order of the model's genes, CSR, shape ``(per_type * n_types, n_genes)``.
    measured
        Whether each gene was measured in them, shape ``(n_genes,)``.
    per_type, n_types
        How many cells of how many types.
    source
        Where they come from, in words.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.explanation import Background
    >>> counts = csr_matrix(np.eye(4, dtype=np.float32))
    >>> str(Background(counts, np.ones(4, dtype=bool), 2, 2, "the reference"))
    '2 × 2 types, the reference'
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
        if len(lacking := np.flatnonzero(measured & ~self.measured)):
            names = ", ".join(genes[i] for i in lacking[:5])
            raise InputError(
                f"The background lacks {len(lacking):,} genes that the query has ({names}).",
                "It must have every gene of the query.",
                "Pass other cells, or a query without these genes.",
            )


def background_from_cells(
    query: AlignedQuery, nodes: np.ndarray, *, per_type: int, seed: int, source: str
) -> Background:
    """Draw as many cells of every node; cells of rare types more than once.

    Parameters
    ----------
    query
        Cells, aligned to the genes of the model.
    nodes
        Node of every cell, 0 for cells without one, shape ``(n_cells,)``.
    per_type
        Cells of every node.
    seed
        Seed of the draw.
    source
        Where the cells come from, in words.

    Raises
    ------
    ValueError
        If no cell has a node.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> import hdeepinsight as hdi
    >>> reference = hdi.datasets.demo().reference
    >>> chunk = slice(0, reference.n_obs), reference.X
    >>> opened = SimpleNamespace(measured=np.ones(765, dtype=bool), chunks=lambda: [chunk])
    >>> nodes = reference.obs["lineage"].cat.codes.to_numpy() + 1
    >>> drawn = hdi.explanation.background_from_cells(
    ...     opened, nodes, per_type=2, seed=0, source="the demo's reference"
    ... )
    >>> drawn.counts.shape, str(drawn)
    ((10, 765), "2 × 5 types, the demo's reference")
    """
    types = np.unique(nodes[nodes > 0])
    if not len(types):
        raise ValueError(
            f"No cell of {source} has a type that the taxonomy knows. Pass labelled cells as "
            "background."
        )
    rng = np.random.default_rng(seed)
    drawn = []
    for node in types:  # every cell of a type as often as any other, or once more
        cells = np.flatnonzero(nodes == node)
        rounds = [rng.permutation(cells) for _ in range(-(-per_type // len(cells)))]
        drawn.append(np.concatenate(rounds)[:per_type])
    wanted, inverse = np.unique(np.stack(drawn, axis=1).ravel(), return_inverse=True)
    parts = [
        chunk[wanted[(wanted >= rows.start) & (wanted < rows.stop)] - rows.start]
        for rows, chunk in query.chunks()
    ]
    counts = sparse.vstack(parts, format="csr")[inverse]
    return Background(counts, query.measured, per_type, len(types), source)


def background_from_profiles(profiles: LeafProfiles, *, per_type: int, seed: int) -> Background:
    """Draw cells from the mean profile of every type that has one.

    Counts are Poisson around the mean log values turned back: such cells are as sparse as real
    ones, but differ within a type by chance alone.

    Parameters
    ----------
    profiles
        Mean log values of the leaves.
    per_type
        Cells of every leaf.
    seed
        Seed of the draw.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.explanation import background_from_profiles
    >>> from hdeepinsight.nn import LeafProfiles
    >>> profiles = LeafProfiles(torch.ones(2, 3), torch.tensor([5.0, 0.0]))
    >>> background_from_profiles(profiles, per_type=4, seed=0).counts.shape
    (4, 3)
    """
    known = (profiles.n_cells > 0).nonzero().ravel()
    rates = profiles.mean[known].double().expm1().repeat(per_type, 1)
    generator = torch.Generator().manual_seed(seed)
    counts = sparse.csr_matrix(torch.poisson(rates, generator).float().numpy())
    measured = np.ones(counts.shape[1], dtype=bool)
    source = "drawn from the mean profiles in the model"
    return Background(counts, measured, per_type, len(known), source)
