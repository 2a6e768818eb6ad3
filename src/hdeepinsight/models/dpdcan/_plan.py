"""Noisy steps: which cells are drawn, what a cell may contribute, and the noise on their sum."""

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

#: Numbers that the gradients of single cells may take at once.
MOST_NUMBERS = 2**25


def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a source of noise: seeded by the operating system unless a seed is given."""
    number = secrets.randbits(63) if seed is None else seed
    return torch.Generator(device).manual_seed(number)


class PoissonSampler(Sampler[list[int]]):
    """Draw the cells of one step, each with the same probability and by itself.

    Parameters
    ----------
    n_cells, sample_rate
        Cells, and the probability of each.
    noise_seed
        Seed of the draws, for tests.
    """

    def __init__(self, n_cells: int, sample_rate: float, noise_seed: int | None = None) -> None:
        self.n_cells, self.sample_rate = n_cells, sample_rate
        self.generator = generator_of(noise_seed)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.rand(self.n_cells, generator=self.generator) < self.sample_rate
        yield drawn.nonzero().ravel().tolist()


class PoissonSplitter(DataSplitter):  # type: ignore[misc]
    """Loaders of scvi-tools, of which the one that trains has one step of ``batch_size`` cells.

    That many are expected; every cell is drawn by itself.
    """

    def __init__(
        self, manager: AnnDataManager, *, batch_size: int, noise_seed: int | None, **kwargs: Any
    ) -> None:
        super().__init__(manager, batch_size=batch_size, **kwargs)
        n_cells = manager.adata.n_obs
        self.sampler = PoissonSampler(n_cells, batch_size / n_cells, noise_seed)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return a loader that may give a batch of no cell."""
        cells = self.adata_manager.create_torch_dataset()
        return DataLoader(cells, sampler=self.sampler, batch_size=None)


def clipped_sum(
    module: DPDCANModule, inputs: Sequence[Tensor], max_norm: float
) -> dict[str, Tensor]:
    """Compute the sum over cells of their gradients, each cut to a norm.

    Parameters
    ----------
    module
        The network with its weights of the losses.
    inputs
        What its loss takes, one row per cell.
    max_norm
        Largest norm of the gradient of a cell over all parameters that are trained.

    Returns
    -------
    The sum for every parameter of ``module.network`` that is trained, by name.
    """
    every = module.network.named_parameters()
    trained = {name: value.detach() for name, value in every if value.requires_grad}

    def loss_of(parameters: dict[str, Tensor], *cell: Tensor) -> Tensor:
        rows = tuple(part[None] for part in cell)
        losses: Tensor = functional_call(module.network, parameters, rows)
        total: Tensor = losses[0] @ module.weights
        return total

    per_cell = vmap(grad(loss_of), in_dims=(None, *([0] * len(inputs))))
    chunk_size = max(1, MOST_NUMBERS // sum(value.numel() for value in trained.values()))
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
    """Train with Adam, on noisy sums of clipped gradients where there is a report to keep to.

    Parameters
    ----------
    module
        The network.
    report
        What the training may spend; ``None`` for plain gradients of the mean loss.
    n_cells
        Cells; sums are divided by the number that is expected in a step, whatever was drawn.
    noise_seed
        Seed of the noise, for tests.
    start
        What is done on the device before the first step.
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
        """Do what comes before the first step."""
        super().on_fit_start()
        self.start()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor | None:
        """Take one step, on whatever cells were drawn; no loss of a private one is logged."""
        if self.report is None:
            loss: Tensor = super().training_step(batch, batch_idx)
            return loss
        self.set_noisy_gradients(self.module.prepare(batch), self.report)
        optimizer: Any = self.optimizers()
        optimizer.step()
        self.n_steps += 1
        return None

    def set_noisy_gradients(self, inputs: Sequence[Tensor], report: PrivacyReport) -> None:
        """Set the gradients of the parameters for one step."""
        if self._generator is None:
            self._generator = generator_of(self.noise_seed, inputs[0].device)
        every = dict(self.module.network.named_parameters())
        for name, total in clipped_sum(self.module, inputs, report.max_grad_norm).items():
            if report.is_noisy(name) and report.noise_multiplier:
                noise = torch.empty_like(total).normal_(generator=self._generator)
                total += report.noise_multiplier * report.max_grad_norm * noise
            every[name].grad = total / (report.sample_rate * self.n_cells)

    def on_train_epoch_end(self) -> None:
        """Log the budget that is spent so far."""
        if self.report is not None:
            spent = self.report.after(self.n_steps).accounted_epsilon
            self.log("epsilon", spent, prog_bar=True)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Hold nothing out: a validation would be one more release."""
