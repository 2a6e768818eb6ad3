"""The figures of the demo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from hdeepinsight import pl
from hdeepinsight.annotation import Annotation
from hdeepinsight.data import log_normalize
from hdeepinsight.image import GeneLayout
from hdeepinsight.taxonomy import Taxonomy

#: Cell types whose mean images are drawn, and one marker gene of each that the layout shows.
IMAGES: Final = {"CD19+ B cell": "CD79A", "CD14+ monocyte": "S100A8", "CD8 T cytotoxic": "NKG7"}
#: Further genes that the layout names.
MARKERS: Final = ("CD3D", "GNLY", "HLA-DRA", "CD74", "LYZ", "FTL")
_DPI = 160


def draw_taxonomy(taxonomy: Taxonomy, nodes: np.ndarray, *, path: Path) -> None:
    """Draw the tree with the number of cells at or under every node."""
    counts = np.bincount(nodes, minlength=taxonomy.n_nodes)
    title = f"Taxonomy of the demo: {len(nodes)} blood cells"
    _save(pl.taxonomy(taxonomy, counts, title=title), path)


def draw_layout(layout: GeneLayout, reference: AnnData, *, path: Path) -> None:
    """Draw where genes live, coloured by their mean expression, with markers named."""
    means = _means(layout, reference)
    markers = [gene for gene in (*IMAGES.values(), *MARKERS) if gene in layout.genes]
    drawn = pl.gene_layout(
        layout, np.mean(list(means.values()), axis=0), highlight=markers, label="mean log1p CP10k"
    )
    _save(drawn, path)


def draw_images(layout: GeneLayout, reference: AnnData, *, path: Path) -> None:
    """Draw the mean image of three cell types."""
    means = _means(layout, reference)
    images = {name: means[name] for name in IMAGES}
    _save(pl.gene_images(layout, images, label="mean log1p CP10k"), path)


def draw_confusion(
    taxonomy: Taxonomy, truth: np.ndarray, annotation: Annotation, *, path: Path
) -> None:
    """Draw which cell types are taken for which, every cell followed to its leaf."""
    _save(pl.confusion(taxonomy, truth, annotation.leaf_nodes, level="cell_type"), path)


def draw_embedding(
    coords: np.ndarray, columns: Mapping[str, pd.Series], palette: Mapping[str, str], *, path: Path
) -> None:
    """Draw the cells of the query side by side, once for each column of labels.

    Parameters
    ----------
    coords
        Two coordinates per cell, ``(n_cells, 2)``.
    columns
        Heading and labels, ``(n_cells,)``, of each panel.
    palette
        Colour of every label.
    path
        File to write.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(columns), figsize=(13.0, 5.4), layout="constrained")
    for ax, (title, labels) in zip(axes, columns.items(), strict=True):
        pl.embedding(coords, labels, palette=palette, legend_loc="right margin", title=title, ax=ax)
    figure.suptitle(f"{len(coords)} held-out cells by what the network sees in them (UMAP)")
    _save(figure, path)


def umap_of(latent: np.ndarray, *, seed: int) -> np.ndarray:
    """Compute the UMAP of the latent features of every cell, ``(n_cells, 2)``."""
    from umap import UMAP

    fitted = UMAP(n_neighbors=40, min_dist=0.5, random_state=seed, n_jobs=1)
    return np.asarray(fitted.fit_transform(latent))


def _means(layout: GeneLayout, adata: AnnData) -> dict[str, np.ndarray]:
    """Return the mean log1p CP10k of every gene of the layout, by cell type."""
    columns = adata.var_names.get_indexer(list(layout.genes))
    values = log_normalize(sparse.csr_matrix(adata.X))[:, columns]
    types = adata.obs["cell_type"]
    return {
        name: np.asarray(values[(types == name).to_numpy()].mean(axis=0)).ravel()
        for name in types.cat.categories
    }


def _save(drawn: Any, path: Path) -> None:
    import matplotlib.pyplot as plt

    figure = getattr(drawn, "figure", None) or drawn
    figure.savefig(path, dpi=_DPI)
    plt.close(figure)
