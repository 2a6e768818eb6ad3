"""Define the targets and the background of an explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from hdeepinsight._errors import check_choice
from hdeepinsight.data import AlignedQuery
from hdeepinsight.nn import LeafProfiles
from hdeepinsight.taxonomy import Taxonomy

TargetKind = Literal["conditional", "joint", "logit"]


@dataclass(frozen=True, eq=False)
class Targets:
    r"""Nodes to explain, and the kind of output.

    Parameters
    ----------
    taxonomy
        Taxonomy of the model.
    nodes
        Nodes to explain, int64, shape ``(n_targets,)``.
    against
        Alternative node of all targets; ``None`` for no alternative.
    kind
        ``"conditional"``: log-probability of the node given its parent, compared with its siblings.
        ``"joint"``: log-probability of the node. ``"logit"``: logit of the node before the softmax
        over siblings.

    Raises
    ------
    ValueError
        If the kind is unknown, or a target is meaningless: the root, a node against itself, or a
        difference of logits from different sibling groups, which are not comparable.

    Notes
    -----
    Each target is a weighted sum of one score per edge: of conditional log-probabilities, or of
    logits. ``"joint"`` is the sum along the path. With an alternative, the target is
    :math:`\log P(v) - \log P(w)`. Common ancestors cancel, so that ``"conditional"`` and
    ``"joint"`` are the same. An only child has the probability of its parent; its ``"conditional"``
    is that of its closest ancestor with siblings.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["B cell"]})
    >>> Targets.of(tax, ["CD4", "B cell"]).weights
    array([[0., 0., 1., 0., 0.],
           [0., 1., 0., 0., 0.]], dtype=float32)
    >>> Targets.of(tax, "CD4", against="B").weights
    array([[ 1., -1.,  1.,  0.,  0.]], dtype=float32)
    """

    taxonomy: Taxonomy
    nodes: np.ndarray
    against: int | None = None
    kind: TargetKind = "conditional"

    def __post_init__(self) -> None:
        check_choice("target", self.kind, get_args(TargetKind))
        asked = self.nodes.tolist() + ([] if self.against is None else [self.against])
        if 0 in asked:
            raise ValueError("The root has probability 1 for every cell. Pass a node below it.")
        if self.against in self.nodes.tolist():
            name = self.taxonomy.path_name(asked[-1])
            raise ValueError(f"A node cannot be explained against itself: {name!r}. Pass another.")
        if self.against is not None and self.kind == "logit":
            raise ValueError(
                "target must not be 'logit' with against=, because logits of different sibling "
                "groups are not comparable. Use 'conditional' or 'joint' to explain log-odds."
            )

    @classmethod
    def of(
        cls,
        taxonomy: Taxonomy,
        nodes: str | Sequence[str] | None = None,
        *,
        against: str | None = None,
        level: int | str | None = None,
        kind: TargetKind = "conditional",
    ) -> Targets:
        """Build targets from names of nodes, or from all nodes of a level.

        Parameters
        ----------
        taxonomy
            Taxonomy of the model.
        nodes, against
            Names, synonyms or paths, as in :meth:`~hdeepinsight.taxonomy.Taxonomy.resolve`.
        level
            Without ``nodes``: all nodes of this level, by depth or name, and leaves above it; by
            default all leaves.
        kind
            As in the class.

        Raises
        ------
        ValueError
            If a node or level is unknown, or the arguments are incompatible.

        Examples
        --------
        >>> from hdeepinsight.explanation import Targets
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Targets.of(tree, ["CD4", "B"]).names
        ('T > CD4', 'B')
        >>> Targets.of(tree, level=1).names
        ('T', 'B')
        """
        if nodes is None and against is None:
            depth = taxonomy.max_depth if level is None else taxonomy.level_depth(level)
            if depth == 0:
                hint = f"Pass a level from 1 to {taxonomy.max_depth}."
                raise ValueError(f"Level 0 is the root, with probability 1 for every cell. {hint}")
            table = taxonomy.node_at_level[taxonomy.leaves, :depth]
            return cls(taxonomy, np.unique(table.max(axis=1)), None, kind)
        if nodes is None or level is not None:
            found = "against without nodes" if nodes is None else "nodes and level"
            found += ". Name the nodes, or omit both."
            raise ValueError(f"Pass nodes, with or without against, or level alone, got {found}")
        names = [nodes] if isinstance(nodes, str) else list(nodes)
        if not names:
            raise ValueError("nodes is empty. Pass at least one node, or omit it.")
        resolved = np.array([taxonomy.resolve(name) for name in names], dtype=np.int64)
        rival = None if against is None else taxonomy.resolve(against)
        return cls(taxonomy, resolved, rival, kind)

    @cached_property
    def weights(self) -> np.ndarray:
        """Weights of the scores of edges, float32, shape ``(n_targets, n_edges)``."""
        weights = np.zeros((len(self.nodes), self.taxonomy.n_edges), dtype=np.float32)
        for row, node in zip(weights, self.nodes.tolist(), strict=True):
            path = self.taxonomy.ancestors(node)
            if self.kind == "conditional" and self.against is None:
                choices = path[self.taxonomy.n_children[self.taxonomy.parent[path]] > 1]
                path = choices if len(choices) else path
            one = self.kind != "joint" and self.against is None
            row[(path[-1:] if one else path) - 1] = 1.0
            if self.against is not None:
                row[self.taxonomy.ancestors(self.against) - 1] -= 1.0
        return weights

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Path of each node as text."""
        return tuple(self.taxonomy.path_name(node) for node in self.nodes.tolist())

    @cached_property
    def is_member(self) -> np.ndarray:
        """Whether each leaf is at or below each node, shape ``(n_leaves, n_targets)``."""
        return np.asarray(self.taxonomy.ancestor_matrix[:, self.nodes])

    def scores(self, module: Any, logits: Tensor) -> Tensor:
        """Return the scores of edges, shape ``(n_cells, n_edges)``."""
        if self.kind == "logit":
            found: Tensor = logits / module.temperature[module.tree.edge_depth - 1]
        else:
            found = module.generative(logits)["conditional"]
        return found

    def pairs(
        self, leaves: np.ndarray, *, every: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return pairs of a cell and a target, and whether the cell is predicted as the target.

        With ``every``, each cell is paired with each target, otherwise with the one of its leaf.
        """
        is_member = self.is_member[leaves]
        cell, target = np.arange(len(leaves)), is_member.argmax(axis=1)
        if every:
            cell, target = np.tile(cell, len(self)), np.repeat(np.arange(len(self)), len(cell))
        return cell, target, is_member[cell, target]

    def __len__(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True, eq=False)
class Background:
    """Background cells: raw counts of an equal number of cells per type.

    Parameters
    ----------
    counts
        Counts with the model's genes, CSR, shape ``(per_type * n_types, n_genes)``. Row
        ``i * n_types + j`` is cell ``i`` of type ``j``.
    measured
        Whether each gene was measured in the background, shape ``(n_genes,)``.
    per_type, n_types
        Number of cells per type, and number of types.
    source
        Description of the origin of the cells.

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


def background_from_cells(
    query: AlignedQuery, nodes: np.ndarray, *, per_type: int, seed: int, source: str
) -> Background:
    """Draw an equal number of cells per node, with repeated cells of rare types.

    Parameters
    ----------
    query
        Cells, aligned to the genes of the model.
    nodes
        Node of each cell, 0 for unlabelled cells, shape ``(n_cells,)``.
    per_type
        Number of cells per node.
    seed
        Random seed.
    source
        Description of the origin of the cells.

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
    >>> read = reference.X.__getitem__
    >>> opened = SimpleNamespace(measured=np.ones(765, dtype=bool), read=read)
    >>> nodes = reference.obs["lineage"].cat.codes.to_numpy() + 1
    >>> drawn = hdi.explanation.background_from_cells(
    ...     opened, nodes, per_type=2, seed=0, source="the demo's reference"
    ... )
    >>> drawn.counts.shape, str(drawn)
    ((10, 765), "2 × 5 types, the demo's reference")
    """
    types = np.unique(nodes[nodes > 0])
    if not len(types):
        hint = "Pass labelled cells as background."
        raise ValueError(f"Background cells must have a type, got none in {source}. {hint}")
    rng = np.random.default_rng(seed)
    drawn = []
    for node in types:  # all cells of a type are drawn equally often, up to one
        cells = np.flatnonzero(nodes == node)
        rounds = [rng.permutation(cells) for _ in range(-(-per_type // len(cells)))]
        drawn.append(np.concatenate(rounds)[:per_type])
    counts = query.read(np.stack(drawn, axis=1).ravel())
    return Background(counts, query.measured, per_type, len(types), source)


def background_from_profiles(profiles: LeafProfiles, *, per_type: int, seed: int) -> Background:
    """Draw synthetic cells from the mean profile of each type.

    Counts are Poisson-distributed with rates from the mean log values. Such cells are as sparse as
    real ones, but differ within a type only by chance.

    Parameters
    ----------
    profiles
        Mean log values of the leaves.
    per_type
        Number of cells per leaf.
    seed
        Random seed.

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
