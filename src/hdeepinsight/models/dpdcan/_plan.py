"""Noisy steps: which cells are drawn, what a cell may contribute, and the noise on their sum."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from scvi.dataloaders import DataSplitter
from scvi.train import TrainingPlan
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.data import DataLoader, Sampler

from hdeepinsight._errors import check_number
from hdeepinsight.models.dpdcan._privacy import History, spent_epsilon

if TYPE_CHECKING:
    from hdeepinsight.models.dpdcan._module import DPDCANModule

#: Numbers that the gradients of single cells may take at once.
MOST_NUMBERS = 2**25


def generator_of(seed: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a source of noise: seeded by the operating system unless a seed is given."""
    number = secrets.randbits(63) if seed is None else seed
    return torch.Generator(device).manual_seed(number)


class PoissonSampler(Sampler[list[int]]):
    """Draw every cell with the same probability and by itself, step by step.

    Parameters
    ----------
    n_cells, sample_rate, n_steps
        Cells, the probability of each, and steps.
    generator
        Source of the draws.
    """

    def __init__(
        self, n_cells: int, sample_rate: float, n_steps: int, generator: torch.Generator
    ) -> None:
        self.n_cells, self.sample_rate, self.n_steps = n_cells, sample_rate, n_steps
        self.generator = generator

    def __len__(self) -> int:
        return self.n_steps

    def __iter__(self) -> Iterator[list[int]]:
        for _ in range(self.n_steps):
            drawn = torch.rand(self.n_cells, generator=self.generator) < self.sample_rate
            yield drawn.nonzero().ravel().tolist()


