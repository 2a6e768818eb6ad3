"""Network of DPDCAN, whose loss is computed separately for each cell, and its private training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Final, Literal

import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from scvi.distributions._negative_binomial import log_zinb_positive
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from scvi.train import TrainingPlan
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hdeepinsight._errors import check_number
from hdeepinsight.models._base._unlabeled import SIZE_FACTOR
from hdeepinsight.nn import (
    UNSEEDED,
    CountHeads,
    PoissonSampler,
    clipped_sum,
    noise_generator,
    solve_noise,
    spent_epsilon,
)

Heads = Literal["projected", "full", "compact"]
TARGET_DEPTH = 1e4
#: Weight of the reconstruction loss; the contrastive loss has the rest.
RECONSTRUCTION_WEIGHT = 0.8


class ResidualMap(nn.Module):
    """Residual block that is the identity at initialisation."""

    def __init__(self, n_features: int, n_hidden: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(n_features, n_hidden), nn.Linear(n_hidden, n_features)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return features of the same shape."""
        return torch.add(x, self.out(torch.tanh(self.hidden(x))))


class DPDCANNetwork(nn.Module):
    """Encoder and decoder; :meth:`forward` returns the losses of each cell.

    The network is deterministic, and cells do not interact (there are no batch statistics).

    Parameters
    ----------
    n_genes, n_latent, hidden, heads
        As in :class:`DPDCAN`.
    """

    centre: Tensor
    directions: Tensor

    def __init__(self, n_genes: int, n_latent: int, hidden: Sequence[int], heads: Heads) -> None:
        super().__init__()
        self.is_projected = heads == "projected"
        self.encoder: nn.Module
        self.decoder: nn.Module
        if self.is_projected:
            self.register_buffer("centre", torch.zeros(n_genes))
            self.register_buffer("directions", torch.zeros(n_latent, n_genes))
            self.encoder = ResidualMap(n_latent, hidden[-1])
            self.decoder = ResidualMap(n_latent, hidden[-1])
        else:
            self.encoder = _tanh_layers([n_genes, *hidden], n_latent)
            inner = _tanh_layers([n_latent, *hidden[:0:-1]], hidden[0])
            self.decoder = nn.Sequential(inner, nn.Tanh())
            self.counts = CountHeads(hidden[0], n_genes, per_cell=heads == "full")

    def features(self, values: Tensor) -> Tensor:
        """Return the inputs of the encoder for log values, ``(n_cells, n_genes)``.

        They do not depend on trainable weights. Projections are scaled to the order of 1.
        """
        if not self.is_projected:
            return values
        scale: float = len(self.directions) ** 0.5
        residuals = nn.functional.normalize(values, dim=-1) - self.centre
        return nn.functional.linear(residuals, self.directions) * scale

    def forward(self, features: Tensor, views: Tensor, counts: Tensor, depth: Tensor) -> Tensor:
        """Compute the reconstruction and contrastive losses of each cell, ``(n_cells, 2)``.

        Parameters
        ----------
        features, views
            Features of the cells, ``(n_cells, n_features)``, and of two masked views of each,
            ``(n_cells, 2, n_features)``.
        counts, depth
            Counts ``(n_cells, n_genes)``, and their depth ``(n_cells, 1)``.
        """
        z = self.encoder(features)
        if self.is_projected:
            loss = (self.decoder(z) - features).square().mean(dim=1)
        else:
            mean, dispersion, zeros = self.counts(self.decoder(z), depth / TARGET_DEPTH)
            # The distribution object validates its arguments, which vmap does not support.
            loss = -log_zinb_positive(counts, mean, dispersion, zeros).mean(dim=1)
        one, two = self.encoder(views).unbind(dim=1)
        return torch.stack([loss, -nn.functional.cosine_similarity(one, two, dim=1)], dim=1)


