"""Trainable adapter layers around the normalisations and the head of a frozen network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from hdeepinsight.nn import BatchNorm1d, BatchNorm2d, FrozenNorm


class AdapterSwitch(threading.local):
    """Thread-local batch codes, shared by all adapters of a network.

    Attributes
    ----------
    batch
        Batch code of each cell of the mini-batch, int64, shape ``(n_cells,)``; -1 for batches that
        were not adapted. ``None`` switches the adapters off.

    Examples
    --------
    >>> import torch
    >>> switch = AdapterSwitch()
    >>> with switch.using(torch.tensor([0, -1])):
    ...     switch.batch
    tensor([ 0, -1])
    >>> switch.batch is None
    True
    """

    batch: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy as a switch that is off, because thread-local data cannot be copied."""
        return AdapterSwitch, ()

    @contextmanager
    def using(self, batch: Tensor) -> Iterator[None]:
        """Switch the adapters on for cells with these batch codes."""
        before, self.batch = self.batch, batch
        try:
            yield
        finally:
            self.batch = before


class _PerBatch(nn.Module):
    """Base class of adapters, with a switch and the shrinkage of each batch."""

    def __init__(self, shrinkage: Tensor, switch: AdapterSwitch) -> None:
        super().__init__()
        self.switch = switch
        # The last row is for cells of other batches, index -1.
        self.shrinkage = nn.Buffer(torch.cat([shrinkage, shrinkage.new_zeros(1)]))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *further: Any) -> None:
        if (old := f"{prefix}trust") in state_dict:  # former name
            state_dict[f"{prefix}shrinkage"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *further)


