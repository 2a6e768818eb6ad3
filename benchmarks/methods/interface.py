"""What a method gets and gives."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import anndata as ad
import numpy as np
import pandas as pd
from harness.tree import LabelTree
from scipy import sparse


@dataclass(frozen=True)
class Cells:
    """Cells without labels.

    Parameters
    ----------
    counts
        ``(n_cells, n_genes)`` integer counts as CSR float32.
    genes
        Gene names, ``(n_genes,)``.
    batch
        Batch of every cell, ``(n_cells,)``.
    """

    counts: sparse.csr_matrix
    genes: np.ndarray
    batch: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.counts.shape[0]

    def aligned(self, genes: list[str]) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Pick `genes` in their order, 0 where one is missing; also say which were measured."""
        source = pd.Index(self.genes).get_indexer(genes)
        measured = source >= 0
        columns = np.flatnonzero(measured)
        picker = sparse.csr_matrix(
            (np.ones(len(columns), np.float32), (source[measured], columns)),
            shape=(len(self.genes), len(genes)),
        )
        counts = sparse.csr_matrix(self.counts @ picker)
        counts.sort_indices()
        return counts, measured

    def anndata(self) -> ad.AnnData:
        """Make a fresh AnnData with the counts in ``X`` and ``batch`` in ``obs``."""
        names = [f"cell_{i}" for i in range(self.n_cells)]
        obs = pd.DataFrame({"batch": pd.Categorical(self.batch)}, index=names)
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        return ad.AnnData(X=self.counts.copy(), obs=obs, var=var)


@dataclass(frozen=True)
class Reference(Cells):
    """Labelled cells.

    Parameters
    ----------
    labels
        One column a level, coarse to fine, ``""`` where a cell is not labelled as deep.
    tree
        The classes.
    codes
        Class of every cell, ``(n_cells,)``.
    selected
        Genes of the controls that share one gene list.
    """

    labels: pd.DataFrame
    tree: LabelTree
    codes: np.ndarray
    selected: list[str]

    def __getitem__(self, cells: np.ndarray) -> Reference:
        """Pick cells by a mask or by position, and the classes that they have."""
        labels = self.labels.iloc[cells].reset_index(drop=True)
        tree = LabelTree.from_labels(labels)
        return replace(
            self,
            counts=self.counts[cells],
            batch=self.batch[cells],
            labels=labels,
            tree=tree,
            codes=tree.codes(labels),
        )

    @property
    def class_names(self) -> np.ndarray:
        """Class of every cell by name, ``(n_cells,)`` strings."""
        return np.array(self.tree.names, dtype=object)[self.codes]


@dataclass(frozen=True)
class Prediction:
    """What a method says about a query.

    Parameters
    ----------
    codes
        Class of every cell, ``(n_cells,)``; labels are read off its path.
    labels
        Given instead of `codes` by methods that stop above a class or reject cells:
        ``(n_cells, n_levels)`` strings, ``""`` for none.
    probabilities
        ``(n_cells, n_classes)``, or ``None`` where the method has none.
    """

    codes: np.ndarray | None = None
    labels: np.ndarray | None = None
    probabilities: np.ndarray | None = None

    def table(self, tree: LabelTree) -> np.ndarray:
        """Labels, ``(n_cells, n_levels)``."""
        return tree.table()[self.codes] if self.labels is None else np.asarray(self.labels, object)

    def save(self, path: Path, tree: LabelTree, n_cells: int) -> None:
        """Check the shapes and write an ``.npz`` without pickled objects."""
        arrays = {"labels": self.table(tree).astype(str)}
        if self.probabilities is not None:
            arrays["probabilities"] = np.asarray(self.probabilities, dtype=np.float32)
            if arrays["probabilities"].shape != (n_cells, len(tree.classes)):
                raise ValueError(f"probabilities are {arrays['probabilities'].shape}")
        if arrays["labels"].shape != (n_cells, len(tree.levels)):
            raise ValueError(f"labels are {arrays['labels'].shape}")
        np.savez_compressed(path, **arrays)


class Method(Protocol):
    """A method: built with ``seed``, ``threads``, a scratch ``folder`` and options of its own."""

    def fit(self, reference: Reference) -> None:
        """Learn from the reference; what happens here is training time."""

    def annotate(self, query: Cells) -> Prediction:
        """Label a query; what needs the query happens here and is annotation time."""


def read_cells(path: str) -> Cells:
    """Read a prepared query."""
    adata = ad.read_h5ad(path)
    return Cells(_counts(adata), np.asarray(adata.var_names, dtype=object), _column(adata, "batch"))


def read_reference(path: str, levels: list[str], genes: str) -> Reference:
    """Read a prepared reference."""
    adata = ad.read_h5ad(path)
    labels = pd.DataFrame({level: _column(adata, level) for level in levels})
    tree = LabelTree.from_labels(labels)
    return Reference(
        counts=_counts(adata),
        genes=np.asarray(adata.var_names, dtype=object),
        batch=_column(adata, "batch"),
        labels=labels,
        tree=tree,
        codes=tree.codes(labels),
        selected=json.loads(Path(genes).read_text()),
    )


def _counts(adata: ad.AnnData) -> sparse.csr_matrix:
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    counts.sort_indices()  # some libraries read unsorted ones as if they were sorted
    return counts


def _column(adata: ad.AnnData, name: str) -> np.ndarray:
    return adata.obs[name].astype(object).fillna("").astype(str).to_numpy(dtype=object)
