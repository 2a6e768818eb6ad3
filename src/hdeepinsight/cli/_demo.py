"""The demo, step by step: a model, its baseline, and their scores on real cells, offline."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anndata
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from scipy import sparse
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

from hdeepinsight.annotation import Annotation, Evaluation, evaluate_annotation
from hdeepinsight.cli import _demo_figures
from hdeepinsight.cli._boundary import UsageProblem
from hdeepinsight.cli._console import frame_table, results, step, training_progress
from hdeepinsight.data import log_normalize
from hdeepinsight.datasets import DemoData, demo
from hdeepinsight.models import SCHDeepInsight
from hdeepinsight.taxonomy import Taxonomy

#: First line of the README in a folder that the demo may write to again.
MARKER: Final = "# What `hdeepinsight demo` left here"
FIGURES: Final = ("n_cells", "accuracy", "macro_f1", "balanced_accuracy", "ece")
OUTPUTS: Final = {
    "figures.csv": "scores of every level, beside those of logistic regression",
    "taxonomy.png": "the tree of cell types with numbers of cells",
    "gene_layout.png": "the pixel of every gene",
    "gene_images.png": "mean images of three cell types",
    "confusion.png": "which held-out types are taken for which",
    "embedding.png": "held-out cells by what the network sees in them (UMAP)",
    "annotated.h5ad": "the held-out cells with their labels, confidences and probabilities",
    "model": "the trained model: plain data, no code",
    "reference.h5ad": "raw counts and labels that the model was trained on",
    "query.h5ad": "raw counts of the held-out cells (their labels only serve to score)",
}
_MARGIN = 11
OURS, BASELINE = "hdeepinsight", "logistic regression"


def run_demo(out: Path, *, seed: int = 0) -> pd.DataFrame:
    """Train on real blood cells, annotate the held-out ones, and draw what came out.

    Parameters
    ----------
    out
        Folder for everything that is made. Files of an earlier run are replaced.
    seed
        Seed of the split and the model.

    Returns
    -------
    Scores of every level, of the model and of logistic regression.

    Raises
    ------
    UsageProblem
        If the folder holds files that the demo did not make.
    """
    start = time.perf_counter()
    claim_folder(out)
    results().print("[bold]hdeepinsight demo[/bold]: real blood cells, offline, about a minute")
    data = _read(out, seed)
    model = _train(data, out, seed)
    annotation = _annotate(model, out)
    truth = model.taxonomy.encode_levels(data.query.obs[data.levels])
    baseline = _baseline(data, model)
    both = {OURS: annotation, BASELINE: baseline}
    evaluations = {name: evaluate_annotation(each, truth) for name, each in both.items()}
    table = figures_table(evaluations)
    _show_scores(table, head_to_head(truth, annotation, baseline))
    table.to_csv(out / "figures.csv", index=False)
    _draw(data, model, annotation, truth, out, seed)
    (out / "README.md").write_text(_readme(data, evaluations), encoding="utf-8")
    _show_files(out, time.perf_counter() - start)
    return table


def _read(out: Path, seed: int) -> DemoData:
    with step("Reading the cells"):
        data = demo(seed)
        data.reference.write_h5ad(out / "reference.h5ad")
        data.query.write_h5ad(out / "query.h5ad")
    n_train, n_test = data.reference.n_obs, data.query.n_obs
    _say(
        "Data",
        f"{n_train + n_test} blood cells × {data.query.n_vars} genes of ten types (Zheng et al. "
        "2017, part of scanpy). The file holds log-normalised values; raw counts are recovered "
        "from them exactly.",
    )
    _say("Split", f"{n_train} cells to learn from, {n_test} held out, of every type")
    return data


def _train(data: DemoData, out: Path, seed: int) -> SCHDeepInsight:
    start = time.perf_counter()
    SCHDeepInsight.setup_anndata(data.reference, labels_keys=data.levels)
    with step("Placing the genes"):
        model = SCHDeepInsight(data.reference, seed=seed)
    with training_progress() as watched, _one_thread():
        model.train(**watched)
    seconds = time.perf_counter() - start
    _say("Taxonomy", "from the label columns; in brackets the cells to learn from")
    counts = data.reference.obs["cell_type"].value_counts()
    _show_indented(Text(model.taxonomy.show(counts)))
    _say("Train", f"{repr(model).splitlines()[0]}, in {seconds:.0f} s")
    model.save(out / "model", overwrite=True)
    _say("Save", f"{out / 'model'}, and from here on only what was loaded from there")
    return SCHDeepInsight.load(out / "model", adata=False)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Train on one thread: as fast on so few cells, and the same figures on any number of cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _annotate(model: SCHDeepInsight, out: Path) -> Annotation:
    query, start = anndata.read_h5ad(out / "query.h5ad"), time.perf_counter()
    with step("Annotating the held-out cells"):
        annotation: Annotation = model.annotate(query)
    seconds = time.perf_counter() - start
    annotation.to_adata(query)
    query.write_h5ad(out / "annotated.h5ad")
    above = (~np.isin(annotation.stop_nodes, annotation.taxonomy.leaves)).sum()
    _say(
        "Annotate",
        f"{len(annotation)} cells in {seconds:.2f} s; {above} of them are unclear and stop above "
        "a type, at the level that is still certain",
    )
    return annotation


def _baseline(data: DemoData, model: SCHDeepInsight) -> Annotation:
    n_train, n_kept = data.reference.n_obs, model.recipe["n_held_out"]
    _say(
        "Compare",
        f"with logistic regression on the same genes and split (it learns from all {n_train} "
        f"cells; the model keeps {n_kept} of them back to calibrate its probabilities)",
    )
    with step("Comparing with logistic regression"):
        return logistic_regression(
            data.reference, data.query, model.taxonomy, labels_key=data.levels[-1]
        )


def _show_scores(table: pd.DataFrame, duels: dict[str, tuple[int, int, float]]) -> None:
    title = "Held-out cells, followed to a leaf"
    _show_indented(frame_table(table.set_index("level"), title=title))
    for level, (ours, other, p_value) in duels.items():
        _say(
            "",
            f"{level}: {ours} cells are right only with {OURS}, {other} only with {BASELINE} "
            f"(sign test p = {p_value:.2g})",
        )
    _say(
        "",
        "T cell subsets overlap in expression, and some have under ten cells here: a macro-F1 "
        "near 0.7 is normal for ten types. On so few cells a linear model is hard to beat; "
        "docs/benchmarks.md compares on more data.",
    )


def _draw(
    data: DemoData,
    model: SCHDeepInsight,
    annotation: Annotation,
    truth: np.ndarray,
    out: Path,
    seed: int,
) -> None:
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")  # pictures go to files, on machines without a screen too
    tree, layout = model.taxonomy, model.layout
    with step("Drawing"):
        everything = np.concatenate([tree.encode_levels(data.reference.obs[data.levels]), truth])
        _demo_figures.draw_taxonomy(tree, everything, path=out / "taxonomy.png")
        _demo_figures.draw_layout(layout, data.reference, path=out / "gene_layout.png")
        _demo_figures.draw_images(layout, data.reference, path=out / "gene_images.png")
        _demo_figures.draw_confusion(tree, truth, annotation, path=out / "confusion.png")
        latent = model.get_latent_representation(data.query)
        _demo_figures.draw_embedding(
            _demo_figures.umap_of(latent, seed=seed),
            {
                "known label": data.query.obs["cell_type"],
                "label given by the model": annotation.label_column(),
            },
            annotation.colors,
            path=out / "embedding.png",
        )


def _readme(data: DemoData, evaluations: dict[str, Evaluation]) -> str:
    scores = [f"## {name}\n\n```\n{each}\n```" for name, each in evaluations.items()]
    head = (
        f"A model was trained on {data.reference.n_obs} blood cells and annotated "
        f"{data.query.n_obs} others. The scores of these:"
    )
    files = "\n".join(f"- `{name}`: {text}" for name, text in OUTPUTS.items())
    return "\n\n".join([MARKER, head, *scores, "## Files", files]) + "\n"


def _show_files(out: Path, seconds: float) -> None:
    _say("Look at", f"{out}{'/' if out.name else ''}   ({seconds:.0f} s in all)")
    for name, text in OUTPUTS.items():
        _show_indented(Text.assemble((f"{name:<16}", "bold"), text))
    query, model = (shlex.quote(str(out / name)) for name in ("query.h5ad", "model"))
    guide = {
        "a reference with raw counts and label columns, and a query with raw counts:": [
            "hdeepinsight train reference.h5ad --labels-keys lineage,cell_type --out my_model",
            "hdeepinsight annotate query.h5ad --model my_model --out annotated.h5ad",
        ],
        "or look around in the files of the demo first:": [
            f"hdeepinsight info {model}",
            f"hdeepinsight evaluate {query} --model {model}",
        ],
    }
    for heading, (purpose, commands) in zip(("Your data", ""), guide.items(), strict=True):
        _say(heading, purpose)
        for command in commands:
            _show_indented(Text(f"  $ {command}", style="cyan"))


def _say(what: str, text: str) -> None:
    """Print a paragraph beside its heading."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_MARGIN - 1, style="bold")
    grid.add_column()
    grid.add_row(what, Text(text))
    results().print(grid)


