"""Labels from lists of marker genes alone, refined on the graph of the cells.

``python benchmarks/markers.py --pairs <pairs.json>`` annotates the queries of the pairs of human
blood and marrow by the list of the package, and sorted blood cells (Zheng et al. 2017). No cell of
a reference is used: its labels tell only which classes are scored, as for every other method.
Choices were made on other cells (see the user guide). Controls in the same run: the type with the
highest mean of its markers, `scanpy.tl.score_genes`, the unrefined labels, and the same refinement
on a graph whose cells are permuted.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from harness.pairs import Cells, Pair, read_pairs
from harness.records import Records
from harness.scoring import calibration_error, macro_f1, scored_cells

import hdeepinsight as hdi

HERE = Path(__file__).resolve().parent
SORTED = Pair(
    name="zheng_sorted",
    reference=Cells("pbmc_zheng2017_facs.h5ad"),
    query=Cells("pbmc_zheng2017_facs.h5ad"),
    levels=("lineage", "cell_type"),
)
#: Pairs, and the level that is scored: the finest one, and of marrow the one that the list has.
LEVELS = {
    "zheng_to_pbmc3k": "cell_type",
    "pbmc3k_to_pbmc4k": "cell_type",
    "kang_donors": "cell_type_fine",
    "kang_ctrl_to_stim": "cell_type",
    "bm_donors": "lineage",
    SORTED.name: "cell_type",
}
#: What nodes of the list are called in the files; other names are the same.
NAMES = {"Platelet": "Megakaryocyte"}
MARROW = {
    **dict.fromkeys(("T", "B", "NK"), "Lymphoid"),
    **dict.fromkeys(("Platelet", "Erythrocyte"), "Erythroid/Mk"),
}
METHODS = ("marker means", "score_genes", "score_markers", "refined", "permuted graph")


def cells_of(data: Path, cells: Cells) -> ad.AnnData:
    """Read the cells of one side of a pair."""
    read = ad.read_h5ad(data / cells.file)
    keep = np.ones(read.n_obs, dtype=bool)
    for column, values in cells.where.items():
        keep &= read.obs[column].isin(values).to_numpy()
    return read[keep].copy()


def classes_of(tree: hdi.Taxonomy, level: str, known: set[str], *, marrow: bool) -> np.ndarray:
    """Return the class of each leaf in the words of a file: its deepest name that is one there."""
    names = []
    for leaf in tree.leaves:
        path = tree.path(int(leaf))
        said = (
            [MARROW.get(path[0], path[0])] if marrow else [NAMES.get(name, name) for name in path]
        )
        if level == "lineage":
            said = said[:1]
        names.append(next((name for name in reversed(said) if name in known), said[-1]))
    return np.array(names)


def marker_means(cells: ad.AnnData, result: hdi.Annotation, *, scanpy: bool) -> np.ndarray:
    """Score every leaf by the mean of its markers in log-normalised counts, ``(n, n_leaves)``."""
    table, tree = hdi.tl.read_markers("blood"), result.taxonomy
    table = table[table["gene"].isin(cells.var_names)]
    logs = cells.copy()
    sc.pp.normalize_total(logs, target_sum=1e4)
    sc.pp.log1p(logs)
    scores = np.full((cells.n_obs, tree.n_leaves), -np.inf)
    for i, leaf in enumerate(tree.leaves):
        above = {tree.path_name(int(node)) for node in tree.ancestors(int(leaf)) if node}
        own = table[table["type"].isin(above)]
        genes = {sign: own.loc[own["sign"] == sign, "gene"].unique() for sign in (1, -1)}
        if tree.path_name(int(leaf)) in result.recipe["left_out"] or not len(genes[1]):
            continue
        if scanpy:
            sc.tl.score_genes(logs, genes[1], score_name="score", random_state=0)
            scores[:, i] = logs.obs["score"]
            continue
        mean = {
            sign: np.asarray(logs[:, g].X.mean(axis=1)).ravel()
            for sign, g in genes.items()
            if len(g)
        }
        scores[:, i] = mean[1] - mean.get(-1, 0.0)
    return scores


def rows_of(pair: Pair, data: Path) -> Iterator[dict]:
    """Yield one record per method."""
    level = LEVELS[pair.name]
    cells, reference = cells_of(data, pair.query), cells_of(data, pair.reference)
    truth, known = (side.obs[level].astype(str).to_numpy() for side in (cells, reference))
    scored = scored_cells(
        truth, known, ignore=("unknown", *pair.ignore_labels), minimum=pair.min_reference_cells
    ).mask
    started = time.process_time()
    result = hdi.tl.score_markers(cells)
    took = time.process_time() - started
    points = hdi.tl.expression_pca(cells)
    refined = hdi.tl.refine(cells, result, use_rep=points)
    order = np.random.default_rng(0).permutation(len(points))
    permuted = hdi.tl.refine(cells, result, use_rep=points[order])
    leaves = result.taxonomy.leaves
    found = {
        "marker means": marker_means(cells, result, scanpy=False),
        "score_genes": marker_means(cells, result, scanpy=True),
        "score_markers": result.node_probabilities[:, leaves],
        "refined": refined.annotation().node_probabilities[:, leaves],
        "permuted graph": permuted.annotation().node_probabilities[:, leaves],
    }
    classes = classes_of(result.taxonomy, level, set(known), marrow=pair.name == "bm_donors")
    for method, values in found.items():
        probable = method in METHODS[2:]
        table = pd.DataFrame(values).T.groupby(classes)
        table = (table.sum() if probable else table.max()).T
        called = table.columns.to_numpy()[table.to_numpy().argmax(axis=1)]
        row = {
            "pair": pair.name,
            "level": level,
            "method": method,
            "n_cells": int(scored.sum()),
            "accuracy": float((called == truth)[scored].mean()),
            "macro_f1": macro_f1(truth[scored], called[scored]),
        }
        if probable:
            confidence = table.to_numpy().max(axis=1)
            row["ece"] = calibration_error(confidence[scored], (called == truth)[scored])
        if method == "score_markers":
            row |= {"seconds": round(took, 2), "exponent": result.recipe["exponent"]}
            row |= {"n_markers": result.gene_report.n_measured}
        for name, graph in (("refined", refined), ("permuted graph", permuted)):
            if method == name:
                row |= {"lam": float(graph.parameters["lam"])}
                row |= {"changed": float(graph.changed.mean())}
        yield row


def table(rows: list[dict]) -> str:
    """Markdown: macro-F1 of every query and method, and their mean over the pairs."""
    frame = pd.DataFrame(rows)
    scores = frame.pivot(index="pair", columns="method", values="macro_f1")
    errors = frame.pivot(index="pair", columns="method", values="ece")
    asked = frame[frame["method"] == "score_markers"].set_index("pair")
    lam = frame[frame["method"] == "permuted graph"].set_index("pair")["lam"]
    pairs = [name for name in LEVELS if name in scores.index]
    lines = [
        f"| query of | level | markers | {' | '.join(METHODS[:4])} | λ permuted | "
        "ECE | ECE refined |",
        f"|---|---|{'---:|' * 8}",
    ]
    for name in pairs:
        numbers = " | ".join(f"{scores.loc[name, method]:.3f}" for method in METHODS[:4])
        lines.append(
            f"| {name} | {asked.loc[name, 'level']} | {asked.loc[name, 'n_markers']:.0f} | "
            f"{numbers} | {lam[name]:.2g} | {errors.loc[name, 'score_markers']:.3f} | "
            f"{errors.loc[name, 'refined']:.3f} |"
        )
    blood = [name for name in pairs if name != SORTED.name]
    means = " | ".join(f"**{scores.loc[blood, method].mean():.3f}**" for method in METHODS[:4])
    both = " | ".join(
        f"{errors.loc[blood, method].mean():.3f}" for method in ("score_markers", "refined")
    )
    lines.append(f"| mean of the {len(blood)} pairs | | | {means} | | {both} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the files; that of the pairs file")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "markers.json")
    parser.add_argument("--only", nargs="*", help="names of pairs")
    parser.add_argument("--force", action="store_true", help="measure anew")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    records = Records(options.results)
    data = options.data or options.pairs.parent
    for pair in (*read_pairs(options.pairs), SORTED):
        if pair.name not in LEVELS or (options.only and pair.name not in options.only):
            continue
        if options.force or not records.matching(pair=pair.name):
            records.replace(list(rows_of(pair, data)), pair=pair.name)
    print(table(records.rows))


if __name__ == "__main__":
    main()
