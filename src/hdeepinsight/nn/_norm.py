"""Batch normalisation that supports mini-batches of one cell."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hdeepinsight._errors import invalid


class _SingleCell(_BatchNorm):
    """Batch normalisation with running statistics for mini-batches of at most one cell.

    The last mini-batch of an epoch may contain a single cell, for which torch raises an error in
    training. Here it is normalised as at prediction, without updating the running statistics.
    """

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if len(input) <= 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps
            )
        if input.ndim == 3 and (rows := input.permute(2, 0, 1)).is_contiguous():
            # Features are contiguous in memory: flattening to two dimensions halves the time.
            table: Tensor = super().forward(rows.flatten(0, 1))
            return table.view(rows.shape).permute(1, 2, 0)
        return super().forward(input)


class BatchNorm1d(_SingleCell, nn.BatchNorm1d):
    """Batch normalisation of features, shape ``(n_cells, n_features)``.

    As in torch, but a single cell is normalised with the running statistics.

    Examples
    --------
    >>> import torch
    >>> BatchNorm1d(2, eps=0.0).train()(torch.tensor([[3.0, -1.0]]))
    tensor([[ 3., -1.]], grad_fn=...)
    """


class BatchNorm2d(_SingleCell, nn.BatchNorm2d):
    """Batch normalisation of maps, shape ``(n_cells, n_channels, height, width)``.

    As in torch, but a single cell is normalised with the running statistics.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.nn import BatchNorm2d
    >>> BatchNorm2d(1, eps=0.0).train()(torch.full((1, 1, 1, 2), 3.0))
    tensor([[[[3., 3.]]]], grad_fn=...)
    """


def tolerate_single_cells(network: nn.Module) -> None:
    """Replace the ``nn.BatchNorm2d`` layers of a network by :class:`BatchNorm2d`, in place.

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
    """Batch normalisation at prediction, as a fixed scale and shift.

    Its gradient is six times as fast as that of ``nn.BatchNorm1d`` in evaluation mode.

    Parameters
    ----------
    norm
        Batch normalisation with running statistics.

    Examples
    --------
    >>> import torch
    >>> norm = BatchNorm1d(2).eval()
    >>> cells = torch.tensor([[3.0, -1.0]])
    >>> torch.allclose(FrozenNorm(norm)(cells), norm(cells))
    True
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        weight, bias, mean, variance = norm.weight, norm.bias, norm.running_mean, norm.running_var
        if mean is None or variance is None:
            raise invalid("norm", norm, "a normalisation with running statistics")
        with torch.no_grad():
            scale = (variance + norm.eps).rsqrt() * (1.0 if weight is None else weight)
            shift = (0.0 if bias is None else bias) - mean * scale
        self.scale = nn.Buffer(scale)
        self.shift = nn.Buffer(shift)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise values, shape ``(n_cells, n_features, ...)``."""
        shape = (-1,) + (1,) * (input.ndim - 2)
        return torch.addcmul(self.shift.view(shape), input, self.scale.view(shape))