class DPDCANModule(BaseModuleClass):  # type: ignore[misc]
    """scvi-tools module of the network, with augmentation.

    Parameters
    ----------
    n_genes, n_latent, hidden, heads
        As in :class:`DPDCAN`.
    """

    #: Probability that a gene is masked in a view.
    mask_probability = 0.2

    def __init__(self, n_genes: int, n_latent: int, hidden: Sequence[int], heads: Heads) -> None:
        super().__init__()
        self.network = DPDCANNetwork(n_genes, n_latent, hidden, heads)
        shares = [RECONSTRUCTION_WEIGHT, 1 - RECONSTRUCTION_WEIGHT]
        self.register_buffer("weights", torch.tensor(shares))

    def prepare(self, tensors: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Return the inputs of the network, with two random views of each cell."""
        given = self._get_inference_input(tensors)
        values = log_values(**given)
        kept = torch.rand(len(values), 2, values.shape[1], device=values.device)
        views = values[:, None] * (kept >= self.mask_probability)
        parts = self.network.features(values), self.network.features(views)
        return (*parts, given["counts"], given["depth"])

    def _get_inference_input(self, tensors: Any) -> dict[str, Tensor]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        depth = tensors.get(SIZE_FACTOR, counts.sum(dim=1, keepdim=True))
        return {"counts": counts, "depth": depth}

    def _get_generative_input(self, tensors: Any, inference_outputs: Any) -> dict[str, Any]:
        return {"tensors": tensors}

    @auto_move_data  # type: ignore[untyped-decorator]
    def inference(self, counts: Tensor, depth: Tensor) -> dict[str, Tensor]:
        """Compute the latent representation, ``(n_cells, n_latent)``."""
        return {"z": self.network.encoder(self.network.features(log_values(counts, depth)))}

    @auto_move_data  # type: ignore[untyped-decorator]
    def generative(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute the losses of each cell, ``(n_cells, 2)``."""
        return {"losses": self.network(*self.prepare(tensors))}

    def loss(self, tensors: Any, inference_outputs: Any, generative_outputs: Any) -> LossOutput:
        """Compute the weighted mean loss; the mini-batch may be empty."""
        losses = generative_outputs["losses"]
        n_cells = max(len(losses), 1)
        total = (losses @ self.weights).sum() / n_cells
        return LossOutput(total, losses[:, 0], n_obs_minibatch=n_cells)


def log_values(counts: Tensor, depth: Tensor) -> Tensor:
    """Compute log1p of counts per 10,000; cells without counts are 0."""
    return torch.log1p(counts * (TARGET_DEPTH / depth.clamp_min(1.0)))


def _tanh_layers(widths: Sequence[int], n_out: int) -> nn.Sequential:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.Tanh())]
    return nn.Sequential(*layers, nn.Linear(widths[-1], n_out))


Mode = Literal["whole", "partial_safe", "paper"]
#: Default epsilon, and the share of it that the projection takes; the training steps get the rest.
EPSILON, PROJECTION_SHARE = 4.0, 0.9
#: A warning is logged if the norm of the noise exceeds this multiple of the maximum gradient norm.
MAX_NOISE = 10.0
logger = logging.getLogger(__name__)
DONORS = "Donors are not protected: one donor has {:,} cells, and epsilon applies to a single cell."
OF_MODE: Final[dict[str, str]] = {
    "whole": "The guarantee covers the saved weights. Embeddings of training cells, and clusters "
    "computed from them, are not covered.",
    "partial_safe": "Epsilon applies to the encoder alone, as long as the decoder stays random.",
    "paper": "No guarantee: the decoder is trained on the same cells without noise, and the "
    "gradients of the encoder depend on it.",
}


