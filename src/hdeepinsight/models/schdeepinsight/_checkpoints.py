"""Training that goes on where it was interrupted, to the same result."""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.plugins.io import CheckpointIO

from hdeepinsight.models._base._io import dump, frame_from_plain, parse

if TYPE_CHECKING:
    from torch import Tensor

    from hdeepinsight.models.schdeepinsight._base import ReferenceModel
    from hdeepinsight.models.schdeepinsight._batches import ReferenceBatches

LOSS = "train_loss"
CHECKPOINT_FILE = "training.ckpt"
MIN_SECONDS = 20.0
"""Between two checkpoints; writing one takes time too."""


class PlainCheckpoints(CheckpointIO):  # type: ignore[misc]
    """Checkpoints of Lightning as plain types with a digest, which run no code when read."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write in one step: a kill leaves the earlier checkpoint."""
        path = Path(path)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(dump(checkpoint))
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read, with the numbers of the optimiser's parameters as numbers again."""
        checkpoint = parse(Path(path).read_bytes(), path)
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {int(key): state for key, state in optimizer["state"].items()}
            for group in optimizer["param_groups"]:
                group["betas"] = tuple(group["betas"])
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(pl.Callback):  # type: ignore[misc]
    """Write checkpoints after epochs, with all that decides how the training goes on.

    Parameters
    ----------
    folder
        Where the checkpoint is.
    batches
        Mini-batches of the training; the state of their generator is kept.
    fingerprint
        What has to be the same for a training to go on.
    """

    def __init__(self, folder: str | Path, batches: ReferenceBatches, fingerprint: str) -> None:
        self.path = Path(folder) / CHECKPOINT_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.batches = batches
        self.fingerprint = fingerprint
        self._written = time.monotonic()
        self._restored: dict[str, Any] | None = None
        self._trainer: pl.Trainer | None = None

    def added_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """Keyword arguments of a trainer that continues from the checkpoint, where there is one.

        Raises
        ------
        ValueError
            If the checkpoint is of another training.
        """
        plugins = [*options.get("plugins", ()), PlainCheckpoints()]
        callbacks = [*options.get("callbacks", ()), self]
        options = {**options, "plugins": plugins, "callbacks": callbacks}
        if self.path.is_file():
            self._check(parse(self.path.read_bytes(), self.path))
            options["ckpt_path"] = str(self.path)
        return options

    def remove(self) -> None:
        """Remove the checkpoint of a training that is finished."""
        self.path.unlink(missing_ok=True)

    def state_dict(self) -> dict[str, Any]:
        """Give generators, log and fingerprint."""
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        return {
            "fingerprint": self.fingerprint,
            "cells": self.batches.generator.bit_generator.state,
            "torch": torch.get_rng_state(),
            "cuda": cuda,
            "history": self._log(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the order of the cells now; the rest follows with the first epoch."""
        self.batches.generator.bit_generator.state = state_dict["cells"]
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Go on with the log so far, and with the random numbers that came next."""
        self._trainer = trainer
        if self._restored is not None:
            frames = {k: frame_from_plain(v) for k, v in self._restored["history"].items()}
            _log_of(trainer).update(frames)
            torch.set_rng_state(self._restored["torch"])
            if self._restored["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._restored["cuda"])
            self._restored = None

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint, unless there was one a moment ago."""
        if time.monotonic() - self._written >= MIN_SECONDS:
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()

    def _log(self) -> dict[str, pd.DataFrame]:
        """Give the log so far, with the loss of this epoch, which is logged a moment later."""
        if self._trainer is None:
            return {}
        log = dict(_log_of(self._trainer))
        epoch, loss = self._trainer.current_epoch, self._trainer.callback_metrics.get(LOSS)
        if loss is not None:
            row = pd.DataFrame({LOSS: [float(loss)]}, index=pd.Index([epoch], name="epoch"))
            log[LOSS] = pd.concat([log[LOSS], row]) if LOSS in log else row
        return log

    def _check(self, checkpoint: dict[str, Any]) -> None:
        found = checkpoint.get("callbacks", {}).get(self.state_key, {}).get("fingerprint")
        if found != self.fingerprint:
            msg = (
                f"{self.path} is of a training with other cells, settings or weights at its start. "
                "Valid is the same training again. Repeat it as it was, or remove the file."
            )
            raise ValueError(msg)


def _log_of(trainer: pl.Trainer) -> dict[str, pd.DataFrame]:
    """Metrics of a training, which scvi-tools adds to the model's history; none of other loggers.

    What is put into it counts as logged.
    """
    log: dict[str, pd.DataFrame] = getattr(trainer.logger, "history", {})
    return log


def fingerprint_of(
    settings: object, weights: Mapping[str, Tensor], batches: ReferenceBatches
) -> str:
    """SHA-256 of settings, weights at the start, and cells with their labels."""
    counts = batches.counts
    arrays = [counts.data, counts.indices, counts.indptr, batches.cell_nodes, batches.train_idx]
    arrays += [tensor.detach().cpu().numpy() for tensor in weights.values()]
    digest = hashlib.sha256(repr(settings).encode())
    for array in arrays:
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def unchanged_if_interrupted(model: ReferenceModel) -> Iterator[None]:
    """Give a model back as it was, whatever ends its training before its time.

    Lightning answers SIGINT with the end of the process, and ignores the next one; here it becomes
    a ``KeyboardInterrupt`` again.
    """
    weights = {name: t.detach().clone() for name, t in model.module.state_dict().items()}
    history = model.history_ and dict(model.history_)
    is_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if is_main else None
    try:
        yield
    except BaseException as error:
        model.module.load_state_dict(weights)
        model.module.eval()
        model.history_ = history
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
