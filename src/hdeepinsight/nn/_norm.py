"""Batch normalisation that survives a mini-batch of one cell."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm


class _SingleCell(_BatchNorm):
    """Running statistics for a mini-batch of one cell (or none), which has no variance of its own.

    The last mini-batch of an epoch may hold a single cell; torch refuses it in training. Here it
    is normalised as at prediction, and leaves the running statistics as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or len(input) > 1:
            return super().forward(input)
        return functional.batch_norm(
            input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
        )


class BatchNorm1d(_SingleCell, nn.BatchNorm1d):
    """Batch normalisation of features, shape ``(n_cells, n_features)``.

    Like torch's, but one cell alone is normalised by the running statistics.

    Examples
    --------
    >>> import torch
    >>> BatchNorm1d(2, eps=0.0).train()(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]], grad_fn=...)
    """


class BatchNorm2d(_SingleCell, nn.BatchNorm2d):
    """Batch normalisation of maps, shape ``(n_cells, n_channels, height, width)``.

    Like torch's, but one cell alone is normalised by the running statistics.
    """


def tolerate_single_cells(network: nn.Module) -> None:
    """Replace torch's 2-D batch normalisations in a network by ours, weights and all."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, _copy(child))


def _copy(norm: nn.BatchNorm2d) -> BatchNorm2d:
    copied = BatchNorm2d(norm.num_features, eps=norm.eps, momentum=norm.momentum)
    copied.load_state_dict(norm.state_dict())
    return copied
