"""Run the demo: train a model on real cells, and compare its labels with baselines, offline."""

from __future__ import annotations

import shlex
import time
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
from hdeepinsight.annotation import Annotation, evaluate_annotation
from hdeepinsight.cli._console import frame_table, refuse, show
from hdeepinsight.data import log_normalize
from hdeepinsight.datasets import pbmc3k
from hdeepinsight.models import SCHDeepInsight
from hdeepinsight.taxonomy import Taxonomy

#: First line of the README, by which the demo recognises the folder of an earlier run.
MARKER: Final = "# What `hdeepinsight demo` left here"
LEVELS: Final = ["lineage", "cell_type", "subtype"]
SCORES: Final = ["balanced_accuracy", "macro_f1", "accuracy", "ece"]
OUTPUTS: Final = {
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
IMAGES: Final = ["CD8 T", "NK", "B", "CD14 Mono"]
MARKERS = ["CD8A", "GNLY", "MS4A1", "CD14", "CD3D", "CD79A", "NKG7", "S100A8", "LYZ", "CST3"]
MARKERS += ["PPBP"]
_INTERPRETATION: Final = (
    "Balanced accuracy is the mean recall over types; training gives all types the same weight. "
    "Most errors are between naive and memory CD4 T cells, which form a continuum. Within one "
    "donor and run, with labels from clustering, a linear model separates them better and has a "
    "higher macro-F1; across donors and studies, hdeepinsight has the higher one "
    "(docs/benchmarks.md)."
)
_MARGIN, _N_GENES, _DPI = 11, 2048, 160
OURS, LINEAR = "hdeepinsight", "logistic regression"


def run_demo(out: Path, *, seed: int = 0) -> None:
    """Train on half of PBMC 3k, annotate the other half, and write scores, figures and a report.

    Parameters
    ----------
    out
        Output folder. Files of an earlier run are replaced.
    seed
        Seed of the split and the model.

    Raises
    ------
    UsageProblem
        If the folder holds other files.
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
    size = f"{cells.n_obs:,} blood cells of a healthy donor, {cells.n_vars:,} genes, nine types"
    _print_step("Data", f"PBMC 3k: {size} (10x Genomics; labels of the Seurat tutorial)")
    _print_step("Split", f"{reference.n_obs:,} training cells, {query.n_obs:,} held-out cells")
    model = _train(reference, out, seed)
    annotation = _annotate(model, query, out)
    known = model.taxonomy.encode_levels(query.obs[LEVELS])
    _print_step("Compare", "with logistic regression on all genes, trained on the same cells")
    with step("Comparing"):
        scores = _compare(reference, query, model, annotation)
    scores.to_csv(out / "scores.csv", index=False)
    _print_step("", _INTERPRETATION)
    with step("Drawing"):
        points = _draw(reference, query, model, annotation, out)
        shown = {"reference": model, "embedding": points, "true_nodes": known, "model": "demo"}
        report.write(annotation, out / "report.html", query=query, **shown)
    files = "\n".join(f"- `{name}`: {text}" for name, text in OUTPUTS.items())
    text = (
        f"A model was trained on {reference.n_obs:,} cells of PBMC 3k and annotated the other "
        f"{query.n_obs:,}. All cells are from one donor, so the scores do not show how well labels "
        "transfer across donors."
    )
    (out / "README.md").write_text(f"{MARKER}\n\n{text}\n\n{files}\n", encoding="utf-8")
    seconds = time.perf_counter() - start
    _print_step("Results", f"{out}{'/' if out.name else ''}   (total time {seconds:.0f} s)")
    for name, text in OUTPUTS.items():
        _show_indented(Text.assemble((f"{name:<16}", "bold"), text))
    _print_step("Next", "try your own data, or the files of the demo:")
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
    _print_step("Taxonomy", "from the label columns, with numbers of training cells")
    _show_indented(Text(model.taxonomy.show(_counts(model.taxonomy, reference))))
    _print_step("Train", f"{repr(model).splitlines()[0]}, in {time.perf_counter() - start:.0f} s")
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
    text = f"{len(annotation):,} cells in {seconds:.0f} s with the saved model; {above} ambiguous"
    _print_step("Annotate", f"{text} cells are labelled at a higher level")
    for decision in annotation.decisions:
        _print_step("", str(decision))
    return annotation


def _compare(
    reference: AnnData, query: AnnData, model: SCHDeepInsight, annotation: Annotation
) -> pd.DataFrame:
    """Score the labels and those of logistic regression."""
    known, found = model.taxonomy.encode_levels(query.obs[LEVELS]), {OURS: annotation}
    for name, weight in {LINEAR: None, f"{LINEAR}, balanced": "balanced"}.items():
        found[name] = logistic_regression(
            reference, query, model.taxonomy, labels_key=LEVELS[-1], class_weight=weight
        )
    scores = {name: evaluate_annotation(each, known) for name, each in found.items()}
    levels = {name: each.levels[SCORES] for name, each in scores.items()}
    table = pd.concat(levels, names=["method", "level"]).swaplevel().reset_index()
    table = table.sort_values("level", key=lambda level: level.map(LEVELS.index), kind="stable")
    _show_indented(frame_table(table.set_index("level")))
    return table


def _draw(
    reference: AnnData, query: AnnData, model: SCHDeepInsight, annotation: Annotation, out: Path
) -> np.ndarray:
    """Draw the figures, and return the UMAP coordinates of the query's cells."""
    import matplotlib.pyplot as plt
    from umap import UMAP

    def save(drawn: Any, name: str) -> None:
        figure = getattr(drawn, "figure", None) or drawn
        figure.savefig(out / f"{name}.png", dpi=_DPI)
        plt.close(figure)

    plt.switch_backend("agg")  # works on machines without a display
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
        style: dict[str, Any] = {"palette": annotation.colors, "legend_loc": "right margin"}
        pl.embedding(points, labels, title=title, ax=ax, **style)
    save(figure, "embedding")
    return np.asarray(points)


def _print_step(heading: str, text: str) -> None:
    """Print a paragraph with its heading on the left."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_MARGIN - 1, style="bold")
    grid.add_column()
    grid.add_row(heading, Text(text))
    show(grid)


def _show_indented(shown: Table | Text) -> None:
    show(Padding(shown, (0, 0, 0, _MARGIN)))


def claim_folder(out: Path) -> None:
    """Create the folder, or reuse the one of an earlier run; nothing in it is deleted.

    Raises
    ------
    UsageProblem
        If it is a file, or holds files without the README of an earlier run.
    """
    readme = out / "README.md"
    ours = readme.is_file() and readme.read_text(encoding="utf-8").startswith(MARKER)
    refuse(
        {
            f"--out must be a folder, got {out}, which is a file. Choose another name.": (
                out.is_file()
            ),
            f"{out} holds files that the demo did not create. Pass --out with an empty or new "
            "folder, or the folder of an earlier run.": (
                out.is_dir() and any(out.iterdir()) and not ours
            ),
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    # Written first, so that an interrupted run can be repeated.
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
        Raw counts. Genes that are missing in the query are set to zero.
    taxonomy
        Tree of cell types; the probability of an inner node is the sum over its leaves.
    labels_key
        Column of the reference with the names of leaves, which must be unique in the tree.
    class_weight
        ``"balanced"`` gives all classes the same total weight, as in scikit-learn.

    Returns
    -------
    The annotation.
    """
    classifier = LogisticRegression(max_iter=1000, class_weight=class_weight)
    known, found = (log_normalize(sparse.csr_matrix(cells.X)) for cells in (reference, query))
    classifier.fit(known, reference.obs[labels_key].astype(str))
    columns = reference.var_names.get_indexer(query.var_names)
    in_order = found @ sparse.identity(reference.n_vars, format="csr")[columns]
    table = pd.DataFrame(classifier.predict_proba(in_order), query.obs_names, classifier.classes_)
    return Annotation.from_probabilities(table, taxonomy)
