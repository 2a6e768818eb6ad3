"""Ensembles: concatenated features and averaged probabilities of several networks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hdeepinsight.taxonomy import TreeAlgebra


class MemberBackbones(nn.Module):
    """Backbones of the members of an ensemble, which read the same image.

    Parameters
    ----------
    make
        Function that returns a backbone with its number of features as ``n_latent``.
    n_members
        Number of backbones.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import MemberBackbones, make_backbone
    >>> network = MemberBackbones(lambda: make_backbone("mlp", 2, 16, n_latent=8), n_members=3)
    >>> images = torch.zeros(6, 2, 16, 16)
    >>> network.eval()(images).shape, network.train()(images).shape
    (torch.Size([6, 24]), torch.Size([6, 8]))
    """

    def __init__(self, make: Callable[[], Any], n_members: int) -> None:
        super().__init__()
        made = [make() for _ in range(n_members)]
        self.members = nn.ModuleList(made)
        self.n_latent: int = sum(member.n_latent for member in made)

    def forward(self, image: Tensor) -> Tensor:
        """Compute features of images of shape ``(n_cells, n_channels, side, side)``.

        Returns
        -------
        In evaluation mode, the concatenated features of all members, shape ``(n_cells, n_latent)``.
        In training mode, each member reads its own part of the mini-batch, in the order of the
        members, and the shape is ``(n_cells, n_latent / n_members)``.
        """
        if not self.training:
            return torch.cat([member(image) for member in self.members], dim=1)
        parts = image.chunk(len(self.members))
        return torch.cat([member(part) for member, part in zip(self.members, parts, strict=True)])


class MemberHeads(nn.Module):
    r"""Heads of the members of an ensemble, and the mean of their probabilities.

    Parameters
    ----------
    make
        Function that returns the head of one member.
    n_members
        Number of heads.
    tree
        Algebra of the taxonomy.

    Notes
    -----
    With :math:`P_m(v)` the probability of node :math:`v` by member :math:`m`, the logit of a node
    is :math:`\log\bar P(v) - \log\bar P(parent(v))`, where :math:`\bar P` is the mean over members.
    The softmax over siblings returns these means, so temperatures and adapters apply to the
    ensemble as to one network.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import LinearHead, MemberHeads
    >>> from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra
    >>> tree = TreeAlgebra(Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}))
    >>> heads = MemberHeads(lambda: LinearHead(8, tree), 2, tree).eval()
    >>> latent = torch.randn(3, 16)
    >>> each = [tree(head(x)).exp() for head, x in zip(heads.members, latent.chunk(2, 1))]
    >>> torch.allclose(tree(heads(latent)).exp(), (each[0] + each[1]) / 2, atol=1e-6)
    True
    """

    def __init__(self, make: Callable[[], nn.Module], n_members: int, tree: TreeAlgebra) -> None:
        super().__init__()
        self.tree, self.members = tree, nn.ModuleList(make() for _ in range(n_members))
        parent = torch.tensor(tree.taxonomy.parent[1:], dtype=torch.int64)
        self.parent = nn.Buffer(parent, persistent=False)

    def forward(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Compute logits ``(n_cells, n_edges)`` from the features of `MemberBackbones`."""
        if not self.training:
            mean = self.log_probs(latent, nodes).logsumexp(0) - math.log(len(self.members))
            return mean[:, 1:] - mean[:, self.parent]
        parts = latent.chunk(len(self.members))
        labels = [None] * len(parts) if nodes is None else nodes.chunk(len(parts))
        each = zip(self.members, parts, labels, strict=True)
        return torch.cat([head(part, own) for head, part, own in each])

    def by_one(self, latent: Tensor, member: Tensor) -> Tensor:
        """Compute the logits of each cell by one member, given as an index ``(n_cells,)``."""
        own = self.log_probs(latent)[member, torch.arange(len(latent), device=latent.device)]
        return own[:, 1:] - own[:, self.parent]

    def log_probs(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Compute log-probabilities of all nodes, shape ``(n_members, n_cells, n_nodes)``."""
        parts = latent.chunk(len(self.members), dim=1)
        each = zip(self.members, parts, strict=True)
        return torch.stack([self.tree(head(part, nodes)) for head, part in each])

    def disagreement(self, latent: Tensor) -> Tensor:
        """Compute the disagreement of the members, shape ``(n_cells,)``.

        Returns
        -------
        Total variation distance between the leaf probabilities of each member and their mean,
        averaged over members: 0 if all agree, below 1 otherwise.
        """
        leaves = self.log_probs(latent)[:, :, self.tree.leaf_index].exp()
        return (leaves - leaves.mean(0)).abs().sum(2).mean(0) / 2