def _show_indented(shown: Table | Text) -> None:
    results().print(Padding(shown, (0, 0, 0, _MARGIN)))


def claim_folder(out: Path) -> None:
    """Make the folder, or take the one that an earlier run made; nothing in it is deleted.

    Parameters
    ----------
    out
        Folder.

    Raises
    ------
    UsageProblem
        If it is a file, or holds files and no README of an earlier run.
    """
    readme = out / "README.md"
    if out.exists() and not out.is_dir():
        raise UsageProblem(
            f"--out must be a folder, which may be missing, got {out}, which is a file."
        )
    ours = readme.is_file() and readme.read_text(encoding="utf-8").startswith(MARKER)
    if out.is_dir() and any(out.iterdir()) and not ours:
        raise UsageProblem(
            f"{out} holds files that the demo did not make. Choose another folder with --out: an "
            "empty or missing one, or that of an earlier run."
        )
    out.mkdir(parents=True, exist_ok=True)
    # First of all, so that a run that was interrupted can be repeated.
    readme.write_text(f"{MARKER}\n\nThe run has not finished.\n", encoding="utf-8")


def logistic_regression(
    reference: AnnData, query: AnnData, taxonomy: Taxonomy, *, labels_key: str
) -> Annotation:
    """Annotate a query by multinomial logistic regression over the leaves.

    Parameters
    ----------
    reference, query
        Raw counts with the same genes in the same order.
    taxonomy
        The tree; the probability of an inner node is the sum over its leaves.
    labels_key
        Column of the reference with leaves of the taxonomy.

    Returns
    -------
    The annotation, to be scored as any other.
    """
    classifier = LogisticRegression(max_iter=1000)
    known, unknown = (log_normalize(sparse.csr_matrix(cells.X)) for cells in (reference, query))
    classifier.fit(known, reference.obs[labels_key].astype(str))
    per_class = classifier.predict_proba(unknown)
    leaves = taxonomy.encode(classifier.classes_)
    per_leaf = np.zeros((query.n_obs, taxonomy.n_leaves))
    per_leaf[:, np.searchsorted(taxonomy.leaves, leaves)] = per_class
    return Annotation(
        taxonomy=taxonomy,
        obs_names=query.obs_names,
        node_probabilities=per_leaf @ taxonomy.ancestor_matrix,
        recipe={"method": "logistic regression"},
    )


