"""Trainer options, checkpoints, and recovery from interrupted training."""

from __future__ import annotations

import copy
import inspect
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import lightning.pytorch as pl
import pandas as pd
import torch
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.io import CheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from scvi.model._utils import use_distributed_sampler
from scvi.train import Trainer, TrainRunner
from scvi.train._logger import SimpleLogger

from hdeepinsight._archive import dump, frame_from_plain, parse
from hdeepinsight._errors import invalid
from hdeepinsight._errors import refuse_unused as refuse_unused
from hdeepinsight._io import atomic_write
from hdeepinsight._progress import progress_visible
from hdeepinsight.nn import one_at_a_time
from hdeepinsight.nn import seeded as seeded

P = ParamSpec("P")
CHECKPOINT_FILE = "training.ckpt"
LOSS = "train_loss"
VALIDATIONS = 50
#: Arguments of :meth:`CountModel.train` that select the training cells and form mini-batches.
SPLITTING = "train_size", "validation_size", "shuffle_set_split", "split_key"
LOADING = *SPLITTING, "batch_size", "datasplitter_kwargs"
#: Options of loaders and trainer that change the result of a training.
DECISIVE = {
    *("drop_last", "precision", "gradient_clip_val", "gradient_clip_algorithm", "max_steps"),
    *("accumulate_grad_batches", "limit_train_batches"),
}
#: Trainer options that concern validations.
VALIDATING = (
    "check_val_every_n_epoch",
    "limit_val_batches",
    "num_sanity_val_steps",
    "val_check_interval",
)
#: Minimum time between two checkpoints.
MIN_SECONDS = 20.0