@dataclass(frozen=True, kw_only=True)
class PrivacyReport:
    """Privacy budget spent by the training of a :class:`DPDCAN`, and its conditions.

    Parameters
    ----------
    mode
        ``privacy`` of :meth:`DPDCAN.train`.
    delta
        Probability with which epsilon may be exceeded.
    noise_multiplier, max_grad_norm, sample_rate
        Noise in units of the maximum gradient norm, that norm, and the sampling probability of
        each cell in a step.
    projection_noise
        Noise of the projection in units of its sensitivity; ``None`` without projection.
    ratio
        Norm of the noise divided by the maximum norm of the averaged gradient.
    conditions
        Assumptions and limitations of the guarantee, in sentences.
    steps, accounted_epsilon
        Number of steps, and epsilon of all noisy releases by the accountant; see ``epsilon`` for
        the guarantee.
    accountant
        Name of the accountant.

    Examples
    --------
    >>> from hdeepinsight.models import PrivacyReport
    >>> noise = {"noise_multiplier": 3.5, "max_grad_norm": 0.1, "sample_rate": 0.1}
    >>> report = PrivacyReport(mode="paper", delta=1e-5, **noise, accounted_epsilon=4.0)
    >>> report.epsilon, report.nominal_epsilon
    (None, 4.0)
    """

    mode: Mode
    delta: float
    noise_multiplier: float
    max_grad_norm: float
    sample_rate: float
    projection_noise: float | None = None
    ratio: float = 0.0
    conditions: tuple[str, ...] = ()
    steps: int = 0
    accounted_epsilon: float = 0.0
    accountant: str = "rdp"

    def after(self, steps: int) -> PrivacyReport:
        """Return the report after a number of steps."""
        projection = [(self.projection_noise, 1.0, 1)] if self.projection_noise else []
        history = [*projection, (self.noise_multiplier, self.sample_rate, steps)]
        return replace(self, steps=steps, accounted_epsilon=spent_epsilon(history, self.delta))

    def is_noisy(self, parameter: str) -> bool:
        """Return whether noise is added to the gradients of a parameter of the network."""
        return self.mode == "whole" or parameter.startswith("encoder.")

    def with_ratio(self, network: nn.Module, batch_size: int) -> PrivacyReport:
        """Return the report with ``ratio``; log a warning if the network will hardly improve."""
        parameters = network.named_parameters()
        n_noisy = sum(value.numel() for name, value in parameters if self.is_noisy(name))
        ratio = self.noise_multiplier * n_noisy**0.5 / batch_size
        if ratio > MAX_NOISE:
            logger.warning(
                "The noise is %.1f times the maximum averaged gradient, so that the model hardly "
                "improves. Use heads='projected', fewer genes, a larger expected_batch_size, or "
                "more cells.",
                ratio,
            )
        return replace(self, ratio=ratio)

    @property
    def epsilon(self) -> float | None:
        """Guaranteed epsilon; ``None`` without a guarantee."""
        return self._of("whole")

    @property
    def encoder_epsilon_conditional(self) -> float | None:
        """Conditional epsilon of the encoder with ``"partial_safe"``; not a guarantee."""
        return self._of("partial_safe")

    @property
    def nominal_epsilon(self) -> float | None:
        """Epsilon of the published accounting with ``"paper"``; not a guarantee."""
        return self._of("paper")

    @property
    def guarantee(self) -> str | None:
        """The guarantee as a sentence; ``None`` without one."""
        if self.epsilon is None:
            return None
        return f"The weights are ({self.epsilon:.3g}, {self.delta:g})-private per cell."

    def _of(self, mode: Mode) -> float | None:
        is_sound = self.mode == mode and UNSEEDED not in self.conditions
        return self.accounted_epsilon if is_sound else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain types, for the model file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PrivacyReport:
        """Return the report for a dict from :meth:`to_dict`."""
        return cls(**values | {"conditions": tuple(values["conditions"])})


