"""Keep the weights of the best epoch, in memory."""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as pl
from torch import Tensor


class KeepBest(pl.Callback):  # type: ignore[misc]
    """Restore the weights of the epoch with the lowest validation metric when training ends.

    Parameters
    ----------
    monitor
        Name of the logged metric.
    """

    def __init__(self, monitor: str = "log_loss") -> None:
        self.monitor = monitor
        self.best_value = math.inf
        self.best_epoch: int | None = None
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the weights if this epoch is the best so far."""
        value = float(trainer.callback_metrics[self.monitor])
        if value < self.best_value:
            self.best_value, self.best_epoch = value, trainer.current_epoch
            state = pl_module.module.state_dict()
            self._weights = {name: tensor.detach().clone() for name, tensor in state.items()}

    def state_dict(self) -> dict[str, Any]:
        """Give the best epoch so far, for a checkpoint."""
        return {"value": self.best_value, "epoch": self.best_epoch, "weights": self._weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_value, self.best_epoch = state_dict["value"], state_dict["epoch"]
        self._weights = state_dict["weights"]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the best weights."""
        if self._weights:
            pl_module.module.load_state_dict(self._weights)
            self._weights = {}
