"""Draw the pictures of the user guide and the README, from what the demo leaves behind.

    $ python benchmarks/demo.py demo_out
    $ python docs/make_pictures.py demo_out

writes docs/_static/pictures. The demo trains on half of PBMC 3k and keeps the other half for these.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import pandas as pd
import scanpy as sc
from matplotlib import pyplot as plt
from PIL import Image
from sklearn.cluster import KMeans

import hdeepinsight as hdi

PICTURES = Path(__file__).parent / "_static" / "pictures"
TYPES = ["CD4 T naive", "CD8 T", "NK", "B", "CD14 Mono"]
LAYOUT_MARKERS = ["CD3D", "NKG7", "CD79A", "LYZ", "CD14", "S100A8"]


def save(drawn: plt.Axes | plt.Figure, name: str, *, dpi: int = 90) -> None:
    """Write a picture in 256 colours, half the size and no difference to the eye."""
    figure = getattr(drawn, "figure", None) or drawn
    path = PICTURES / f"{name}.png"
    figure.savefig(path, dpi=dpi, bbox_inches="tight")
    plt.close(figure)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256)
    small.save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


def expression_of(query: ad.AnnData) -> pd.DataFrame:
    """log1p CP10k, cells × genes."""
    copy = query.copy()
    sc.pp.normalize_total(copy, target_sum=1e4)
    sc.pp.log1p(copy)
    return copy.to_df()


def draw_cells(query: ad.AnnData, model: hdi.SCHDeepInsight, result: hdi.Annotation) -> None:
    """Embeddings by UMAP and by PyMDE, of the features that the network sees."""
    query.obsm["X_hdi"] = model.get_latent_representation(query)
    sc.pp.neighbors(query, use_rep="X_hdi")
    sc.tl.umap(query, random_state=0)
    umap, mde = query.obsm["X_umap"], hdi.tl.mde(query, use_rep="X_hdi")

    # The last legend serves the middle panel too: a label has the same colour in both.
    figure, axes = plt.subplots(
        1, 3, figsize=(9.6, 3.2), layout="constrained", width_ratios=(1, 1, 1.4)
    )
    headings = {"lineage": "on data", "cell_type": "none", "stop_label": "right margin"}
    titles = ("lineage", "cell type", "label")
    for ax, title, (column, loc) in zip(axes, titles, headings.items(), strict=True):
        labels = result.labels[column]
        hdi.pl.embedding(
            umap, labels, palette=result.colors, legend_loc=loc, title=title, size=5, ax=ax
        )
    save(figure, "levels", dpi=130)

    drawn = hdi.pl.embedding(
        mde, query.obs["subtype"], palette=result.colors, legend_loc="right margin"
    )
    save(drawn, "mde", dpi=75)


def draw_markers() -> None:
    """PBMC 3k labelled by the list of marker genes of the package, without a model."""
    query = hdi.datasets.pbmc3k()
    result = hdi.annotate(query, markers="blood", progress=False)
    hdi.tl.expression_pca(query, key_added="X_pca")
    sc.pp.neighbors(query, use_rep="X_pca")
    sc.tl.umap(query, random_state=0)
    figure, axes = plt.subplots(
        1, 2, figsize=(9.6, 4.4), layout="constrained", width_ratios=(1, 1.35)
    )
    panels = {"cell_type": "none", "stop_label": "right margin"}
    for ax, (column, place) in zip(axes, panels.items(), strict=True):
        title = column.replace("_", " ").replace("stop ", "")
        shown = {"palette": result.colors, "legend_loc": place, "title": title, "size": 5}
        hdi.pl.embedding(query.obsm["X_umap"], result.labels[column], ax=ax, **shown)
    save(figure, "markers", dpi=110)


def draw_genes(query: ad.AnnData, layout: hdi.GeneLayout, result: hdi.Annotation) -> None:
    """Gene layout and images, of types and of single cells."""
    expression = expression_of(query)
    types = query.obs["subtype"]
    means = expression.groupby(types, observed=True).mean().T
    drawn = hdi.pl.gene_layout(
        layout, expression.mean(), highlight=LAYOUT_MARKERS, label="mean log1p CP10k"
    )
    save(drawn, "gene_layout")
    save(hdi.pl.gene_images(layout, means[TYPES[1:]], label="mean log1p CP10k"), "gene_images")
    surest = {kind: result.confidence[types == kind].idxmax() for kind in TYPES[1:]}
    cells = {f"{kind}\n{cell}": expression.loc[cell] for kind, cell in surest.items()}
    save(hdi.pl.gene_images(layout, cells, label="log1p CP10k"), "gene_images_cells")


def draw_labels(query: ad.AnnData, result: hdi.Annotation, plain: hdi.Annotation) -> None:
    """What cells are called, and how far to trust it; sets and novelty without adaptation."""
    tree = result.taxonomy
    truth = tree.encode_levels(query.obs[list(tree.level_names)])
    right = result.leaf_nodes == truth
    leaf = result.node_probabilities[range(len(result)), result.leaf_nodes]
    save(hdi.pl.taxonomy(result), "taxonomy")
    clusters = KMeans(9, random_state=0).fit_predict(query.obsm["X_hdi"]).astype(str)
    save(hdi.pl.dotplot(result, clusters), "dotplot")
    for level in ("lineage", "subtype"):
        save(hdi.pl.confusion(tree, truth, result.leaf_nodes, level=level), f"confusion_{level}")
    save(hdi.pl.reliability(leaf, right, n_bins=8), "reliability")
    known = query.obs["subtype"]
    save(hdi.pl.novelty(plain, known, measure="doublet_score"), "doublet_score")
    save(hdi.pl.novelty(plain, known, measure="type_p_value"), "type_p_value")


def main(demo: Path) -> None:
    """Draw everything."""
    mpl.use("agg")
    PICTURES.mkdir(exist_ok=True)
    model = hdi.SCHDeepInsight.load(demo / "model", adata=False)
    query = ad.read_h5ad(demo / "query.h5ad")
    # Some 60 held-out cells are too few to judge nine types by: labels stop by probability alone.
    result = hdi.annotate(query, model, reject="off")
    draw_cells(query, model, result)
    evidence = hdi.tl.marker_evidence(result, query, model)
    save(hdi.pl.marker_evidence(evidence), "marker_evidence", dpi=70)
    draw_labels(query, result, model.annotate(query))
    draw_genes(query, model.layout, result)
    draw_markers()
    save(hdi.pl.training_history(model.history), "training_history", dpi=70)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
