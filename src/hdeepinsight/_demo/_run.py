"""The story of the demo, step by step, told on the terminal while it happens."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from hdeepinsight._demo import _figures
from hdeepinsight._demo._baseline import logistic_regression
from hdeepinsight._demo._folder import claim_folder
from hdeepinsight._demo._report import OUTPUTS, figures_table, guide, head_to_head, readme
from hdeepinsight.annotation import Annotation, evaluate_annotation
from hdeepinsight.cli._console import results, step
from hdeepinsight.cli._progress import training_progress
from hdeepinsight.cli._show import frame_table
from hdeepinsight.datasets import DemoData, demo
from hdeepinsight.models import SCHDeepInsight

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from hdeepinsight.annotation import Evaluation

__all__ = ["run_demo"]

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
    start, console = time.perf_counter(), results()
    claim_folder(out)
    console.print("[bold]hdeepinsight demo[/bold]: real blood cells, offline, about a minute")
    data = _read(console, out, seed)
    model = _train(console, data, out, seed)
    annotation = _annotate(console, model, out)
    truth = model.taxonomy.encode_levels(data.query.obs[DemoData.levels])
    baseline = _baseline(console, data, model)
    both = {OURS: annotation, BASELINE: baseline}
    evaluations = {name: evaluate_annotation(each, truth) for name, each in both.items()}
    table = figures_table(evaluations)
    _show_scores(console, table, head_to_head(truth, annotation, baseline))
    table.to_csv(out / "figures.csv", index=False)
    _draw(data, model, annotation, truth, out, seed)
    (out / "README.md").write_text(readme(_summary(data, evaluations)), encoding="utf-8")
    _show_files(console, out, time.perf_counter() - start)
    return table


def _read(console: Console, out: Path, seed: int) -> DemoData:
    with step("Reading the cells"):
        data = demo(seed)
        data.reference.write_h5ad(out / "reference.h5ad")
        data.query.write_h5ad(out / "query.h5ad")
    n_train, n_test = data.reference.n_obs, data.query.n_obs
    _say(
        console,
        "Data",
        f"{n_train + n_test} blood cells × {data.query.n_vars} genes of ten types (Zheng et al. "
        "2017, part of scanpy). The file holds log-normalised values; raw counts are recovered "
        "from them exactly.",
    )
    _say(console, "Split", f"{n_train} cells to learn from, {n_test} held out, of every type")
    return data


def _train(console: Console, data: DemoData, out: Path, seed: int) -> SCHDeepInsight:
    start = time.perf_counter()
    SCHDeepInsight.setup_anndata(data.reference, labels_keys=DemoData.levels)
    with step("Placing the genes"):
        model = SCHDeepInsight(data.reference, seed=seed)
    with training_progress() as watched, _one_thread():
        model.train(**watched)
    seconds = time.perf_counter() - start
    _say(console, "Taxonomy", "from the label columns; in brackets the cells to learn from")
    counts = data.reference.obs["cell_type"].value_counts()
    console.print(Padding(Text(model.taxonomy.show(counts)), (0, 0, 0, _MARGIN)))
    _say(console, "Train", f"{repr(model).splitlines()[0]}, in {seconds:.0f} s")
    model.save(out / "model", overwrite=True)
    _say(console, "Save", f"{out / 'model'}, and from here on only what was loaded from there")
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


def _annotate(console: Console, model: SCHDeepInsight, out: Path) -> Annotation:
    import anndata

    query, start = anndata.read_h5ad(out / "query.h5ad"), time.perf_counter()
    with step("Annotating the held-out cells"):
        annotation = model.annotate(query)
    seconds = time.perf_counter() - start
    annotation.to_adata(query)
    query.write_h5ad(out / "annotated.h5ad")
    above = (~np.isin(annotation.stop_nodes, annotation.taxonomy.leaves)).sum()
    _say(
        console,
        "Annotate",
        f"{len(annotation)} cells in {seconds:.2f} s; {above} of them are unclear and stop above "
        "a type, at the level that is still certain",
    )
    return annotation


def _baseline(console: Console, data: DemoData, model: SCHDeepInsight) -> Annotation:
    n_train, n_kept = data.reference.n_obs, model.recipe["n_held_out"]
    _say(
        console,
        "Compare",
        f"with logistic regression on the same genes and split (it learns from all {n_train} "
        f"cells; the model keeps {n_kept} of them back to calibrate its probabilities)",
    )
    with step("Comparing with logistic regression"):
        return logistic_regression(
            data.reference, data.query, model.taxonomy, labels_key=DemoData.levels[-1]
        )


def _show_scores(
    console: Console, table: pd.DataFrame, duels: dict[str, tuple[int, int, float]]
) -> None:
    shown = frame_table(table.set_index("level"), title="Held-out cells, followed to a leaf")
    console.print(Padding(shown, (0, 0, 0, _MARGIN)))
    for level, (ours, other, p_value) in duels.items():
        _say(
            console,
            "",
            f"{level}: {ours} cells are right only with {OURS}, {other} only with {BASELINE} "
            f"(sign test p = {p_value:.2g})",
        )
    _say(
        console,
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
        _figures.draw_taxonomy(tree, everything, path=out / "taxonomy.png")
        _figures.draw_layout(layout, data.reference, path=out / "gene_layout.png")
        _figures.draw_images(layout, data.reference, path=out / "gene_images.png")
        _figures.draw_confusion(tree, truth, annotation, path=out / "confusion.png")
        latent = model.get_latent_representation(data.query)
        _figures.draw_embedding(
            _figures.umap_of(latent, seed=seed),
            {
                "known label": data.query.obs["cell_type"],
                "label given by the model": annotation.label_column(),
            },
            path=out / "embedding.png",
        )


def _summary(data: DemoData, evaluations: dict[str, Evaluation]) -> str:
    lines = [f"## {name}\n\n```\n{each}\n```" for name, each in evaluations.items()]
    head = (
        f"A model was trained on {data.reference.n_obs} blood cells and annotated "
        f"{data.query.n_obs} others. The scores of these:"
    )
    return "\n\n".join([head, *lines, "## Files"])


def _show_files(console: Console, out: Path, seconds: float) -> None:
    _say(console, "Look at", f"{out}{'/' if out.name else ''}   ({seconds:.0f} s in all)")
    for name, text in OUTPUTS.items():
        console.print(Padding(Text.assemble((f"{name:<16}", "bold"), text), (0, 0, 0, _MARGIN)))
    for heading, (purpose, commands) in zip(("Your data", ""), guide(out).items(), strict=True):
        _say(console, heading, purpose)
        for command in commands:
            console.print(Padding(Text(f"$ {command}", style="cyan"), (0, 0, 0, _MARGIN + 2)))


def _say(console: Console, what: str, text: str) -> None:
    """Print a paragraph beside its heading."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=_MARGIN - 1, style="bold")
    grid.add_column()
    grid.add_row(what, Text(text))
    console.print(grid)
