"""Training plan of DPDCAN: Poisson sampling, clipped gradients and Gaussian noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from scvi.dataloaders import DataSplitter
from scvi.train import TrainingPlan
from torch import Tensor
from torch.utils.data import DataLoader

from hdeepinsight._errors import check_number
from hdeepinsight.nn import PoissonSampler, clipped_sum, noise_generator

if TYPE_CHECKING:
    from scvi.data import AnnDataManager

    from hdeepinsight.models.dpdcan._module import DPDCANModule
    from hdeepinsight.models.dpdcan._privacy import PrivacyReport


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