class PoissonSplitter(DataSplitter):  # type: ignore[misc]
    """Loaders of scvi-tools, of which the one that trains draws every cell by itself.

    Parameters
    ----------
    *args, **kwargs
        As in :class:`scvi.dataloaders.DataSplitter`.
    sample_rate, n_steps, noise_seed
        Of the sampler; the seed is for tests.
    """

    def __init__(
        self, *args: Any, sample_rate: float, n_steps: int, noise_seed: int | None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        n_cells, generator = self.adata_manager.adata.n_obs, generator_of(noise_seed)
        self.sampler = PoissonSampler(n_cells, sample_rate, n_steps, generator)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """Return a loader that may give a batch of no cell."""
        return DataLoader(
            self.adata_manager.create_torch_dataset(), sampler=self.sampler, batch_size=None
        )


def clipped_sum(
    module: DPDCANModule,
    names: Sequence[str],
    inputs: Sequence[Tensor],
    max_norm: float,
) -> tuple[dict[str, Tensor], Tensor]:
    """Compute the sum over cells of their gradients, each cut to a norm.

    Parameters
    ----------
    module
        The network with its weights of the losses.
    names
        Parameters of ``module.network`` that are trained.
    inputs
        What its loss takes, one row per cell.
    max_norm
        Largest norm of the gradient of a cell over all these parameters.

    Returns
    -------
    The sum for every parameter, and the norms before they were cut, ``(n_cells,)``.
    """
    every = dict(module.network.named_parameters())
    trained = {name: every[name].detach() for name in names}

    def loss_of(parameters: dict[str, Tensor], *cell: Tensor) -> Tensor:
        rows = tuple(part[None] for part in cell)
        losses: Tensor = functional_call(module.network, parameters, rows)
        total: Tensor = losses[0] @ module.weights
        return total

    per_cell = vmap(grad(loss_of), in_dims=(None, *([0] * len(inputs))))
    chunk_size = max(1, MOST_NUMBERS // sum(value.numel() for value in trained.values()))
    sums = {name: torch.zeros_like(value) for name, value in trained.items()}
    norms = [inputs[0].new_zeros(0)]
    for chunk in zip(*(torch.split(part, chunk_size) for part in inputs), strict=True):
        if not len(chunk[0]):
            continue
        rows = per_cell(trained, *chunk)
        squared = [row.flatten(1).square().sum(dim=1) for row in rows.values()]
        norm = torch.stack(squared).sum(dim=0).sqrt()
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for name, row in rows.items():
            sums[name] += torch.einsum("n,n...->...", factor, row)
        norms.append(norm)
    return sums, torch.cat(norms)


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What noisy steps take, apart from the learning rate.

    Parameters
    ----------
    trained
        Parameters of the network that are trained.
    noisy
        Those of them that get noise; ``None`` for plain gradients of the mean loss.
    noise_multiplier, max_grad_norm
        Noise in units of the norm that gradients are cut to, and that norm.
    batch_size
        Expected cells per step, by which sums are divided whatever was drawn.
    sample_rate, delta, before
        Rate of the sampler, delta, and earlier releases, for the budget in ``history``.
    noise_seed
        Seed of the noise, for tests.
    log_losses
        Whether losses are logged; they carry no noise.
    start
        What is done on the device before the first step.
    """

    trained: tuple[str, ...]
    noisy: tuple[str, ...] | None
    noise_multiplier: float
    max_grad_norm: float
    batch_size: int
    sample_rate: float
    delta: float = 1e-5
    before: History = ()
    noise_seed: int | None = None
    log_losses: bool = False
    start: Callable[[], object] = tuple

    def spent(self, n_steps: int) -> float:
        """Return epsilon after some steps."""
        steps = self.noise_multiplier, self.sample_rate, n_steps
        return spent_epsilon([*self.before, steps], self.delta)


class DPDCANPlan(TrainingPlan):  # type: ignore[misc]
    """Train with Adam, on noisy sums of clipped gradients where noise is asked for.

    Parameters
    ----------
    module
        The network.
    settings
        What the steps take.
    lr
        Learning rate.
    """

    def __init__(self, module: DPDCANModule, settings: StepSettings, *, lr: float = 1e-3) -> None:
        check_number("lr", lr, hint="Omit it to use 1e-3.")
        super().__init__(module, lr=float(lr), weight_decay=0.0)
        self.automatic_optimization = False
        self.settings, self.n_steps = settings, 0
        self._generator: torch.Generator | None = None

    def on_fit_start(self) -> None:
        """Do what comes before the first step."""
        super().on_fit_start()
        self.settings.start()

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name."""
        every = dict(self.module.network.named_parameters())
        return {name: every[name] for name in self.settings.trained}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam over what is trained."""
        return torch.optim.Adam(self.trained_parameters().values(), lr=self.lr)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take one step, on whatever cells were drawn."""
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        inputs, is_plain = self.module.prepare(batch), self.settings.noisy is None
        n_cells = max(len(inputs[0]), 1)
        if is_plain or self.settings.log_losses:
            loss = (self.module.network(*inputs) @ self.module.weights).sum() / n_cells
            self.log("train_loss", loss, on_epoch=True, on_step=False, batch_size=n_cells)
        if is_plain:
            self.manual_backward(loss)
        else:
            self.set_noisy_gradients(inputs)
        optimizer.step()
        self.n_steps += 1

    def set_noisy_gradients(self, inputs: Sequence[Tensor]) -> None:
        """Set the gradients of the parameters for one step."""
        how = self.settings
        if self._generator is None:
            self._generator = generator_of(how.noise_seed, inputs[0].device)
        sums, _ = clipped_sum(self.module, how.trained, inputs, how.max_grad_norm)
        for name, parameter in self.trained_parameters().items():
            if name in (how.noisy or ()) and how.noise_multiplier:
                noise = torch.empty_like(parameter).normal_(generator=self._generator)
                sums[name] += how.noise_multiplier * how.max_grad_norm * noise
            parameter.grad = sums[name] / how.batch_size

    def on_train_epoch_end(self) -> None:
        """Log the budget that is spent so far."""
        if self.settings.noisy is not None:
            self.log("epsilon", self.settings.spent(self.n_steps), prog_bar=True)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Hold nothing out: a validation would be one more release."""
