"""scPoli by scArches.

Settings: the label transfer tutorial of scArches, i.e. embeddings of width 5, 50 epochs of which
four fifths without prototypes, early stopping on the prototype loss, ``eta=5``, and ``eta=10`` for
the query; 4,000 highly variable genes as in the paper. The tutorial has some ten thousand cells; on
smaller data there are more epochs, up to 400 as in scvi-tools, so that as many steps are taken.
"""

from __future__ import annotations

import logging
import random
import warnings
from pathlib import Path

import numpy as np
import scanpy as sc
import torch
from scarches.models.scpoli import scPoli

from .interface import Cells, Prediction, Reference

UNKNOWN = "Unknown"
N_GENES = 4000
EARLY_STOPPING = {
    "early_stopping_metric": "val_prototype_loss",
    "mode": "min",
    "threshold": 0,
    "patience": 20,
    "reduce_lr": True,
    "lr_patience": 13,
    "lr_factor": 0.1,
}


class ScPoli:
    """Conditional variational autoencoder with learned sample embeddings and prototypes."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        del folder
        warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def fit(self, reference: Reference) -> None:
        """Train on the reference."""
        self.tree = reference.tree
        adata = _variable(reference.anndata())
        self.genes = list(adata.var_names)
        adata.obs["batch"] = "reference " + adata.obs["batch"].astype(str)
        adata.obs["label"] = [f"class_{code}" for code in reference.codes]
        adata.X = adata.X.toarray()
        self.model = scPoli(
            adata=adata,
            condition_keys="batch",
            cell_type_keys="label",
            embedding_dims=5,
            recon_loss="nb",
        )
        self.model.train(eta=5, **_training(adata.n_obs))

    def annotate(self, query: Cells) -> Prediction:
        """Adapt to the query's conditions and classify by the nearest prototypes."""
        padded = Cells(query.aligned(self.genes)[0], np.array(self.genes, object), query.batch)
        adata = padded.anndata()
        adata.obs["batch"] = "query " + adata.obs["batch"].astype(str)
        adata.obs["label"] = UNKNOWN
        adata.X = adata.X.toarray()
        model = scPoli.load_query_data(
            adata=adata, reference_model=self.model, labeled_indices=[], unknown_ct_names=[UNKNOWN]
        )
        model.train(eta=10, **_training(adata.n_obs))
        result = model.classify(adata, scale_uncertainties=True)["label"]
        codes = np.array([int(str(name).removeprefix("class_")) for name in result["preds"]])
        return Prediction(codes=codes)


def _training(n_cells: int) -> dict:
    """Epochs for as many steps as 50 epochs of 10,000 cells, at least 50 and at most 400."""
    epochs = int(np.clip(round(50 * 10_000 / n_cells), 50, 400))
    return {
        "n_epochs": epochs,
        "pretraining_epochs": round(0.8 * epochs),
        "early_stopping_kwargs": EARLY_STOPPING,
    }


def _variable(adata):
    """Take highly variable genes, or all of a smaller panel."""
    if adata.n_vars <= N_GENES:
        return adata
    expressed = adata[:, np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 3].copy()
    sc.pp.highly_variable_genes(expressed, n_top_genes=N_GENES, flavor="seurat_v3", subset=True)
    return expressed
