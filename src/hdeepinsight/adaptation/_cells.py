"""Cells of a query in memory, and their probabilities from a network and from mean profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_matrix
from torch import Tensor

from hdeepinsight import nn
from hdeepinsight.adaptation._layers import use_adapters
from hdeepinsight.taxonomy import TreeAlgebra

PART_CELLS = 1024


@dataclass(frozen=True, eq=False)
class QueryCells:
    """Cells in memory, with sparse counts of the genes of a model.

    Parameters
    ----------
    counts
        Raw counts, shape ``(n_cells, n_genes)``.
    batch
        Batch code of each cell, shape ``(n_cells,)``; -1 for none.
    nodes
        Node of the label of each cell, 0 for none, shape ``(n_cells,)``.
    extra
        Further inputs of the network by name, arrays or tensors of shape ``(n_cells, ...)``.
    has_rna
        Whether RNA was measured in each cell, shape ``(n_cells,)``; ``None`` if in all cells.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> cells = QueryCells(csr_matrix(np.eye(3)), batch=np.zeros(3, int), nodes=np.zeros(3, int))
    >>> len(cells), sorted(cells[:2].tensors(torch.ones(3)))
    (3, ['counts', 'measured'])
    """

    counts: csr_matrix
    batch: np.ndarray
    nodes: np.ndarray
    extra: Mapping[str, Any] = field(default_factory=dict)
    has_rna: np.ndarray | None = None

    def __len__(self) -> int:
        return int(self.counts.shape[0])

    def __getitem__(self, rows: np.ndarray | slice) -> QueryCells:
        """Return some of the cells."""
        extra = {name: values[rows] for name, values in self.extra.items()}
        has_rna = None if self.has_rna is None else self.has_rna[rows]
        return QueryCells(self.counts[rows], self.batch[rows], self.nodes[rows], extra, has_rna)

    def parts(self, size: int = PART_CELLS) -> Iterator[tuple[slice, QueryCells]]:
        """Yield slices of at most ``size`` rows, and their cells."""
        for start in range(0, len(self), size):
            rows = slice(start, min(start + size, len(self)))
            yield rows, self[rows]

    def thinned(self, share: float, rng: np.random.Generator) -> QueryCells:
        """Return the cells with counts thinned to a share of their molecules; 1 keeps all."""
        if share == 1:
            return self
        return replace(self, counts=nn.thin_counts(self.counts, share, rng))

    def spread(self, n_cells: int) -> QueryCells:
        """Return at most ``n_cells`` of the cells, evenly spaced."""
        if len(self) <= n_cells:
            return self
        return self[np.unique(np.linspace(0, len(self) - 1, n_cells).astype(int))]

    def tensors(self, measured: Tensor, *, sparse: bool = False) -> dict[str, Any]:
        """Return the inputs of the network, on the device of ``measured``.

        Parameters
        ----------
        measured
            1 for the genes of the query, shape ``(n_genes,)``; of shape ``(n_cells, n_genes)`` in
            the result if cells lack RNA.
        sparse
            Return the inputs of a folded network: sparse counts, and ``has_rna`` instead of a mask
            per cell.
        """
        found: dict[str, Any] = {
            name: torch.as_tensor(values).to(measured) for name, values in self.extra.items()
        }
        if sparse:
            found["counts"] = nn.SparseCounts.of(self.counts, measured.device)
        else:
            found["counts"] = torch.from_numpy(self.counts.toarray()).to(measured)
        found["measured"] = measured
        if self.has_rna is not None:
            has_rna = torch.as_tensor(self.has_rna).to(measured).unsqueeze(1)
            found |= {"has_rna": has_rna} if sparse else {"measured": has_rna * measured}
        return found


def leaves_under(tree: TreeAlgebra) -> Tensor:
    """Return whether each leaf equals or descends from each node, ``(n_nodes, n_leaves)``."""
    return torch.tensor(tree.taxonomy.ancestor_matrix.T, device=tree.leaf_index.device)


def leaf_sums(module: Any, counts: csr_matrix, leaves: Tensor, measured: Tensor) -> nn.LeafSums:
    """Sum the log values of the cells of each leaf.

    Parameters
    ----------
    module
        Network with a ``normalizer`` and a ``tree``.
    counts
        Raw counts, shape ``(n_cells, n_genes)``.
    leaves
        Index of the leaf of each cell, -1 for none, shape ``(n_cells,)``; or probabilities of the
        leaves, shape ``(n_cells, n_leaves)``.
    measured
        1 for measured genes, shape ``(n_genes,)``.
    """
    sums = []
    for start in range(0, max(1, counts.shape[0]), PART_CELLS):
        rows = slice(start, start + PART_CELLS)
        part = torch.from_numpy(counts[rows].toarray()).to(measured.device)
        values = module.normalizer.log_normalize(part, measured).cpu()
        sums.append(nn.LeafSums.of(values, leaves[rows], len(module.tree.leaf_index), measured))
    return nn.LeafSums.sum(sums)


def reference_sums(
    module: Any,
    counts: csr_matrix,
    nodes: np.ndarray,
    batches: np.ndarray | None = None,
    panels: nn.GenePanels | None = None,
) -> list[nn.LeafSums]:
    """Sum the log values of the cells of each leaf of a reference, separately for each batch.

    Parameters
    ----------
    module
        Network with a ``normalizer`` and a ``tree``.
    counts
        Raw counts, shape ``(n_cells, n_genes)``.
    nodes
        Node of the label of each cell, shape ``(n_cells,)``; cells of inner nodes are ignored.
    batches
        Batch of each cell, shape ``(n_cells,)``; by default all cells are one batch.
    panels
        Genes that were measured in each cell; all by default.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.adaptation import reference_sums
    >>> module = hdi.hub.pull("pbmc").module
    >>> counts = csr_matrix(np.ones((3, 2048), dtype=np.float32))
    >>> leaf, donors = int(module.tree.leaf_index[0]), np.array(["a", "b", "b"])
    >>> [int(sums.n_cells[0]) for sums in reference_sums(module, counts, np.full(3, leaf), donors)]
    [1, 2]
    """
    leaves = torch.from_numpy(pd.Index(module.tree.taxonomy.leaves).get_indexer(nodes))
    panels = nn.GenePanels.one(*counts.shape) if panels is None else panels
    device, every = module.temperature.device, np.arange(len(nodes))
    parts = [every] if batches is None else [every[batches == b] for b in np.unique(batches)]

    def sums_of(rows: np.ndarray, measured: np.ndarray) -> nn.LeafSums:
        mask = torch.tensor(measured, dtype=torch.float32, device=device)
        return leaf_sums(module, counts[rows], leaves[rows], mask)

    return [nn.LeafSums.sum([sums_of(p[rows], m) for rows, m in panels[p]]) for p in parts]


@torch.no_grad()
def profile_probs(
    profiles: nn.LeafProfiles,
    cells: QueryCells,
    measured: Tensor,
    network: Tensor,
    *,
    skip: int = 0,
) -> Tensor:
    """Compute leaf probabilities by rank correlation with mean profiles.

    Parameters
    ----------
    profiles
        Mean profiles of the reference.
    cells
        Cells of the query.
    measured
        1 for the genes of the query, shape ``(n_genes,)``.
    network
        Leaf probabilities of the network, shape ``(n_cells, n_leaves)``, which are used without
        markers, RNA or profiles.
    skip
        Number of the best marker sets to skip; 1 selects markers that are not used otherwise.
    """
    matcher = nn.ProfileMatcher(profiles, measured.cpu(), skip=skip).to(measured.device)
    if not matcher.is_useful:
        return network
    found = []
    for rows, part in cells.parts():
        inputs = part.tensors(measured, sparse=True)
        has_rna = inputs.get("has_rna", measured)
        found.append(matcher.complete(network[rows], inputs["counts"], has_rna))
    return torch.cat(found)


@torch.no_grad()
def combined_probs(
    ensemble: nn.ProfileEnsemble | None,
    cells: QueryCells,
    measured: Tensor,
    network: Tensor,
    discriminant: float = 1.0,
) -> Tensor:
    """Combine leaf probabilities by a network with the profiles; ``None`` leaves them."""
    if ensemble is None:
        return network
    found = []
    for rows, part in cells.parts():
        counts = nn.SparseCounts.of(part.counts, measured.device)
        combined = ensemble.reading(counts, batch=part.batch)
        found.append(combined(network[rows], discriminant))
    return torch.cat(found)


@torch.no_grad()
def network_probs(module: Any, cells: QueryCells, measured: Tensor) -> Tensor:
    """Compute leaf probabilities of a network with its adapters, ``(n_cells, n_leaves)``."""
    module.eval()
    folded = module.folded(measured) if hasattr(module, "folded") else None
    found = []
    for _, part in cells.parts():
        inputs = part.tensors(measured, sparse=folded is not None)
        with use_adapters(module, part.batch):
            found.append((folded or module).predict(**inputs)["probabilities"])
    return torch.cat(found)[:, module.tree.leaf_index]
