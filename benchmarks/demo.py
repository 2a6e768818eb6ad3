"""Train on half of PBMC 3k, annotate the other half, and write scores, figures and a report.

Usage: python benchmarks/demo.py [FOLDER]
"""

import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from umap import UMAP

import hdeepinsight as hdi
from hdeepinsight.annotation import Annotation, evaluate_annotation
from hdeepinsight.data import log_normalize
from hdeepinsight.datasets import pbmc3k

LEVELS = ["lineage", "cell_type", "subtype"]
SCORES = ["balanced_accuracy", "macro_f1", "accuracy", "ece"]
OUTPUTS = {
    "report.html": "report on the annotated cells; open it first",
    "scores.csv": "scores at each level, compared with logistic regression",
    "embedding.png": "UMAP of the held-out cells, by known and predicted label",
    "taxonomy.png": "tree of cell types with numbers of cells",
    "gene_images.png": "mean images of four cell types",
    "annotated.h5ad": "held-out cells with labels, confidence and probabilities",
    "model": "trained model (plain data, no code)",
    "reference.h5ad": "raw counts and labels of the training cells",
    "query.h5ad": "raw counts of the held-out cells (labels are used for scores only)",
}
#: Cell types whose mean images are drawn, and genes that are always in the image.
IMAGES = ["CD8 T", "NK", "B", "CD14 Mono"]
MARKERS = [
    "CD8A",
    "GNLY",
    "MS4A1",
    "CD14",
    "CD3D",
    "CD79A",
    "NKG7",
    "S100A8",
    "LYZ",
    "CST3",
    "PPBP",
]
INTERPRETATION = """\
Balanced accuracy is the mean recall over types; training gives all types the same weight. Most
errors are between naive and memory CD4 T cells, which form a continuum. Within one donor and run,
with labels from clustering, a linear model separates them better and has a higher macro-F1; across
donors and studies, hdeepinsight has the higher one (docs/benchmarks.md)."""
NEXT = """\
Next, try your own data, or the files of the demo:
  $ hdeepinsight train {0}/reference.h5ad --labels-keys lineage,cell_type --out my_model
  $ hdeepinsight annotate {0}/query.h5ad --model my_model --report report.html
  $ hdeepinsight evaluate {0}/query.h5ad --model {0}/model"""


def logistic_regression(reference, query, taxonomy, *, class_weight=None):
    """Annotate a query by multinomial logistic regression over the finest labels."""
    classifier = LogisticRegression(max_iter=1000, class_weight=class_weight)
    known, found = (log_normalize(sparse.csr_matrix(cells.X)) for cells in (reference, query))
    classifier.fit(known, reference.obs[LEVELS[-1]].astype(str))
    table = pd.DataFrame(classifier.predict_proba(found), query.obs_names, classifier.classes_)
    return Annotation.from_probabilities(table, taxonomy)


def compare(reference, query, taxonomy, annotation):
    """Score the labels and those of logistic regression at each level."""
    found = {"hdeepinsight": annotation}
    for name, weight in {"": None, ", balanced": "balanced"}.items():
        linear = logistic_regression(reference, query, taxonomy, class_weight=weight)
        found[f"logistic regression{name}"] = linear
    known = taxonomy.encode_levels(query.obs[LEVELS])
    levels = {name: evaluate_annotation(each, known).levels[SCORES] for name, each in found.items()}
    table = pd.concat(levels, names=["method", "level"]).swaplevel().reset_index()
    return table.sort_values("level", key=lambda level: level.map(LEVELS.index), kind="stable")


def draw(reference, query, model, annotation, out):
    """Draw the figures, and return the UMAP coordinates of the query's cells."""

    def save(drawn, name):
        figure = getattr(drawn, "figure", None) or drawn
        figure.savefig(out / f"{name}.png", dpi=160)
        plt.close(figure)

    plt.switch_backend("agg")  # works on machines without a display
    labels = pd.concat([reference.obs, query.obs])[LEVELS]
    counts = np.bincount(model.taxonomy.encode_levels(labels), minlength=model.taxonomy.n_nodes)
    title = f"PBMC 3k: {counts.sum():,} blood cells"
    save(hdi.pl.taxonomy(model.taxonomy, counts, title=title), "taxonomy")
    genes = reference[:, list(model.layout.genes)]
    values = pd.DataFrame.sparse.from_spmatrix(log_normalize(sparse.csr_matrix(genes.X)))
    means = values.groupby(reference.obs[LEVELS[-1]].to_numpy(), observed=True).mean().T
    means.index = genes.var_names
    label = "mean log1p CP10k"
    save(hdi.pl.gene_images(model.layout, means[IMAGES], label=label), "gene_images")
    latent = model.get_latent_representation(query)
    points = UMAP(n_neighbors=30, min_dist=0.4, random_state=0, n_jobs=1).fit_transform(latent)
    figure, axes = plt.subplots(1, 2, figsize=(13.0, 5.4), layout="constrained")
    panels = {"known label": query.obs[LEVELS[-1]], "predicted": annotation.label_column()}
    style = {"palette": annotation.colors, "legend_loc": "right margin"}
    for ax, (title, labels) in zip(axes, panels.items(), strict=True):
        hdi.pl.embedding(points, labels, title=title, ax=ax, **style)
    save(figure, "embedding")
    return points


def run(out, seed=0):
    """Run the demo, and write its files to a folder."""
    start = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    print("hdeepinsight demo: real blood cells, offline, about two minutes\n")
    cells = pbmc3k()
    types, rows = cells.obs[LEVELS[-1]], np.arange(cells.n_obs)
    parts = train_test_split(rows, test_size=0.5, stratify=types, random_state=seed)
    reference, query = (cells[np.sort(part)].copy() for part in parts)
    reference.write_h5ad(out / "reference.h5ad")
    query.write_h5ad(out / "query.h5ad")
    size = f"{cells.n_obs:,} cells of a healthy donor, {cells.n_vars:,} genes, nine types"
    print(f"Data: PBMC 3k, {size} (10x Genomics; labels of the Seurat tutorial)")
    print(f"Split: {reference.n_obs:,} training cells, {query.n_obs:,} held-out cells\n")
    hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS)
    model = hdi.SCHDeepInsight(reference, n_genes=2048, keep_genes=MARKERS, seed=seed)
    model.train()
    print(f"{model}\n\n{model.taxonomy}\n")
    model.save(out / "model", overwrite=True)
    model = hdi.SCHDeepInsight.load(out / "model", adata=False)
    annotation = hdi.annotate(query, model)
    annotated = query.copy()
    annotation.to_adata(annotated)
    annotated.write_h5ad(out / "annotated.h5ad")
    print(f"{annotation}\n")
    scores = compare(reference, query, model.taxonomy, annotation)
    scores.to_csv(out / "scores.csv", index=False)
    print(f"{scores.round(3).to_string(index=False)}\n\n{INTERPRETATION}\n")
    points = draw(reference, query, model, annotation, out)
    known = model.taxonomy.encode_levels(query.obs[LEVELS])
    shown = {"reference": model, "model": "demo", "embedding": points, "true_nodes": known}
    hdi.report.write(annotation, out / "report.html", query=query, **shown)
    print(f"Results in {out} ({time.perf_counter() - start:.0f} s):")
    print(*(f"  {name:<16}{text}" for name, text in OUTPUTS.items()), NEXT.format(out), sep="\n")


if __name__ == "__main__":
    with threadpool_limits(1):  # reproducible on any number of cores, and as fast on few cells
        run(Path(sys.argv[1] if len(sys.argv) > 1 else "demo_out"))
