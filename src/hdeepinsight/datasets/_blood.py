"""Labelled blood cells without a download: PBMC 3k, and a small split for examples."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from sklearn.model_selection import train_test_split

from hdeepinsight.data import recover_counts

#: For each source, what its labels mean at every level; a type without subtypes keeps its name.
_LABELS: Final = pd.read_csv(Path(__file__).with_name("blood_labels.tsv"), sep="\t")
_HELD_OUT: Final = 0.3


def _label(adata: AnnData, labels: pd.Series, source: str) -> None:
    """Write one column per level, with categories in the order of the table."""
    known = _LABELS[_LABELS["source"] == source].dropna(axis=1).set_index("label")
    for level in known.columns[1:]:
        names = known.loc[labels, level].to_numpy()
        adata.obs[level] = pd.Categorical(names, categories=known[level].unique())


def pbmc3k() -> AnnData:
    """Return PBMC 3k, 2,638 labelled blood cells that come with the package.

    Returns
    -------
    Raw counts in ``X``, ``(2638, 13714)``, gene symbols in ``var_names``, and the labels of the
    Seurat tutorial in ``obs["lineage"]``, ``obs["cell_type"]`` and ``obs["subtype"]``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> adata = hdi.datasets.pbmc3k()
    >>> adata.obs["cell_type"].value_counts().to_dict()
    {'CD4 T': 1180, 'Monocyte': 642, 'B': 344, 'CD8 T': 271, 'NK': 155, 'DC': 32, 'Platelet': 14}

    Notes
    -----
    Cells of one healthy donor, 10x 3' v1 (10x Genomics, CC BY 4.0; Zheng et al. 2017,
    doi:10.1038/ncomms14049). The labels are clusters that were named by their markers, as clustifyr
    shares them (MIT licence); part of the naive CD8 T cells is in the cluster "CD4 T naive". The
    names and the three levels are ours. ``pbmc3k.md`` beside the file holds the licences.
    """
    with h5py.File(Path(__file__).with_name("pbmc3k.h5")) as file:
        counts = sparse.csr_matrix(file["counts"][()].T, dtype=np.float32)
        genes, cells, labels = (file[name].asstr()[()] for name in ("gene", "cell", "label"))
    adata = AnnData(counts, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=genes))
    _label(adata, pd.Series(labels), "pbmc3k")
    return adata


@dataclass(frozen=True, eq=False)
class DemoData:
    """Raw counts in ``X``, labels in ``obs["lineage"]`` and ``obs["cell_type"]``.

    Parameters
    ----------
    reference
        Cells to train on, ``(490, 765)``.
    query
        Held-out cells, ``(210, 765)``, with every type in the same proportion.

    Attributes
    ----------
    levels
        Label columns, from coarse to fine.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> data.query.obs["lineage"].nunique(), data.query.obs["cell_type"].nunique()
    (5, 10)
    """

    reference: AnnData
    query: AnnData
    levels: ClassVar[list[str]] = ["lineage", "cell_type"]


def demo(seed: int = 0) -> DemoData:
    """Return 700 blood cells that come with scanpy, as a reference and a held-out query.

    Small and quick to train on, for examples and tests. :func:`pbmc3k` has more cells and genes,
    and labels that are better.

    Parameters
    ----------
    seed
        Seed of the split.

    Returns
    -------
    Counts recovered from ``scanpy.datasets.pbmc68k_reduced``, and labels at two levels.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> data.reference.shape, data.query.shape
    ((490, 765), (210, 765))

    Notes
    -----
    Zheng et al. (2017), doi:10.1038/ncomms14049. Labels come from the correlation of each cell
    with sorted populations, and neighbouring T cell subsets overlap. The two levels and the names
    in words are ours. All cells are of one donor, so the split is by cell.
    """
    import scanpy

    with warnings.catch_warnings():
        # The file is from 2018, in an encoding that anndata reads but warns about.
        warnings.simplefilter("ignore")
        adata = recover_counts(scanpy.datasets.pbmc68k_reduced(), use_raw=True)
    names = adata.obs["bulk_labels"].astype(str)
    _label(adata, names, "pbmc68k")
    parts = train_test_split(
        np.arange(adata.n_obs), test_size=_HELD_OUT, stratify=names, random_state=seed
    )
    train, test = (np.sort(part) for part in parts)
    return DemoData(adata[train].copy(), adata[test].copy())
