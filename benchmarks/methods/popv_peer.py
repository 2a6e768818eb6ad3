"""popV's consensus, without the Cell Ontology.

Settings: the defaults of ``Process_Query`` in its "retrain" mode (4,000 genes, 300 cells a label)
and all current algorithms. Before choosing genes popV drops those seen in fewer than 200 cells,
which is meant for atlases and leaves 42 genes of a reference of 300 cells; so the genes are chosen
here, by the same rule, among those seen in at least 3. Its ontology files are downloads tied to
Cell Ontology labels, so the ontology is off: OnClass drops out and the consensus is popV's own
majority vote.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import popv
import scanpy as sc
import torch

from .interface import Cells, Prediction, Reference

UNKNOWN = "unknown"
N_GENES = 4000


class PopV:
    """Vote of popV's classifiers, all of which need the query: nothing happens before."""

    def __init__(self, *, seed: int, threads: int, folder: Path):
        warnings.simplefilter("ignore")
        torch.set_num_threads(threads)
        popv.settings.seed = seed
        popv.settings.n_jobs = 1  # popV also takes it for the number of training devices
        popv.settings.accelerator = "cpu"
        popv.settings.compute_umap_embedding = False
        self.folder, self.threads = folder, threads
        self.extra: dict = {}

    def fit(self, reference: Reference) -> None:
        """Keep the reference."""
        self.reference = reference

    def annotate(self, query: Cells) -> Prediction:
        """Train every algorithm on reference and query, and let them vote."""
        adata = self._processed(query)
        threads = {"CELLTYPIST": {"method_kwargs": {"n_jobs": self.threads}}}
        popv.annotation.annotate_data(adata, methods_kwargs=threads)
        cells = adata[adata.obs["_dataset"] == "query"]
        self.extra = {"popv_methods": [str(name) for name in adata.uns["methods"]]}
        return self._prediction(cells, query.n_cells)

    def _processed(self, query: Cells):
        shared = sorted(set(self.reference.genes) & set(query.genes))
        reference = _variable(self.reference.anndata()[:, shared].copy())
        reference.obs["label"] = [f"class_{code}" for code in self.reference.codes]
        reference.obs_names = "reference_" + reference.obs_names
        return popv.preprocessing.Process_Query(
            query.anndata(),
            reference,
            ref_labels_key="label",
            ref_batch_key="batch",
            query_batch_key="batch",
            cl_obo_folder=False,
            unknown_celltype_label=UNKNOWN,
            save_path_trained_models=str(self.folder / "popv"),
        ).adata

    def _prediction(self, cells, n_cells: int) -> Prediction:
        """Shares of the votes; cells that popV drops (under 30 counts) have no label."""
        tree = self.reference.tree
        rows = np.array([int(name.split("_")[1]) for name in cells.obs_names])
        votes = np.zeros((n_cells, len(tree.classes)))
        keys = cells.uns["prediction_keys_seen"]
        for key in keys:
            votes[rows, _codes(cells.obs[key])] += 1 / len(keys)
        labels = np.full((n_cells, len(tree.levels)), "", dtype=object)
        labels[rows] = tree.table()[_codes(cells.obs["popv_prediction"])]
        return Prediction(labels=labels, probabilities=votes)


def _variable(adata):
    """Choose genes as popV does, but among those seen in at least 3 cells."""
    if adata.n_vars <= N_GENES:
        return adata
    sc.pp.filter_genes(adata, min_cells=3)
    n_genes = min(N_GENES, adata.n_vars)
    sc.pp.highly_variable_genes(
        adata, n_top_genes=n_genes, flavor="seurat_v3", span=1.0, subset=True
    )
    return adata


def _codes(names) -> np.ndarray:
    return np.array([int(str(name).removeprefix("class_")) for name in names])
