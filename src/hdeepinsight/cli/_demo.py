"""The demo, step by step: a model, its baselines, and their scores on real cells, offline."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from hdeepinsight import _workflow, pl, report
from hdeepinsight._progress import progress as step
from hdeepinsight.annotation import Annotation, Evaluation, evaluate_annotation
from hdeepinsight.cli._console import frame_table, refuse, show
from hdeepinsight.data import log_normalize
from hdeepinsight.datasets import pbmc3k
from hdeepinsight.models import SCHDeepInsight
from hdeepinsight.taxonomy import Taxonomy

#: First line of the README in a folder that the demo may write to again.
MARKER: Final = "# What `hdeepinsight demo` left here"
LEVELS: Final = ["lineage", "cell_type", "subtype"]
SCORES: Final = ["balanced_accuracy", "macro_f1", "accuracy", "ece"]
OUTPUTS: Final = {
    "report.html": "the page about the annotated cells; open it first",
    "scores.csv": "scores of every level, beside those of logistic regression",
    "embedding.png": "the held-out cells (UMAP), by known and by predicted label",
    "taxonomy.png": "the tree of cell types with numbers of cells",
    "gene_images.png": "mean images of four cell types",
    "annotated.h5ad": "the held-out cells with their labels, confidences and probabilities",
    "model": "the trained model: plain data, no code",
    "reference.h5ad": "raw counts and labels that the model was trained on",
    "query.h5ad": "raw counts of the held-out cells (their labels only serve to score)",
}
#: Cell types whose mean images are drawn, and genes that the image has in any case.
IMAGES: Final = ["CD8 T", "NK", "B", "CD14 Mono"]
MARKERS = ["CD8A", "GNLY", "MS4A1", "CD14", "CD3D", "CD79A", "NKG7", "S100A8", "LYZ", "CST3"]
MARKERS += ["PPBP"]
_MEANING: Final = (
    "Balanced accuracy is the mean recall over types; training weights all types alike. What costs "
    "accuracy are naive and memory CD4 T cells, which differ by degrees: in cells of the same "
    "donor and run, labelled by their own clusters, a linear model gets more of them right, and "
    "its macro-F1 is higher. Across donors and studies ours is higher (docs/benchmarks.md)."
)
_MARGIN, _N_GENES, _DPI = 11, 2048, 160
OURS, LINEAR = "hdeepinsight", "logistic regression"


def run_demo(out: Path, *, seed: int = 0) -> None:
    """Train on half of PBMC 3k, annotate the other half, and draw what came out.

    Parameters
    ----------
    out
        Folder for everything that is made. Files of an earlier run are replaced.
    seed
        Seed of the split and the model.

    Raises
    ------
    UsageProblem
        If the folder holds files that the demo did not make.
    """
    start = time.perf_counter()
    claim_folder(out)
    show(Text("hdeepinsight demo: real blood cells, offline, about two minutes", style="bold"))
    cells = pbmc3k()
    parts = train_test_split(
        np.arange(cells.n_obs), test_size=0.5, stratify=cells.obs[LEVELS[-1]], random_state=seed
    )
    reference, query = (cells[np.sort(part)].copy() for part in parts)
    reference.write_h5ad(out / "reference.h5ad")
    query.write_h5ad(out / "query.h5ad")
    of = f"{cells.n_obs:,} blood cells of a healthy donor, {cells.n_vars:,} genes, nine types"
    _say("Data", f"PBMC 3k: {of} (10x Genomics; labels of the Seurat tutorial)")
    _say("Split", f"{reference.n_obs:,} cells to learn from, {query.n_obs:,} held out, by cell")
    model = _train(reference, out, seed)
    annotation = _annotate(model, query, out)
    known = model.taxonomy.encode_levels(query.obs[LEVELS])
    _say("Compare", "with logistic regression on all genes, trained on the same cells")
    with step("Comparing"):
        scores = _compare(reference, query, model, annotation)
    scores.to_csv(out / "scores.csv", index=False)
    _say("", _MEANING)
    with step("Drawing"):
        points = _draw(reference, query, model, annotation, out)
        shown = {"reference": model, "embedding": points, "true_nodes": known, "model": "demo"}
        report.write(annotation, out / "report.html", query=query, **shown)
    files = "\n".join(f"- `{name}`: {text}" for name, text in OUTPUTS.items())
    text = f"A model was trained on {reference.n_obs:,} cells of PBMC 3k and annotated the other "
    text += (
        f"{query.n_obs:,}. Both are of one donor: this shows how it works, not how it transfers."
    )
    (out / "README.md").write_text(f"{MARKER}\n\n{text}\n\n{files}\n", encoding="utf-8")
    seconds = time.perf_counter() - start
    _say("Look at", f"{out}{'/' if out.name else ''}   ({seconds:.0f} s in all)")
    for name, text in OUTPUTS.items():
        _show_indented(Text.assemble((f"{name:<16}", "bold"), text))
    _say("Next", "your own reference and query, or the files of the demo:")
    query_here, model_here = (shlex.quote(str(out / name)) for name in ("query.h5ad", "model"))
    for command in (
        "train reference.h5ad --labels-keys lineage,cell_type --out my_model",
        "annotate query.h5ad --model my_model --report report.html",
        f"evaluate {query_here} --model {model_here}",
    ):
        _show_indented(Text(f"  $ hdeepinsight {command}", style="cyan"))


def _train(reference: AnnData, out: Path, seed: int) -> SCHDeepInsight:
    start = time.perf_counter()
    SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS)
    model = SCHDeepInsight(reference, n_genes=_N_GENES, keep_genes=MARKERS, seed=seed)
    model.train()
    _say("Taxonomy", "from the label columns; in brackets the cells to learn from")
    _show_indented(Text(model.taxonomy.show(_counts(model.taxonomy, reference))))
    _say("Train", f"{repr(model).splitlines()[0]}, in {time.perf_counter() - start:.0f} s")
    model.save(out / "model", overwrite=True)
    return SCHDeepInsight.load(out / "model", adata=False)


def _counts(taxonomy: Taxonomy, cells: AnnData) -> np.ndarray:
    nodes = taxonomy.encode_levels(cells.obs[LEVELS])
    return np.bincount(nodes, minlength=taxonomy.n_nodes)


def _annotate(model: SCHDeepInsight, query: AnnData, out: Path) -> Annotation:
    start = time.perf_counter()
    annotation = _workflow.annotate(query, model)
    seconds = time.perf_counter() - start
    annotated = query.copy()
    annotation.to_adata(annotated)
    annotated.write_h5ad(out / "annotated.h5ad")
    above = (~np.isin(annotation.stop_nodes, annotation.taxonomy.leaves)).sum()
    said = f"{len(annotation):,} cells in {seconds:.0f} s, by the saved model; {above} are unclear"
    _say("Annotate", f"{said} and get the label of a level above")
    for decision in annotation.decisions:
        _say("", str(decision))
    return annotation


def _compare(
    reference: AnnData, query: AnnData, model: SCHDeepInsight, annotation: Annotation
) -> pd.DataFrame:
    """Score the labels beside those of logistic regression."""
    known, found = model.taxonomy.encode_levels(query.obs[LEVELS]), {OURS: annotation}
    for name, weight in {LINEAR: None, f"{LINEAR}, balanced": "balanced"}.items():
        how: dict[str, Any] = {"labels_key": LEVELS[-1], "class_weight": weight}
        found[name] = logistic_regression(reference, query, model.taxonomy, **how)
    table = scores_table({name: evaluate_annotation(each, known) for name, each in found.items()})
    _show_indented(frame_table(table.set_index("level")))
    return table


def _draw(
    reference: AnnData, query: AnnData, model: SCHDeepInsight, annotation: Annotation, out: Path
) -> np.ndarray:
    """Draw the pictures, and return where the cells of the query are in them."""
    import matplotlib.pyplot as plt
    from umap import UMAP

    def save(drawn: Any, name: str) -> None:
        figure = getattr(drawn, "figure", None) or drawn
        figure.savefig(out / f"{name}.png", dpi=_DPI)
        plt.close(figure)

    plt.switch_backend("agg")  # pictures go to files, on machines without a screen too
    counts = _counts(model.taxonomy, reference) + _counts(model.taxonomy, query)
    title = f"PBMC 3k: {counts.sum():,} blood cells"
    save(pl.taxonomy(model.taxonomy, counts, title=title), "taxonomy")
    genes = reference[:, list(model.layout.genes)]
    values = pd.DataFrame.sparse.from_spmatrix(log_normalize(sparse.csr_matrix(genes.X)))
    means = values.groupby(reference.obs[LEVELS[-1]].to_numpy(), observed=True).mean().T
    means.index = genes.var_names
    save(pl.gene_images(model.layout, means[IMAGES], label="mean log1p CP10k"), "gene_images")
    latent = model.get_latent_representation(query)
    points = UMAP(n_neighbors=30, min_dist=0.4, random_state=0, n_jobs=1).fit_transform(latent)
    figure, axes = plt.subplots(1, 2, figsize=(13.0, 5.4), layout="constrained")
    panels = {"known label": query.obs[LEVELS[-1]], "predicted": annotation.label_column()}
    for ax, (title, labels) in zip(axes, panels.items(), strict=True):
        look: dict[str, Any] = {"palette": annotation.colors, "legend_loc": "right margin"}
        pl.embedding(points, labels, title=title, ax=ax, **look)
    save(figure, "embedding")
    return np.asarray(points)


def _say(what: str, text: str) -> None:
    """Print a paragraph beside its heading."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_MARGIN - 1, style="bold")
    grid.add_column()
    grid.add_row(what, Text(text))
    show(grid)