def planned_noise(
    epsilon: float | None,
    noise: float | None,
    delta: float,
    sample_rate: float,
    n_steps: int,
    *,
    is_projected: bool,
) -> tuple[float | None, float]:
    """Return the noise multipliers of the projection, if any, and of the training steps.

    Either epsilon of all releases or the noise of each is given, or neither for the default budget.
    """
    if noise is not None:
        if epsilon is not None:
            msg = "At most one of target_epsilon and noise_multiplier must be given, got both."
            raise ValueError(f"{msg} Omit one.")
        check_number("noise_multiplier", noise, 0.3, hint="Typical values: 1 to 20.")
        return noise if is_projected else None, noise
    budget = EPSILON if epsilon is None else epsilon
    check_number("target_epsilon", budget, 1e-2, 1e2, hint="Typical values: 0.5 to 10.")
    projection, before = None, []
    if is_projected:
        projection = solve_noise(PROJECTION_SHARE * budget, delta, 1.0, 1)
        before = [(projection, 1.0, 1)]
    return projection, solve_noise(budget, delta, sample_rate, n_steps, before)


class PoissonSplitter(DataSplitter):  # type: ignore[misc]
    """Data splitter with Poisson sampling and one step of ``batch_size`` expected cells per epoch.

    ``noise_seed`` is the seed of the sampling, for tests.
    """

    def __init__(
        self, manager: AnnDataManager, *, batch_size: int, noise_seed: int | None, **kwargs: Any
    ) -> None:
        super().__init__(manager, batch_size=batch_size, **kwargs)
        n_cells = manager.adata.n_obs
        self.sampler = PoissonSampler(n_cells, batch_size / n_cells, noise_seed)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return a loader whose mini-batches may be empty."""
        cells = self.adata_manager.create_torch_dataset()
        return DataLoader(cells, sampler=self.sampler, batch_size=None)


class DPDCANPlan(TrainingPlan):  # type: ignore[misc]
    """Training plan with Adam, and noisy sums of clipped gradients for differential privacy.

    Parameters
    ----------
    module
        Module to train.
    report
        Planned privacy report; ``None`` for training without privacy.
    n_cells
        Number of cells; sums are divided by the expected, not the actual, number per step.
    noise_seed
        Seed of the noise, for tests.
    lr
        Learning rate.
    """

    def __init__(
        self,
        module: DPDCANModule,
        report: PrivacyReport | None,
        n_cells: int,
        noise_seed: int | None = None,
        *,
        lr: float = 1e-3,
    ) -> None:
        check_number("lr", lr, hint="Omit it to use 1e-3.")
        super().__init__(module, lr=float(lr), weight_decay=0.0, eps=1e-8)
        self.report, self.n_cells = report, n_cells
        self.noise_seed, self.n_steps = noise_seed, 0
        self.automatic_optimization = report is None
        self._generator: torch.Generator | None = None
        is_fixed = report is not None and report.mode == "partial_safe"
        for name, parameter in module.network.named_parameters():
            parameter.requires_grad_(not is_fixed or name.startswith("encoder."))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Take one step; with privacy, the loss is not logged."""
        if self.report is None:
            loss: Tensor = super().training_step(batch, batch_idx)
            return loss
        self.set_noisy_gradients(self.module.prepare(batch), self.report)
        optimizer: Any = self.optimizers()
        optimizer.step()
        self.n_steps += 1
        return None

    def set_noisy_gradients(self, inputs: Sequence[Tensor], report: PrivacyReport) -> None:
        """Set the noisy gradients of the parameters for one step."""
        if self._generator is None:
            self._generator = noise_generator(self.noise_seed, inputs[0].device)
        network, weights = self.module.network, self.module.weights
        every = dict(network.named_parameters())
        for name, total in clipped_sum(network, weights, inputs, report.max_grad_norm).items():
            if report.is_noisy(name) and report.noise_multiplier:
                noise = torch.empty_like(total).normal_(generator=self._generator)
                total += report.noise_multiplier * report.max_grad_norm * noise
            every[name].grad = total / (report.sample_rate * self.n_cells)

    def on_train_epoch_end(self) -> None:
        """Log the privacy budget spent so far."""
        if self.report is not None:
            spent = self.report.after(self.n_steps).accounted_epsilon
            self.log("epsilon", spent, prog_bar=True)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Do nothing: a validation loss would be an additional release."""