class NormAdapter(_PerBatch):
    r"""Batch normalisation with separate statistics, scale and shift for each query batch.

    Parameters
    ----------
    norm
        Normalisation layer of the reference model, which is not changed.
    shrinkage
        Weight of the adaptation of each batch, from 0 to 1, shape ``(n_batches,)``.
    switch
        Batch codes of the cells.

    Notes
    -----
    With :math:`\hat x` normalised by the batch's statistics and the reference's weights, the
    output is :math:`\hat x + t_b (a_b \hat x + c_b)` with the shrinkage :math:`t_b`. Initially
    :math:`a = c = 0` and the statistics are those of the reference, so that the output is
    unchanged.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import AdapterSwitch, NormAdapter
    >>> from hdeepinsight.nn import BatchNorm1d
    >>> norm = BatchNorm1d(2).eval()
    >>> adapter = NormAdapter(norm, torch.ones(1), switch := AdapterSwitch())
    >>> cells = torch.randn(3, 2)
    >>> with switch.using(torch.zeros(3, dtype=torch.int64)):
    ...     same = torch.allclose(adapter(cells), norm(cells))
    >>> same
    True
    """

    def __init__(
        self, norm: BatchNorm1d | BatchNorm2d, shrinkage: Tensor, switch: AdapterSwitch
    ) -> None:
        super().__init__(shrinkage, switch)
        self.norm, n_rows = norm, len(self.shrinkage)
        self.mean = nn.Buffer(norm.get_buffer("running_mean").repeat(n_rows, 1))
        self.variance = nn.Buffer(norm.get_buffer("running_var").repeat(n_rows, 1))
        self.scale = nn.Parameter(torch.zeros_like(self.mean))
        self.shift = nn.Parameter(torch.zeros_like(self.mean))

    def forward(self, values: Tensor) -> Tensor:
        """Normalise values, shape ``(n_cells, n_features, ...)``."""
        if (batch := self.switch.batch) is None:
            normalised: Tensor = self.norm(values)
            return normalised
        scale, shift = (each[batch] for each in self.affine())
        shape = (len(batch), -1) + (1,) * (values.ndim - 2)  # a single batch is broadcast
        return torch.addcmul(shift.view(shape), values, scale.view(shape))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Compute the scale and shift for each batch, ``(n_batches + 1, n_features)``.

        The last row is for cells of other batches.
        """
        share = self.shrinkage.unsqueeze(1)
        scale = self.norm.weight / (self.variance + self.norm.eps).sqrt()
        shift = self.norm.bias - self.mean * scale
        factor = 1 + share * self.scale
        return factor * scale, factor * shift + share * self.shift

    @torch.no_grad()
    def blend(self, batch: int, moments: Moments, share: float) -> None:
        """Interpolate the statistics of a batch between those of the reference and its own.

        Parameters
        ----------
        batch
            Code of the batch.
        moments
            Weighted moments of its cells.
        share
            Weight of the batch's own statistics, from 0 to 1.
        """
        mean = moments.first / moments.total
        variance = (moments.second / moments.total - mean**2).clamp_min(1e-8)
        self.mean[batch] = torch.lerp(self.mean[-1], mean, share)
        self.variance[batch] = torch.lerp(self.variance[-1], variance, share)


class HeadAdapter(_PerBatch):
    """Classification head with a linear correction for query cells, which is zero initially.

    Parameters
    ----------
    head
        Head of the reference model.
    n_latent, n_edges
        Number of features and of logits.
    shrinkage
        Weight of the adaptation of each batch, from 0 to 1, shape ``(n_batches,)``.
    switch
        Batch codes of the cells.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import AdapterSwitch, HeadAdapter
    >>> head = torch.nn.Bilinear(2, 2, 3)  # a layer with two inputs, as a head
    >>> adapter = HeadAdapter(head, 2, 3, torch.tensor([0.5]), switch := AdapterSwitch())
    >>> cells = torch.randn(4, 2)
    >>> with switch.using(torch.zeros(4, dtype=torch.int64)):
    ...     bool(torch.equal(adapter(cells, cells), head(cells, cells)))
    True
    """

    def __init__(
        self, head: nn.Module, n_latent: int, n_edges: int, shrinkage: Tensor, switch: AdapterSwitch
    ) -> None:
        super().__init__(shrinkage, switch)
        self.head = head
        # Random initialisation is skipped, because it would advance the global random state.
        empty = nn.Linear(n_latent, n_edges, device="meta")
        self.correction = empty.to_empty(device=shrinkage.device)
        nn.init.zeros_(self.correction.weight)
        nn.init.zeros_(self.correction.bias)

    def forward(self, latent: Tensor, nodes: Tensor | None = None) -> Tensor:
        """Compute logits, shape ``(n_cells, n_edges)``, from features ``(n_cells, n_latent)``."""
        logits: Tensor = self.head(latent, nodes)
        if self.switch.batch is None:
            return logits
        correction: Tensor = self.correction(latent)
        return logits + self.shrinkage[self.switch.batch].unsqueeze(1) * correction


class Moments:
    """Running weighted moments of the inputs of a normalisation layer.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import Moments
    >>> moments = Moments()
    >>> moments.add(torch.tensor([[1.0], [4.0]]), weights=torch.tensor([2.0, 1.0]))
    >>> moments.first / moments.total
    tensor([2.])
    """

    def __init__(self) -> None:
        self.total, self.first, self.second = (torch.zeros(()) for _ in range(3))

    def add(self, values: Tensor, weights: Tensor) -> None:
        """Add cells ``(n_cells, n_features, ...)`` with weights ``(n_cells,)``."""
        flat = values.reshape(*values.shape[:2], -1)
        weights = weights.to(values).view(-1, 1, 1) / flat.shape[2]
        self.total = self.total.to(values) + weights.sum() * flat.shape[2]
        self.first = self.first.to(values) + (weights * flat).sum((0, 2))
        self.second = self.second.to(values) + (weights * flat**2).sum((0, 2))


@contextmanager
def record_moments(
    adapters: list[NormAdapter], moments: list[Moments], weights: Tensor
) -> Iterator[None]:
    """Add the inputs of each adapter to its moments, with these cell weights.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import AdapterSwitch, Moments, NormAdapter, record_moments
    >>> from hdeepinsight.nn import BatchNorm1d
    >>> adapter = NormAdapter(BatchNorm1d(2).eval(), torch.ones(1), AdapterSwitch())
    >>> moments = Moments()
    >>> with record_moments([adapter], [moments], torch.ones(3)):
    ...     _ = adapter(torch.full((3, 2), 5.0))
    >>> moments.first / moments.total
    tensor([5., 5.])
    """
    with ExitStack() as hooks:
        for adapter, own in zip(adapters, moments, strict=True):
            hook = adapter.register_forward_pre_hook(
                lambda _, inputs, own=own: own.add(inputs[0], weights)
            )
            hooks.enter_context(hook)
        yield


def insert_adapters(module: Any, shrinkage: list[float]) -> list[nn.Parameter]:
    """Insert adapters around the normalisations and the head of a classifier, in place.

    Parameters
    ----------
    module
        Classifier with a ``backbone``, a ``head`` and a ``tree``. Without a backbone it is not
        changed.
    shrinkage
        Weight of the adaptation of each batch, from 0 to 1.

    Returns
    -------
    Parameters of the adapters.

    Examples
    --------
    >>> import copy
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.adaptation import insert_adapters
    >>> module = copy.deepcopy(hdi.hub.pull("pbmc").module)
    >>> parameters = insert_adapters(module, [0.5, 0.9])
    >>> len(module.head.shrinkage), parameters[-1].shape == (module.tree.taxonomy.n_edges,)
    (3, True)
    """
    if module.backbone is None or module.head is None:
        return []
    switch, share = AdapterSwitch(), torch.tensor(shrinkage, device=module.temperature.device)
    parameters: list[nn.Parameter] = []
    for parent in list(module.backbone.modules()):
        for name, child in parent.named_children():
            if isinstance(child, BatchNorm1d | BatchNorm2d):
                setattr(parent, name, norm := NormAdapter(child, share, switch))
                parameters += [norm.scale, norm.shift]
    n_latent, n_edges = module.backbone.n_latent, module.tree.taxonomy.n_edges
    module.head = HeadAdapter(module.head, n_latent, n_edges, share, switch)
    return [*parameters, *module.head.correction.parameters()]


def use_adapters(module: Any, batch: np.ndarray | Tensor) -> AbstractContextManager[None]:
    """Switch the adapters of a classifier on, if any, for cells with these batch codes.

    Parameters
    ----------
    module
        Classifier, with or without adapters from :func:`insert_adapters`.
    batch
        Batch code of each cell of the mini-batch, shape ``(n_cells,)``; -1 for other batches.

    Examples
    --------
    >>> import copy
    >>> import numpy as np
    >>> import torch
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.adaptation import insert_adapters, use_adapters
    >>> module = copy.deepcopy(hdi.hub.pull("pbmc").module)
    >>> _ = insert_adapters(module, [0.5])
    >>> with use_adapters(module, np.zeros(3)):
    ...     module.head.switch.batch
    tensor([0, 0, 0])
    """
    if not isinstance(module.head, HeadAdapter):
        return nullcontext()
    rows = torch.as_tensor(batch, dtype=torch.int64, device=module.temperature.device)
    return module.head.switch.using(rows)


def freeze_norms(network: nn.Module, batch: int = -1) -> None:
    """Replace the batch normalisations of a network by fixed affine layers, in place.

    Parameters
    ----------
    network
        Copy of a network, which cannot be trained afterwards.
    batch
        Batch code of all cells in this thread, if the network has adapters.

    Examples
    --------
    >>> import torch
    >>> from hdeepinsight.adaptation import freeze_norms
    >>> from hdeepinsight.nn import BatchNorm1d
    >>> network = torch.nn.Sequential(torch.nn.Linear(3, 2), BatchNorm1d(2))
    >>> freeze_norms(network)
    >>> type(network[1]).__name__
    'FrozenNorm'
    """
    switch = AdapterSwitch()
    switch.batch = torch.tensor([batch])
    for parent in list(network.modules()):
        if isinstance(parent, NormAdapter | HeadAdapter):
            parent.switch = switch
        for name, child in parent.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(parent, NormAdapter):
                setattr(parent, name, FrozenNorm(child))