def _show_indented(shown: Table | Text) -> None:
    show(Padding(shown, (0, 0, 0, _MARGIN)))


def claim_folder(out: Path) -> None:
    """Make the folder, or take the one that an earlier run made; nothing in it is deleted.

    Raises
    ------
    UsageProblem
        If it is a file, or holds files and no README of an earlier run.
    """
    readme = out / "README.md"
    ours = readme.is_file() and readme.read_text(encoding="utf-8").startswith(MARKER)
    refuse(
        {
            f"--out must be a folder, or missing, got {out}, which is a file.": out.is_file(),
            f"{out} holds files that the demo did not make. Choose another folder with --out: an "
            "empty or missing one, or that of an earlier run.": (
                out.is_dir() and any(out.iterdir()) and not ours
            ),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    # First of all, so that a run that was interrupted can be repeated.
    readme.write_text(f"{MARKER}\n\nThe run has not finished.\n", encoding="utf-8")


def logistic_regression(
    reference: AnnData,
    query: AnnData,
    taxonomy: Taxonomy,
    *,
    labels_key: str,
    class_weight: str | None = None,
) -> Annotation:
    """Annotate a query by multinomial logistic regression over the leaves.

    Parameters
    ----------
    reference, query
        Raw counts. Genes of the reference that the query lacks count as zero.
    taxonomy
        The tree; the probability of an inner node is the sum over its leaves.
    labels_key
        Column of the reference with names of leaves, no two of which are alike.
    class_weight
        ``"balanced"`` weights every class alike, as in scikit-learn.

    Returns
    -------
    The annotation, to be scored as any other.
    """
    classifier = LogisticRegression(max_iter=1000, class_weight=class_weight)
    known, found = (log_normalize(sparse.csr_matrix(cells.X)) for cells in (reference, query))
    classifier.fit(known, reference.obs[labels_key].astype(str))
    columns = reference.var_names.get_indexer(query.var_names)
    in_order = found @ sparse.identity(reference.n_vars, format="csr")[columns]
    table = pd.DataFrame(classifier.predict_proba(in_order), query.obs_names, classifier.classes_)
    return Annotation.from_probabilities(table, taxonomy)


def scores_table(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Return scores of every method, side by side for each level.

    The table has the columns ``level``, ``method`` and those of `SCORES`.
    """
    levels = {name: each.levels[SCORES] for name, each in evaluations.items()}
    table = pd.concat(levels, names=["method", "level"]).reset_index()
    table["level"] = pd.Categorical(table["level"], table["level"].unique())
    table = table.sort_values("level", kind="stable", ignore_index=True)
    return table.astype({"level": str})[["level", "method", *SCORES]]