def trainer_options(
    given: Mapping[str, Any], epochs: int, n_val: int, devices: Any, *, monitor: str | None
) -> dict[str, Any]:
    """Return keyword arguments of the trainer; given ones take precedence.

    Parameters
    ----------
    given
        Trainer arguments passed by the user.
    epochs, n_val, devices
        Number of epochs, number of held-out cells, and devices.
    monitor
        Metric for early stopping; ``None`` for no early stopping.

    Raises
    ------
    ValueError
        If a setting has no effect.
    """
    options = {
        "log_every_n_steps": 1,
        "enable_progress_bar": progress_visible(),
        "check_val_every_n_epoch": max(1, epochs // VALIDATIONS),
        **given,
        **({} if n_val else {"limit_val_batches": 0}),
    }
    unused = {name: given.get(name) for name in VALIDATING if not n_val}
    refuse_unused(unused, "because no cells are held out")
    for name, needed in (
        ("gradient_clip_algorithm", "gradient_clip_val"),
        ("checkpointing_monitor", "enable_checkpointing"),
    ):
        refuse_unused({name: given.get(name) and not given.get(needed)}, f"without {needed}")
    if given.get("overfit_batches"):
        hint = "Pass limit_train_batches to train on few mini-batches."
        raise invalid("overfit_batches", given["overfit_batches"], "omitted", hint)
    for name, kind in (("callbacks", pl.Callback), ("logger", Logger)):
        if not all(isinstance(each, bool | kind) for each in _as_list(given.get(name))):
            expected = f"a Lightning {name.removesuffix('s')}, or a list of them"
            raise invalid(name, given[name], expected, "Omit it to use the default.")
    callbacks = _as_list(options.get("callbacks"))
    distributed = is_distributed(options, devices)
    if distributed:
        options.setdefault("strategy", "ddp_find_unused_parameters_true")
        # Lightning averages the metrics of the processes in place.
        options.setdefault("inference_mode", False)
    if monitor is not None:
        refuse_unused({"early_stopping": distributed}, "on several devices")
        stopping = {"early_stopping_monitor": monitor, "early_stopping_patience": 12}
        options = {"early_stopping": True, **stopping, **options}
        how = options["early_stopping_monitor"], options.get("early_stopping_mode", "min")
        callbacks = [KeepBest(*how), *callbacks]
        every = options["check_val_every_n_epoch"] or 1
        if every > epochs or options.get("limit_val_batches") == 0:
            n_cells = f"{n_val:,} held-out cells and {epochs:,} epochs"
            msg = f"early_stopping requires validations, but there are none with {n_cells}. Raise"
            raise ValueError(f"{msg} validation_size or max_epochs, or train without it.")
    else:
        unused = {name: True for name in given if name.startswith("early_stopping")}
        unused |= {name: given.get(name) for name in ("min_epochs", "min_steps") if not callbacks}
        where = "in this training" if "early_stopping" in given else "without early_stopping=True"
        refuse_unused(unused, where)
    own = options.pop("logger", None)
    if own:  # SimpleLogger keeps the history that scvi-tools reads
        own = CSVLogger(options.get("default_root_dir") or ".") if own is True else own
        options["logger"] = [SimpleLogger(), *_as_list(own)]
    return {**options, "callbacks": callbacks}


def sizes_of(datamodule: Any) -> tuple[int, int]:
    """Return the numbers of training and held-out cells of a datamodule.

    Some datamodules of scvi-tools have only the total number of cells and the training share.
    """
    n_all = getattr(datamodule, "n_obs", None)
    if (n_train := getattr(datamodule, "n_train", None)) is None:
        if n_all is None:
            expected = "an object with n_train, or n_obs and train_size, as in scvi-tools"
            raise invalid("datamodule", type(datamodule).__name__, expected, "Add one of them.")
        n_train = round(n_all * (getattr(datamodule, "train_size", None) or 1.0))
        return n_train, n_all - n_train
    return n_train, getattr(datamodule, "n_val", None) or 0


def check_names(given: Mapping[str, Any]) -> None:
    """Raise ``TypeError`` for keyword arguments that the trainer does not accept."""
    known = {*inspect.signature(Trainer).parameters, *inspect.signature(pl.Trainer).parameters}
    unknown = sorted(set(given) - known - {"ckpt_path"})
    if unknown:
        raise TypeError(
            f"train() got {', '.join(unknown)}, which neither it nor the trainer accepts. Pass "
            "optimiser settings as plan_kwargs={'lr': ..., 'weight_decay': ...}, loader settings "
            "as datasplitter_kwargs, the number of epochs as max_epochs, and the device as "
            "accelerator and devices."
        )


def check_accelerator(accelerator: Any) -> None:
    """Raise ``ValueError`` for a kind of graphics processor that this machine lacks."""
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not (found | {"gpu": any(found.values())}).get(accelerator, True):
        hint = "Pass 'cpu', or omit it to use the best available device."
        raise invalid("accelerator", accelerator, "available on this machine", hint)


def check_finite(module: torch.nn.Module) -> None:
    """Raise ``ValueError`` if any weight is not finite."""
    if not all(torch.isfinite(parameter).all() for parameter in module.parameters()):
        msg = "The training diverged: weights are NaN or infinite. Pass a smaller learning rate:"
        raise ValueError(f"{msg} plan_kwargs={{'lr': ...}}.")


def refuse_without_effect(settings: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise ``ValueError`` if one of the named settings differs from its default."""
    defaults = {"shuffle_set_split": True, "early_stopping": False}
    given = [name for name in names if settings[name] is not defaults.get(name)]
    refuse_unused({f"train({', '.join(given)}=...)": given}, where)


def as_options(name: str, given: Any) -> dict[str, Any]:
    """Return a copy of a dict of options, empty for ``None``; raise ``ValueError`` otherwise."""
    if not isinstance(given, Mapping | None):
        raise invalid(name, given, "a dict of options such as {'lr': 1e-3}")
    return dict(given or {})


def is_distributed(options: Mapping[str, Any], devices: Any) -> bool:
    """Return whether a training runs in several processes."""
    if use_distributed_sampler(options.get("strategy")) or options.get("num_nodes", 1) > 1:
        return True
    if isinstance(devices, str):
        devices = devices.strip(", ").split(",") if "," in devices else devices
    if isinstance(devices, list | tuple):
        return len(devices) > 1
    number = int(devices) if str(devices).lstrip("-").isdigit() else 1
    return (torch.cuda.device_count() if number == -1 else number) > 1


class ErrorKeepingTrainer(Trainer):  # type: ignore[misc]
    """Trainer that keeps the error that ended a training, which scvi-tools would print."""

    error: BaseException | None = None

    def fit(self, *args: Any, **kwargs: Any) -> None:
        """Run the training; store an error in ``error`` instead of raising it."""
        try:
            super().fit(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001  # including the SystemExit of a signal
            self.error = error


class Runner(TrainRunner):  # type: ignore[misc]
    """Runner of scvi-tools whose caller raises ``trainer.error``."""

    _trainer_cls = ErrorKeepingTrainer


class KeepBest(pl.Callback):
    """Callback that restores the weights of the epoch with the best validation metric.

    Parameters
    ----------
    monitor
        Name of the logged metric.
    mode
        ``"min"`` if low values are good, else ``"max"``.
    """

    def __init__(self, monitor: str, mode: str = "min") -> None:
        self.monitor, self.sign = monitor, -1.0 if mode == "max" else 1.0
        self.best: dict[str, Any] = {"value": math.inf, "epoch": None, "weights": {}}

    def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Copy the weights if the metric improved."""
        value = self.sign * float(trainer.callback_metrics.get(self.monitor, math.nan))
        if value < self.best["value"]:
            epoch = trainer.current_epoch
            weights = copy.deepcopy(pl_module.module.state_dict())
            self.best = {"value": value, "epoch": epoch, "weights": weights}

    def state_dict(self) -> dict[str, Any]:
        """Return the best epoch so far, for a checkpoint."""
        return self.best

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Set the best epoch from a checkpoint."""
        self.best = state_dict

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        """Load the best weights."""
        if weights := self.best.pop("weights", None):
            pl_module.module.load_state_dict(weights)


class PlainCheckpoints(CheckpointIO):
    """Lightning checkpoints in the format of model files, which contains no code."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint atomically."""
        with atomic_write(path) as unfinished:
            unfinished.write_bytes(dump(checkpoint))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; convert the keys of the optimiser state back to integers."""
        checkpoint = parse(Path(path).read_bytes(), path)
        for optimizer in checkpoint["optimizer_states"]:
            optimizer["state"] = {int(key): state for key, state in optimizer["state"].items()}
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class Checkpoints(pl.Callback):
    """Callback that writes checkpoints between epochs, with the random state and the log.

    A checkpoint is written after the first epoch, then at most every ``MIN_SECONDS``.

    Parameters
    ----------
    folder
        Folder of the checkpoint.
    fingerprint
        Digest of data, settings and initial weights; a checkpoint is resumed only if it matches.
    """

    def __init__(self, folder: str | Path, fingerprint: str) -> None:
        is_path = isinstance(folder, str | os.PathLike) and str(folder)
        if not is_path or (Path(folder).exists() and not Path(folder).is_dir()):
            raise invalid("checkpoint", folder, "a folder", "Omit it to write none.")
        self.path = Path(folder) / CHECKPOINT_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.fingerprint = fingerprint
        self._written = -math.inf
        self._restored: dict[str, Any] | None = None
        self._trainer: pl.Trainer | None = None

    def added_to(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return trainer options that write checkpoints and resume from an existing one.

        Raises
        ------
        ValueError
            If the checkpoint belongs to another training.
        """
        plugins = [*_as_list(options.get("plugins")), PlainCheckpoints()]
        options = {**options, "plugins": plugins, "callbacks": [*options["callbacks"], self]}
        if self.path.is_file():
            found = parse(self.path.read_bytes(), self.path).get("callbacks", {})
            if found.get(self.state_key, {}).get("fingerprint") != self.fingerprint:
                raise ValueError(
                    f"{self.path} belongs to a training with other cells, settings or initial "
                    "weights. Repeat that training without changes, or remove the file."
                )
            options["ckpt_path"] = str(self.path)
        return options

    def state_dict(self) -> dict[str, Any]:
        """Return the random state, the log and the fingerprint."""
        return {
            "fingerprint": self.fingerprint,
            "torch": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all(),
            "history": self._log(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the first epoch starts."""
        self._restored = state_dict

    def on_train_epoch_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Restore the log and the random state in the first epoch after a restart."""
        self._trainer = trainer
        if self._restored is not None:
            frames = {k: frame_from_plain(v) for k, v in self._restored["history"].items()}
            _log_of(trainer).update(frames)
            torch.set_rng_state(self._restored["torch"])
            if torch.cuda.is_available():
                torch.cuda.set_rng_state_all(self._restored["cuda"])
            self._restored = None
            # In the first epoch of a run, the order of cells is drawn before this hook.
            iter(trainer.fit_loop._data_fetcher)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write a checkpoint, unless the last one is less than ``MIN_SECONDS`` old."""
        if time.monotonic() - self._written >= MIN_SECONDS:
            trainer.save_checkpoint(self.path)
            self._written = time.monotonic()

    def _log(self) -> dict[str, pd.DataFrame]:
        """Return the log so far with the loss of this epoch, which Lightning logs later."""
        if self._trainer is None:
            return {}
        log = dict(_log_of(self._trainer))
        epoch, loss = self._trainer.current_epoch, self._trainer.callback_metrics.get(LOSS)
        if loss is not None:
            row = pd.DataFrame({LOSS: [float(loss)]}, index=pd.Index([epoch], name="epoch"))
            log[LOSS] = pd.concat([log[LOSS], row]) if LOSS in log else row
        return log


@contextmanager
def unchanged_if_interrupted(model: Any) -> Iterator[None]:
    """Restore weights and attributes of a model if its training is interrupted or fails.

    Lightning converts SIGINT and SIGTERM to a ``SystemExit``. This converts SIGINT back to a
    ``KeyboardInterrupt`` and ends the process with SIGTERM, so that a scheduler does not regard
    the job as completed.
    """
    before = {**vars(model), "history_": model.history_ and dict(model.history_)}
    module = copy.deepcopy(model.module)
    is_main = threading.current_thread() is threading.main_thread()
    handlers = {kind: signal.getsignal(kind) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException as error:
        vars(model).update(before)
        if module is not None:
            vars(model.module).update(vars(module.eval()))  # in place: other models may share it
        if isinstance(error, SIGTERMException):
            signal.signal(signal.SIGTERM, handlers[signal.SIGTERM] or signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
            raise SystemExit(128 + signal.SIGTERM) from error  # if the user's handler returned
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error
        raise
    finally:
        for kind, handler in handlers.items():
            if is_main and handler is not None:
                signal.signal(kind, handler)


def leaves_unchanged_if_interrupted(train: Callable[P, None]) -> Callable[P, None]:
    """Decorate a method that trains: one at a time, and with :func:`unchanged_if_interrupted`."""

    @wraps(train)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with one_at_a_time(), unchanged_if_interrupted(args[0]):
            train(*args, **kwargs)

    return run


def _as_list(given: Any) -> list[Any]:
    """Return a trainer argument that is one object, several or ``None`` as a list."""
    if given is None:
        return []
    return list(given) if isinstance(given, Iterable) else [given]


def _log_of(trainer: pl.Trainer) -> dict[str, pd.DataFrame]:
    """Return the logged metrics, a mutable dict that scvi-tools copies to the history."""
    log: dict[str, pd.DataFrame] = getattr(trainer.logger, "history", {})
    return log
