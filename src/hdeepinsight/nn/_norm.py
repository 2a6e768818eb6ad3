"""Batch normalisation that survives a mini-batch of one cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hdeepinsight._errors import invalid


class _SingleCell(_BatchNorm):
    """Running statistics for a mini-batch of one cell (or none), which has no variance of its own.

    The last mini-batch of an epoch may hold a single cell; torch refuses it in training. Here it
    is normalised as at prediction, and leaves the running statistics as they are.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if len(input) <= 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if input.ndim == 3 and (rows := input.permute(2, 0, 1)).is_contiguous():
            # Features are innermost in memory: as a table of features this takes half the time.
            table: Tensor = super().forward(rows.flatten(0, 1))
            return table.view(rows.shape).permute(1, 2, 0)
        return super().forward(input)


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

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import BatchNorm2d
    >>> BatchNorm2d(1, eps=0.0).train()(torch.full((1, 1, 1, 2), 3.0))
    tensor([[[[3., 3.]]]], grad_fn=...)
    """


def tolerate_single_cells(network: nn.Module) -> None:
    """Replace torch's 2-D batch normalisations in a network by ours, weights and all.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import tolerate_single_cells
    >>> network = torch.nn.Sequential(torch.nn.BatchNorm2d(1)).train()
    >>> tolerate_single_cells(network)
    >>> network(torch.ones(1, 1, 1, 1)).shape
    torch.Size([1, 1, 1, 1])
    """
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                copied = BatchNorm2d(child.num_features, eps=child.eps, momentum=child.momentum)
                copied.load_state_dict(child.state_dict())
                setattr(parent, name, copied)


class FrozenNorm(nn.Module):
    """A batch normalisation at prediction, as the scale and shift that it is.

    Its gradient takes a sixth of the time of torch's, which is also written for training.

    Parameters
    ----------
    norm
        Normalisation with running statistics.

    Examples
    --------
    >>> import torch
    >>> norm = BatchNorm1d(2).eval()
    >>> cells = torch.tensor([[3.0, -1.0]])
    >>> torch.allclose(FrozenNorm(norm)(cells), norm(cells))
    True
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        weight, bias, mean, variance = norm.weight, norm.bias, norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise invalid("norm", norm, "a normalisation that keeps running statistics")
        with torch.no_grad():
            scale = (variance + norm.eps).rsqrt() * (1.0 if weight is None else weight)
            shift = (0.0 if bias is None else bias) - mean * scale
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, input: Tensor) -> Tensor:
        """Normalised values, shape ``(n_cells, n_features, ...)``."""
        shape = (-1,) + (1,) * (input.ndim - 2)
        return torch.addcmul(self.shift.view(shape), input, self.scale.view(shape))
