"""Training plan of DPDCAN: Poisson sampling, clipped gradients and Gaussian noise."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scvi.dataloaders import DataSplitter
from scvi.train import TrainingPlan
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, Sampler

from hdeepinsight._errors import check_number

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

    from hdeepinsight.models.dpdcan._module import DPDCANModule
    from hdeepinsight.models.dpdcan._privacy import PrivacyReport

#: Maximum number of values in the per-cell gradients of one chunk.
MAX_VALUES = 2**25


def noise_generator(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a random generator, seeded by the operating system unless a seed is given."""
    number = secrets.randbits(63) if seed is None else seed
    return torch.Generator(device).manual_seed(number)


class PoissonSampler(Sampler[list[int]]):
    """Poisson sampling: each cell is drawn independently with the same probability.

    Parameters
    ----------
    n_cells, sample_rate
        Number of cells, and probability of each.
    noise_seed
        Seed of the sampling, for tests.
    """

    def __init__(self, n_cells: int, sample_rate: float, noise_seed: int | None = None) -> None:
        self.n_cells, self.sample_rate = n_cells, sample_rate
        self.generator = noise_generator(noise_seed)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.rand(self.n_cells, generator=self.generator) < self.sample_rate
        yield drawn.nonzero().ravel().tolist()


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


def clipped_sum(
    module: DPDCANModule, inputs: Sequence[Tensor], max_norm: float
) -> dict[str, Tensor]:
    """Compute the sum of the per-cell gradients, each clipped to a maximum norm.

    Parameters
    ----------
    module
        Module with the network and the weights of its losses.
    inputs
        Inputs of the network, one row per cell.
    max_norm
        Maximum norm of the gradient of a cell over all trainable parameters.

    Returns
    -------
    Sum for each trainable parameter of ``module.network``, by name.
    """
    every = module.network.named_parameters()
    trained = {name: value.detach() for name, value in every if value.requires_grad}

    def loss_of(parameters: dict[str, Tensor], *cell: Tensor) -> Tensor:
        rows = tuple(part[None] for part in cell)
        losses: Tensor = functional_call(module.network, parameters, rows)
        total: Tensor = losses[0] @ module.weights
        return total

    per_cell = vmap(grad(loss_of), in_dims=(None, *([0] * len(inputs))))
    chunk_size = max(1, MAX_VALUES // sum(value.numel() for value in trained.values()))
    sums = {name: torch.zeros_like(value) for name, value in trained.items()}
    for start in range(0, len(inputs[0]), chunk_size):
        rows = per_cell(trained, *(part[start : start + chunk_size] for part in inputs))
        squared = [row.flatten(1).square().sum(dim=1) for row in rows.values()]
        norm = torch.stack(squared).sum(dim=0).sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for name, row in rows.items():
            sums[name] += torch.einsum("n,n...->...", factor, row)
    return sums


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
    start
        Function called before the first step.
    lr
        Learning rate.
    """

    def __init__(
        self,
        module: DPDCANModule,
        report: PrivacyReport | None,
        n_cells: int,
        noise_seed: int | None = None,
        start: Callable[[], object] = tuple,
        *,
        lr: float = 1e-3,
    ) -> None:
        check_number("lr", lr, hint="Omit it to use 1e-3.")
        super().__init__(module, lr=float(lr), weight_decay=0.0, eps=1e-8)
        self.report, self.n_cells, self.start = report, n_cells, start
        self.noise_seed, self.n_steps = noise_seed, 0
        self.automatic_optimization = report is None
        self._generator: torch.Generator | None = None
        is_fixed = report is not None and report.mode == "partial_safe"
        for name, parameter in module.network.named_parameters():
            parameter.requires_grad_(not is_fixed or name.startswith("encoder."))

    def on_fit_start(self) -> None:
        """Call ``start``."""
        super().on_fit_start()
        self.start()

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
        every = dict(self.module.network.named_parameters())
        for name, total in clipped_sum(self.module, inputs, report.max_grad_norm).items():
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
