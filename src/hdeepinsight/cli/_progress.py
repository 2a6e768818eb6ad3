"""Training watched from the terminal."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from hdeepinsight.cli._console import errors

__all__ = ["quiet_logs", "training_progress"]

_CHATTY = ("lightning.pytorch", "scvi")


@contextmanager
def training_progress() -> Iterator[dict[str, Any]]:
    """Keyword arguments for ``train`` that draw a bar of epochs; no bar outside a terminal."""
    console = errors()
    with quiet_logs():
        if not console.is_terminal:
            yield {"enable_progress_bar": False}
            return
        columns = (
            TextColumn("Training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[losses]}"),
        )
        with Progress(*columns, console=console) as progress:
            yield {"enable_progress_bar": False, "callbacks": [_epoch_bar(progress)]}


@contextmanager
def quiet_logs() -> Iterator[None]:
    """Keep the trainer's remarks on devices and limits off the terminal."""
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _epoch_bar(progress: Progress) -> Any:
    """Make the trainer's callback; only here, because Lightning is slow to import."""
    from lightning.pytorch import Callback, LightningModule, Trainer

    class EpochBar(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
            self.task = progress.add_task("train", total=trainer.max_epochs, losses="")

        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            metrics = trainer.callback_metrics
            shown = [name for name in ("train_loss", "validation_loss") if name in metrics]
            losses = ", ".join(f"{name.replace('_', ' ')} {metrics[name]:.3f}" for name in shown)
            progress.update(self.task, advance=1, losses=losses)

    return EpochBar()
