"""Training: hold cells out, optimise, calibrate, and write down how it was done."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi.train import TrainRunner

from hdeepinsight.models.schdeepinsight._batches import ReferenceBatches, Split
from hdeepinsight.models.schdeepinsight._calibration import CalibrationMixin
from hdeepinsight.models.schdeepinsight._callbacks import KeepBest
from hdeepinsight.models.schdeepinsight._checkpoints import (
    Checkpoints,
    fingerprint_of,
    unchanged_if_interrupted,
)
from hdeepinsight.models.schdeepinsight._multimodal import MultimodalMixin
from hdeepinsight.models.schdeepinsight._plan import HierarchicalTrainingPlan
from hdeepinsight.models.schdeepinsight._reference import check_numbers, read_counts
from hdeepinsight.models.schdeepinsight._split import split_cells, split_groups

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.tl import LabelAudit

DEFAULT_STEPS = 1200
EPOCH_BOUNDS = (5, 400)
BATCH_SIZE_BOUNDS = (16, 128)
VALIDATIONS = 50
RECORDED_PACKAGES = ("hdeepinsight", "scvi-tools", "torch", "lightning", "anndata", "numpy")


class TrainingMixin(CalibrationMixin, MultimodalMixin):
    """Fit the network to the registered reference."""

    def train(
        self,
        max_epochs: int | None = None,
        *,
        validation_size: float = 0.1,
        split_key: str | None = None,
        batch_size: int | None = None,
        max_lr: float = 2e-3,
        weight_decay: float = 1e-4,
        early_stopping: bool = False,
        early_stopping_patience: int = 12,
        audit: bool | LabelAudit = False,
        checkpoint: str | Path | None = None,
        accelerator: str = "auto",
        devices: int | str = "auto",
        **trainer_kwargs: Any,
    ) -> None:
        """Train the network.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default as many as make about 1,200 steps of the
            optimiser, at least 5 and at most 400.
        validation_size
            Share of cells held out for the metrics in ``history`` and for calibration; 0 holds
            none out.
        split_key
            Column of ``obs`` whose groups (donors, studies) are held out whole. By default cells
            are held out within every label.
        batch_size
            Cells a mini-batch; by default an eighth of the cells, at least 16 and at most 128.
        max_lr
            Peak of the one-cycle learning rate.
        weight_decay
            Decoupled weight decay.
        early_stopping
            Stop when the held-out log-loss has not fallen ``early_stopping_patience`` times in a
            row, and keep the best epoch. Off by default: the learning rate falls to zero over
            ``max_epochs``, and the last epoch was the best one in our measurements.
        early_stopping_patience
            Validations to wait; there are about 50 in a training.
        audit
            Whether to audit the labels first (:func:`hdeepinsight.tl.audit_labels`), or an audit of
            these cells. Training cells with a suspicious label are then taken as labelled only
            down to where the audit agrees; held-out cells keep their labels. Off by default: it
            helps where labels are impure, and changes little elsewhere.
        checkpoint
            Folder for a checkpoint, which is written after epochs, and removed at the end. Where
            there is one, of the same training, it goes on from there to the same result. By
            default there is none, and a training that is interrupted leaves the model as it was.
        accelerator, devices
            As in Lightning.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`: ``precision``, ``enable_progress_bar``,
            ``callbacks``, ...

        Raises
        ------
        KeyError
            If ``split_key`` is no column.
        ValueError
            If a setting is out of its range, or no group of ``split_key`` can be held out.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCHDeepInsight(reference, layout="random", n_latent=16)
        >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        >>> model.is_trained_, len(model.validation_indices_) > 0
        (True, True)
        """
        check_settings(max_epochs, batch_size, validation_size, early_stopping_patience)
        check_rates(max_lr, weight_decay)
        adata = self._own_adata()
        counts = read_counts(self._counts(adata), self.layout.genes)
        nodes = self._label_nodes(adata)
        split = self._split(nodes, validation_size, split_key)
        given = nodes
        if audit is not False:
            nodes = self._lifted_nodes(adata, given, split, audit)
        batch_size = batch_size or default_batch_size(len(split.train))
        batches = ReferenceBatches(
            counts,
            nodes,
            split,
            thinning=self.thinning,
            batch_size=batch_size,
            seed=self.seed,
            proteins=self._proteins_of(adata),
        )
        epochs = max_epochs or default_epochs(batches.n_train, batch_size)
        plan = HierarchicalTrainingPlan(
            self.module, self.taxonomy, max_lr=max_lr, weight_decay=weight_decay
        )
        given_options = trainer_options(
            epochs, batches.n_val > 0, early_stopping, early_stopping_patience, trainer_kwargs
        )
        settings = {
            "max_epochs": epochs,
            "batch_size": batch_size,
            "max_lr": max_lr,
            "weight_decay": weight_decay,
            "split_key": split_key,
        }
        checkpoints = None
        if checkpoint is not None:
            start = (self.init_params_, settings, early_stopping, early_stopping_patience)
            fingerprint = fingerprint_of(start, plan.state_dict(), batches)
            checkpoints = Checkpoints(checkpoint, batches, fingerprint)
            given_options = checkpoints.added_to(given_options)
        runner = TrainRunner(
            self,
            training_plan=plan,
            data_splitter=batches,
            max_epochs=epochs,
            accelerator=accelerator,
            devices=devices,
            **given_options,
        )
        with unchanged_if_interrupted(self):
            self.module.train()
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                runner()
        self._finish(
            batches,
            {
                **settings,
                **({"n_lifted_labels": int((nodes != given).sum())} if audit is not False else {}),
            },
        )
        if checkpoints is not None:
            checkpoints.remove()

    def _split(self, nodes: np.ndarray, fraction: float, split_key: str | None) -> Split:
        rng = np.random.default_rng(self.seed)
        if split_key is None:
            return split_cells(nodes, fraction, rng)
        groups = self._column(split_key).astype(str).to_numpy()
        return split_groups(nodes, groups, fraction, rng)

    def _lifted_nodes(
        self, adata: AnnData, nodes: np.ndarray, split: Split, audit: Literal[True] | LabelAudit
    ) -> np.ndarray:
        """Labels with the suspicious ones of training cells lifted to where the audit agrees."""
        from hdeepinsight.tl import audit_nodes

        if audit is True:
            key = self._setup_args["batch_key"]
            audit = audit_nodes(
                self._rna(adata),
                self.taxonomy,
                nodes,
                layer=self._counts_layer,
                batches=None if key is None else self._column(key).astype(str).to_numpy(),
                seed=self.seed,
            )
        audit.check_cells(adata)
        audit.check_taxonomy(self.taxonomy)
        lifted = nodes.copy()
        cells = split.train[audit.suspicious[split.train]]
        lifted[cells] = audit.agreed_nodes[cells]
        return lifted

    def _finish(self, batches: ReferenceBatches, options: dict[str, Any]) -> None:
        if batches.n_val:
            self._fit_temperatures(batches)
            self._fit_confidence(batches)
        self.recipe_ = {
            "backbone": self.backbone_name,
            "n_cells": batches.n_train + batches.n_val,
            "n_held_out": batches.n_val,
            "n_genes": len(self.layout.genes),
            "seed": self.seed,
            **options,
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_PACKAGES},
        }


def check_settings(
    max_epochs: int | None, batch_size: int | None, validation_size: float, patience: int
) -> None:
    """Refuse settings that nothing can be trained with."""
    check_numbers(max_epochs=max_epochs, batch_size=batch_size, early_stopping_patience=patience)
    if not 0 <= validation_size < 1:
        msg = (
            f"validation_size={validation_size}; valid are shares from 0 to below 1. Pass 0.1 to "
            "hold a tenth of the cells out, 0 for none."
        )
        raise ValueError(msg)


def check_rates(max_lr: float, weight_decay: float) -> None:
    """Refuse a learning rate that teaches nothing, and weights that grow by themselves."""
    if not max_lr > 0:
        msg = f"max_lr={max_lr}; valid is a number above 0. Leave it out for the default."
        raise ValueError(msg)
    if not weight_decay >= 0:
        msg = f"weight_decay={weight_decay}; valid is a number from 0 up. Pass 0 for none."
        raise ValueError(msg)


def trainer_options(
    epochs: int, held_out: bool, early_stopping: bool, patience: int, given: dict[str, Any]
) -> dict[str, Any]:
    """Keyword arguments of the trainer; those that were given win."""
    if not held_out and early_stopping:
        msg = (
            "early_stopping needs held-out cells, and none are held out. "
            "Raise validation_size, or train without early stopping."
        )
        raise ValueError(msg)
    options: dict[str, Any] = {
        "log_every_n_steps": 1,
        "check_val_every_n_epoch": max(1, epochs // VALIDATIONS),
    }
    if not held_out:
        options["limit_val_batches"] = 0
    if early_stopping:
        options |= {
            "early_stopping": True,
            "early_stopping_monitor": "log_loss",
            "early_stopping_patience": patience,
        }
        given = {**given, "callbacks": [KeepBest(), *given.get("callbacks", ())]}
    return {**options, **given}


def default_batch_size(n_cells: int) -> int:
    """Cells a mini-batch: an eighth of all, within bounds."""
    return int(np.clip(n_cells // 8, *BATCH_SIZE_BOUNDS))


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Epochs that make about ``DEFAULT_STEPS`` steps, within bounds."""
    steps_an_epoch = max(1, -(-n_cells // batch_size))
    return int(np.clip(round(DEFAULT_STEPS / steps_an_epoch), *EPOCH_BOUNDS))
