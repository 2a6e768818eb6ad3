"""Trainings that end before their time, here or in a process of their own."""

import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path

import anndata as ad
import lightning.pytorch as pl
import torch

from hdeepinsight import SCHDeepInsight

LEVELS = ["lineage", "cell_type"]
EPOCHS = 6


class Interrupt(pl.Callback):
    """Ends the training in the middle of an epoch, one way or another."""

    def __init__(self, epoch: int, how: str) -> None:
        self.epoch, self.how = epoch, how

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.current_epoch == self.epoch and batch_idx == 2:
            if self.how == "raise":
                raise MemoryError("too little")
            os.kill(os.getpid(), signal.Signals[self.how])


def built(reference: ad.AnnData, **options) -> SCHDeepInsight:
    """Make a model of labelled cells."""
    cells = reference.copy()
    SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS)
    return SCHDeepInsight(cells, layout="random", **options)


def train(model: SCHDeepInsight, **options) -> SCHDeepInsight:
    """Train a model, with some cells held out."""
    quiet = {"enable_progress_bar": False, "accelerator": "cpu", "validation_size": 0.2}
    model.train(EPOCHS, batch_size=32, **(quiet | options))
    return model


def interrupted(reference: ad.AnnData, folder: Path, how: str, options: dict, kind: dict) -> None:
    """Train until the fourth epoch, with a checkpoint in the folder."""
    train(built(reference, **options), checkpoint=folder, callbacks=[Interrupt(3, how)], **kind)


if __name__ == "__main__":
    import_module("hdeepinsight.models._base._training").MIN_SECONDS = 0.0
    cells, folder, threads, described = sys.argv[1:]
    torch.set_num_threads(int(threads))  # sums in another order would be other weights
    interrupted(ad.read_h5ad(cells), Path(folder), "SIGKILL", *json.loads(described))
