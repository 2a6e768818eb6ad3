"""scANVI with scArches surgery, by scvi-tools.

Settings: the reference mapping tutorial of scvi-tools, i.e. 2,000 highly variable genes by counts,
two layers, layer normalisation and encoded covariates; scVI, then 20 epochs of scANVI with 100
cells a label, then 100 epochs of surgery without weight decay.
"""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import scanpy as sc
import scvi
import torch

from .interface import Cells, Prediction, Reference

UNKNOWN = "Unknown"
N_GENES = 2000
ARCHITECTURE = {
    "use_layer_norm": "both",
    "use_batch_norm": "none",
    "encode_covariates": True,
    "dropout_rate": 0.2,
    "n_layers": 2,
}
QUIET = {"enable_progress_bar": False, "accelerator": "cpu"}


class ScANVI:
    """Semi-supervised variational autoencoder, adapted to every query."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        del folder
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        scvi.settings.seed = seed

    def fit(self, reference: Reference) -> None:
        """Train scVI and scANVI on the reference."""
        self.tree = reference.tree
        adata = _variable(reference.anndata())
        adata.obs["label"] = [f"class_{code}" for code in reference.codes]
        scvi.model.SCVI.setup_anndata(adata, batch_key="batch", labels_key="label")
        base = scvi.model.SCVI(adata, **ARCHITECTURE)
        base.train(**QUIET)
        self.model = scvi.model.SCANVI.from_scvi_model(base, unlabeled_category=UNKNOWN)
        self.model.train(max_epochs=20, n_samples_per_label=100, **QUIET)

    def annotate(self, query: Cells) -> Prediction:
        """Pad the query's genes, adapt to its batches, predict."""
        adata = query.anndata()
        adata.obs["label"] = UNKNOWN
        scvi.model.SCANVI.prepare_query_anndata(adata, self.model)
        adapted = scvi.model.SCANVI.load_query_data(adata, self.model)
        adapted.train(max_epochs=100, plan_kwargs={"weight_decay": 0.0}, **QUIET)
        soft = adapted.predict(soft=True)
        codes = [int(name.removeprefix("class_")) for name in soft.columns]
        probabilities = np.zeros((query.n_cells, len(self.tree.classes)))
        probabilities[:, codes] = soft.to_numpy()
        return Prediction(codes=probabilities.argmax(axis=1), probabilities=probabilities)


def _variable(adata):
    """Take the 2,000 genes that the tutorial takes, or all of a smaller panel."""
    if adata.n_vars <= N_GENES:
        return adata
    expressed = adata[:, np.asarray((adata.X > 0).sum(axis=0)).ravel() >= 3].copy()
    sc.pp.highly_variable_genes(expressed, n_top_genes=N_GENES, flavor="seurat_v3", subset=True)
    return expressed