def figures_table(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """Scores of every method, side by side for each level.

    Parameters
    ----------
    evaluations
        Name and scores of each method.

    Returns
    -------
    Table with the columns ``level``, ``method`` and those of `FIGURES`.
    """
    tables = [
        each.levels[list(FIGURES)].rename_axis("level").reset_index().assign(method=name)
        for name, each in evaluations.items()
    ]
    rank = {level: i for i, level in enumerate(tables[0]["level"])}
    table = pd.concat(tables).sort_values(
        "level", kind="stable", key=lambda levels: levels.map(rank)
    )
    return table[["level", "method", *FIGURES]].reset_index(drop=True)


def head_to_head(
    truth: np.ndarray, ours: Annotation, other: Annotation
) -> dict[str, tuple[int, int, float]]:
    """Cells that only one of two methods gets right, at every level.

    Parameters
    ----------
    truth
        True node of every cell, shape ``(n_cells,)``.
    ours, other
        Annotations of these cells.

    Returns
    -------
    For each level the cells that only ours and that only the other gets right, and the p-value of
    the exact sign test (McNemar) that both are as good.
    """
    table = ours.taxonomy.node_at_level
    found = {}
    for level, name in enumerate(ours.taxonomy.level_names):
        here = table[truth, level]
        right = [table[each.leaf_nodes, level] == here for each in (ours, other)]
        only = [int((right[i] & ~right[1 - i] & (here >= 0)).sum()) for i in (0, 1)]
        p_value = binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        found[name] = (only[0], only[1], float(p_value))
    return found
