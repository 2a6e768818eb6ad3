"""Labelled blood cells without a download: PBMC 3k, and a small split for examples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
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

#: Label of the file -> lineage, type and subtype. A type without subtypes keeps its name below.
_PBMC3K: Final = {
    "Naive CD4 T": ("T", "CD4 T", "CD4 T naive"),
    "Memory CD4 T": ("T", "CD4 T", "CD4 T memory"),
    "CD8 T": ("T", "CD8 T", "CD8 T"),
    "NK": ("NK", "NK", "NK"),
    "B": ("B", "B", "B"),
    "CD14+ Mono": ("Myeloid", "Monocyte", "CD14 Mono"),
    "FCGR3A+ Mono": ("Myeloid", "Monocyte", "CD16 Mono"),
    "DC": ("Myeloid", "DC", "DC"),
    "Platelet": ("Platelet", "Platelet", "Platelet"),
}
#: Label of the file -> lineage, and the label in words that fit on an axis.
_PBMC68K: Final = {
    "CD4+/CD45RA+/CD25- Naive T": ("T cell", "CD4 T naive"),
    "CD4+/CD45RO+ Memory": ("T cell", "CD4 T memory"),
    "CD4+/CD25 T Reg": ("T cell", "CD4 T regulatory"),
    "CD8+/CD45RA+ Naive Cytotoxic": ("T cell", "CD8 T naive"),
    "CD8+ Cytotoxic T": ("T cell", "CD8 T cytotoxic"),
    "CD56+ NK": ("NK cell", "CD56+ NK cell"),
    "CD19+ B": ("B cell", "CD19+ B cell"),
    "CD14+ Monocyte": ("Myeloid cell", "CD14+ monocyte"),
    "Dendritic": ("Myeloid cell", "Dendritic cell"),
    "CD34+": ("Progenitor", "CD34+ progenitor"),
}
_HELD_OUT: Final = 0.3


def _label(adata: AnnData, names: pd.Series, types: Mapping[str, tuple[str, ...]]) -> None:
    """Write one column per level, with categories in the order of `types`."""
    for position, level in enumerate(
        ("lineage", "cell_type", "subtype")[: len(types[names.iloc[0]])]
    ):
        categories = list(dict.fromkeys(labels[position] for labels in types.values()))
        labels = [types[name][position] for name in names]
        adata.obs[level] = pd.Categorical(labels, categories=categories)


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
    _label(adata, pd.Series(labels), _PBMC3K)
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
    _label(adata, names, _PBMC68K)
    parts = train_test_split(
        np.arange(adata.n_obs), test_size=_HELD_OUT, stratify=names, random_state=seed
    )
    train, test = (np.sort(part) for part in parts)
    return DemoData(adata[train].copy(), adata[test].copy())
