"""Node log-probabilities of a taxonomy in torch."""

import numpy as np
import torch
from torch import Tensor, nn

from hdeepinsight.taxonomy._taxonomy import Taxonomy


class TreeAlgebra(nn.Module):
    """Module that turns one logit per edge into the log-probability of each node.

    Edge ``e`` leads to node ``e + 1``. The module has no weights. Its tables are non-persistent
    buffers, since they follow from the taxonomy.

    Parameters
    ----------
    taxonomy
        Taxonomy with V nodes, E = V - 1 edges, L levels and one sibling group per inner node.

    Attributes
    ----------
    leaf_index
        Nodes that are leaves, int64, shape ``(n_leaves,)``.
    edge_depth
        Level (1..L) of the node that each edge leads to, int64, shape ``(E,)``.
    group_of_edge
        Sibling group of each edge, int64, shape ``(E,)``; an index of ``taxonomy.groups``.
    group_size
        Number of siblings in each group, int64, shape ``(n_groups,)``.
    node_at_level
        Ancestor-or-self of each node at level 1..L, -1 below it; int64, shape ``(V, L)``.

    Raises
    ------
    ValueError
        If `node_at_level` would take more than 512 MB because the tree is very deep.

    Notes
    -----
    The probabilities of children sum to that of their parent by construction:
    ``P(v) = P(parent) · softmax(logits)_v`` over the siblings. The forward pass, and the backward
    pass of the softmax, are deterministic, since each edge is gathered exactly once. Source: our
    design.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tax = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> algebra = TreeAlgebra(tax)
    >>> algebra(torch.zeros(1, 4)).exp()
    tensor([[1.0000, 0.5000, 0.5000, 0.2500, 0.2500]])
    """

    leaf_index: Tensor
    edge_depth: Tensor
    group_of_edge: Tensor
    group_size: Tensor
    node_at_level: Tensor
    _by_size: Tensor
    _from_size: Tensor
    _jumps: Tensor

    def __init__(self, taxonomy: Taxonomy) -> None:
        super().__init__()
        self.taxonomy = taxonomy
        sizes = taxonomy.n_children[taxonomy.inner_nodes]
        group_of_edge = np.repeat(np.arange(len(sizes)), sizes)
        # Sort edges by the size of their group, so that groups of equal size form a dense block.
        by_size = np.argsort(sizes[group_of_edge], kind="stable")
        distinct, n_groups = np.unique(sizes, return_counts=True)
        self._blocks = list(zip(distinct.tolist(), n_groups.tolist(), strict=True))
        # Ancestors 1, 2, 4, ... steps above each node, at most up to the root.
        jumps = np.empty((0, taxonomy.n_nodes), dtype=np.int64)
        ancestor = np.maximum(taxonomy.parent, 0).astype(np.int64)
        while 2 ** len(jumps) < taxonomy.max_depth:
            jumps = np.vstack([jumps, ancestor])
            ancestor = ancestor[ancestor]
        tables = {"leaf_index": taxonomy.leaves, "edge_depth": taxonomy.depth[1:]}
        tables |= {"group_of_edge": group_of_edge, "group_size": sizes}
        tables |= {"node_at_level": taxonomy.node_at_level, "_jumps": jumps}
        tables |= {"_by_size": by_size, "_from_size": np.argsort(by_size)}
        for name, table in tables.items():
            buffer = torch.tensor(table, dtype=torch.int64)
            self.register_buffer(name, buffer, persistent=False)

    def conditional_log_probs(self, logits: Tensor) -> Tensor:
        """Compute the log-softmax within each sibling group.

        Parameters
        ----------
        logits
            One logit per edge, shape ``(..., E)``. Half precision is converted to float32, in which
            sums over siblings are exact to 1e-6.

        Returns
        -------
        torch.Tensor
            Log-probability of each node given its parent, shape ``(..., E)``; 0 for a single child.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
        >>> algebra = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
        >>> algebra.conditional_log_probs(torch.zeros(1, 4)).exp()
        tensor([[0.5000, 0.5000, 0.5000, 0.5000]])
        """
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        widths = [size * count for size, count in self._blocks]
        blocks = torch.split_with_sizes(logits.index_select(-1, self._by_size), widths, dim=-1)
        normalised = [
            block.reshape(*block.shape[:-1], count, size).log_softmax(dim=-1).flatten(-2)
            for block, (size, count) in zip(blocks, self._blocks, strict=True)
        ]
        return torch.cat(normalised, dim=-1).index_select(-1, self._from_size)

    def node_log_probs(self, conditional: Tensor) -> Tensor:
        """Compute the log-probability of each node by summing conditionals along its path.

        Paths are summed by doubling (each node adds the sum of the node 1, 2, 4, ... steps above),
        which needs ⌈log₂ L⌉ gathers (one for two levels) and no memory beyond the result.

        Parameters
        ----------
        conditional
            Output of `conditional_log_probs`, shape ``(..., E)``.

        Returns
        -------
        torch.Tensor
            Log-probabilities, shape ``(..., V)``; 0 for the root.

        Examples
        --------
        >>> import torch
        >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
        >>> algebra = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
        >>> conditional = torch.tensor([[0.5, 0.5, 0.25, 0.75]]).log()
        >>> algebra.node_log_probs(conditional).exp()
        tensor([[1.0000, 0.5000, 0.5000, 0.1250, 0.3750]])
        """
        total = nn.functional.pad(conditional, (1, 0))
        for ancestor in self._jumps:
            total = total + total.index_select(-1, ancestor)
        return total

    def forward(self, logits: Tensor) -> Tensor:
        """Compute node log-probabilities ``(..., V)`` from logits ``(..., E)``."""
        return self.node_log_probs(self.conditional_log_probs(logits))
