"""Blood cells that come with scanpy, as a reference and a held-out query."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from sklearn.model_selection import train_test_split

from hdeepinsight.data import recover_counts

#: Label of the file -> lineage, and the label in words that fit on an axis.
_TYPES: Final = {
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
    types
        Label of the file → lineage and type, as they stand in these columns.

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
    types: ClassVar[dict[str, tuple[str, str]]] = _TYPES


def demo(seed: int = 0) -> DemoData:
    """Return 700 blood cells that come with scanpy, as a reference and a held-out query.

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
    for position, level in enumerate(DemoData.levels):
        categories = list(dict.fromkeys(labels[position] for labels in _TYPES.values()))
        labels = [_TYPES[name][position] for name in names]
        adata.obs[level] = pd.Categorical(labels, categories=categories)
    parts = train_test_split(
        np.arange(adata.n_obs), test_size=_HELD_OUT, stratify=names, random_state=seed
    )
    train, test = (np.sort(part) for part in parts)
    return DemoData(adata[train].copy(), adata[test].copy())
