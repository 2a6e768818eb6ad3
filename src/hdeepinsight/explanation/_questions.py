"""What is asked: nodes of a taxonomy, as weights on the scores of its edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hdeepinsight.taxonomy import Taxonomy

Target = Literal["conditional", "joint", "logit"]


@dataclass(frozen=True, eq=False)
class Questions:
    r"""Nodes to explain, and what of each.

    Parameters
    ----------
    taxonomy
        The tree.
    nodes
        Nodes to explain, int64, shape ``(n_questions,)``.
    against
        Node that all of them are contrasted with; ``None`` for none.
    target
        ``"conditional"``: log-probability of the node given its parent, that is, against its
        siblings. ``"joint"``: log-probability of the node. ``"logit"``: its score before siblings
        are compared.

    Raises
    ------
    ValueError
        If the target is unknown, or no question is left: the root, a node against itself, or
        logits of two nodes, which share no zero.

    Notes
    -----
    Every target is a weighted sum of one score an edge: the conditional log-probabilities
    :math:`c`, or the logits. ``"joint"`` adds up the path. A contrast is
    :math:`\log P(v) - \log P(w)`: ancestors that both share cancel, so that ``"conditional"`` and
    ``"joint"`` are the same. An only child is as probable as its parent; its ``"conditional"``
    is that of the lowest ancestor that has siblings.

    Examples
    --------
    >>> from hdeepinsight.taxonomy import Taxonomy
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["B cell"]})
    >>> Questions.of(tax, ["CD4", "B cell"]).weights
    array([[0., 0., 1., 0., 0.],
           [0., 1., 0., 0., 0.]], dtype=float32)
    >>> Questions.of(tax, "CD4", against="B").weights
    array([[ 1., -1.,  1.,  0.,  0.]], dtype=float32)
    """

    taxonomy: Taxonomy
    nodes: np.ndarray
    against: int | None = None
    target: Target = "conditional"

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            msg = f"target={self.target!r}; valid are {', '.join(get_args(Target))}. Choose one."
            raise ValueError(msg)
        asked = self.nodes.tolist() + ([] if self.against is None else [self.against])
        if 0 in asked:
            msg = "The root has probability 1 for every cell. Valid are nodes below it. Name one."
            raise ValueError(msg)
        if self.against in self.nodes.tolist():
            name = self.taxonomy.path_name(asked[-1])
            msg = f"{name!r} stands against itself. Valid are two nodes. Name another one."
            raise ValueError(msg)
        if self.against is not None and self.target == "logit":
            msg = (
                "target='logit' was asked for a contrast, but logits of different families share "
                "no zero. Valid are 'conditional' and 'joint', the log-odds of both nodes. Use one."
            )
            raise ValueError(msg)

    @classmethod
    def of(
        cls,
        taxonomy: Taxonomy,
        nodes: str | Sequence[str],
        *,
        against: str | None = None,
        target: Target = "conditional",
    ) -> Questions:
        """Resolve names, synonyms or paths by :meth:`~hdeepinsight.taxonomy.Taxonomy.resolve`.

        Examples
        --------
        >>> from hdeepinsight.explanation import Questions
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Questions.of(tree, ["CD4", "B"]).names
        ('T > CD4', 'B')
        """
        given = [nodes] if isinstance(nodes, str) else list(nodes)
        if not given:
            msg = "nodes is empty. Valid is one name of a node or more. Name one, or leave it out."
            raise ValueError(msg)
        found = np.array([taxonomy.resolve(name) for name in given], dtype=np.int64)
        rival = None if against is None else taxonomy.resolve(against)
        return cls(taxonomy, found, rival, target)

    @classmethod
    def at_level(
        cls, taxonomy: Taxonomy, level: int | str | None, *, target: Target = "conditional"
    ) -> Questions:
        """All nodes of a level, with leaves that end above it; all leaves by default.

        Examples
        --------
        >>> from hdeepinsight.explanation import Questions
        >>> from hdeepinsight.taxonomy import Taxonomy
        >>> tree = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> Questions.at_level(tree, 1).names
        ('T', 'B')
        """
        depth = taxonomy.max_depth if level is None else taxonomy.level_depth(level)
        if depth == 0:
            msg = (
                "Level 0 is the root, which has probability 1 for every cell. Valid are levels "
                f"from 1 to {taxonomy.max_depth}. Name one."
            )
            raise ValueError(msg)
        table = taxonomy.node_at_level[taxonomy.leaves, :depth]
        return cls(taxonomy, np.unique(table.max(axis=1)), None, target)

    @cached_property
    def weights(self) -> np.ndarray:
        """Weight of every edge's score, float32, shape ``(n_questions, n_edges)``."""
        weights = np.zeros((len(self.nodes), self.taxonomy.n_edges), dtype=np.float32)
        for row, node in zip(weights, self.nodes.tolist(), strict=True):
            row[self._edges(node)] = 1.0
            if self.against is not None:
                row[self.taxonomy.ancestors(self.against) - 1] -= 1.0
        return weights

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Path of every node in text."""
        return tuple(self.taxonomy.path_name(node) for node in self.nodes.tolist())

    @cached_property
    def holds(self) -> np.ndarray:
        """Whether a leaf is at or under each node, shape ``(n_leaves, n_questions)``."""
        return np.asarray(self.taxonomy.ancestor_matrix[:, self.nodes])

    def __len__(self) -> int:
        return len(self.nodes)

    def _edges(self, node: int) -> np.ndarray:
        """Edges whose scores are added up."""
        path = self.taxonomy.ancestors(node)
        if self.target == "joint" or self.against is not None:
            return path - 1
        if self.target == "conditional":
            siblings = self.taxonomy.n_children[self.taxonomy.parent[path]]
            choices = path[siblings > 1]
            path = choices if len(choices) else path
        return path[-1:] - 1
