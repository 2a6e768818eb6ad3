"""Small references: students trained on a few cells per class, scored on other donors or studies.

``python benchmarks/distillation.py --pairs <pairs.json>`` makes small references of the reference
side of three pairs alone, genes chosen there too, trains students on them, and scores the labels of
the query at the finest level. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
from harness.pairs import read_pairs
from harness.prepare import Prepared, prepare
from harness.records import Records
from harness.summary import summarise
from harness.tables import figure
from harness.tables import table as markdown
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.neural_network import MLPClassifier

import hdeepinsight as hdi
from hdeepinsight.data import log_normalize, open_counts, select_genes

HERE = Path(__file__).resolve().parent
PAIRS = "zheng_to_pbmc3k", "kang_donors", "bm_donors"
SIZES = 1, 10
CHOSEN = "random", "herding", "geosketch", "k_center"
AVERAGES = "pseudobulk", "centroids"
DISTILLED = {
    "generator only": {"n_iter": 0},
    "distill, distribution": {"matching": "distribution"},
    "distill, regression": {"matching": "regression"},
}
METHODS = (*CHOSEN, *AVERAGES, *DISTILLED, "all cells")
STUDENTS = "logistic", "mlp", "schdeepinsight"
N_GENES = 2000
#: Cells that SCHDeepInsight is trained on, simulated from each row of a small reference.
CELLS_PER_ROW = 50


def read(prepared: Prepared) -> tuple[ad.AnnData, ad.AnnData, np.ndarray, str]:
    """Return reference and query on genes of the reference, true labels, and their level."""
    pair, key = prepared.pair, prepared.pair.levels[-1]
    reference, query = ad.read_h5ad(prepared.reference), ad.read_h5ad(prepared.query)
    sizes = reference.obs[key].value_counts()
    kept = reference.obs[key].isin(sizes.index[sizes >= pair.min_reference_cells])
    reference = reference[(kept & (reference.obs[key] != "")).to_numpy()].copy()
    reference.obs[key] = reference.obs[key].cat.remove_unused_categories()
    genes = select_genes(open_counts(reference), N_GENES)
    query = query[:, query.var_names.isin(genes)].copy()
    reference = reference[:, [g for g in genes if g in set(query.var_names)]].copy()
    query = query[:, reference.var_names].copy()
    truth = prepared.truth()[key].to_numpy()
    scored = np.isin(truth, reference.obs[key].cat.categories)
    return reference, query[scored].copy(), truth[scored], key


def reduce(reference: ad.AnnData, key: str, method: str, n_each: int, seed: int) -> ad.AnnData:
    """Make the small reference."""
    call = {"labels_key": key, "cells_per_class": n_each, "rare": "keep_real", "seed": seed}
    if method in DISTILLED:
        return hdi.tl.distill(reference, **call, **DISTILLED[method])
    if method in METHODS[:-1]:
        return hdi.tl.select_cells(reference, **call, method=method)
    whole = reference.copy()
    whole.layers["counts"], whole.X = reference.X, log_normalize(reference.X)
    return whole


def annotate(
    student: str, small: ad.AnnData, query: ad.AnnData, key: str, levels: list[str], seed: int
) -> np.ndarray:
    """Train a student, and return its labels of the query."""
    if student == "schdeepinsight":
        averaged = small.n_obs < 1000
        cells = hdi.tl.simulate_cells(small, CELLS_PER_ROW, seed=seed) if averaged else small
        layer = None if averaged else "counts"
        hdi.SCHDeepInsight.setup_anndata(cells, layer=layer, labels_keys=levels)
        model = hdi.SCHDeepInsight(cells, seed=seed)
        model.train(accelerator="cpu", enable_progress_bar=False)
        # Every student answers for every cell.
        result = model.annotate(query, reject="off", threshold=None)
        return result.labels[levels[-1]].astype(str).to_numpy()
    model = (
        LogisticRegression(max_iter=1000)
        if student == "logistic"
        else MLPClassifier((128,), max_iter=100, random_state=seed)
    )
    return model.fit(small.X, small.obs[key].astype(str)).predict(log_normalize(query.X))


def table(rows: list[dict]) -> str:
    """Show macro-F1 by student, method, pair and size."""
    known = {(row["pair"], row["n_each"]) for row in rows}
    columns = [(p, n) for p in PAIRS for n in SIZES if (p, n) in known]
    parts = [
        "Macro-F1 of the query at its finest level; the reference side alone makes the small "
        "reference. 1 and 10 are cells per class, classes with fewer cells than needed keep "
        "theirs. Means over seeds ± half their range."
    ]
    for student in STUDENTS:
        lines = []
        for method in METHODS:
            own = [r for r in rows if (r["student"], r["method"]) == (student, method)]
            found = [
                summarise([r for r in own if (r["pair"], r["n_each"]) == at], "macro_f1")
                for at in columns
            ]
            if any(found):
                mean = f"{np.mean([f.mean for f in found]):.3f}" if all(found) else "–"
                lines.append([method, *map(figure, found), mean])
        if lines:
            header = ["method", *(f"{pair}, {n}" for pair, n in columns), "mean"]
            parts.append(f"**Student: {student}**\n\n{markdown(header, lines)}")
    return "\n\n".join(parts)


def main(argv: list[str] | None = None) -> None:
    """Measure what the records lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR", default=PAIRS)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--students", nargs="+", default=STUDENTS, choices=STUDENTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="cells per class")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "distillation.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    records = Records(args.out)
    for pair in read_pairs(args.pairs, args.only):
        prepared = prepare(pair, args.data or args.pairs.parent, args.work)
        reference, query, truth, key = read(prepared)
        for method in args.methods:
            for n_each, seed in ((n, s) for n in args.sizes for s in args.seeds):
                run = {"pair": pair.name, "method": method, "n_each": n_each, "seed": seed}
                todo = [s for s in args.students if not records.matching(**run, student=s)]
                if not todo:
                    continue
                used = time.process_time()
                small = reduce(reference, key, method, n_each, seed)
                reduce_s = round(time.process_time() - used, 1)
                for student in todo:
                    same = {"pair": pair.name, "method": method, "student": student, "seed": seed}
                    if method == "all cells" and (there := records.matching(**same)):
                        found = there[0] | run  # it is the same at every size
                    else:
                        used = time.process_time()
                        labels = annotate(student, small, query, key, list(pair.levels), seed)
                        f1 = f1_score(truth, labels, average="macro", labels=np.unique(truth))
                        cpu = round(time.process_time() - used, 1)
                        found = run | {"student": student, "macro_f1": round(float(f1), 4)}
                        found |= {"n_cells": small.n_obs, "reduce_cpu_s": reduce_s, "cpu_s": cpu}
                    records.replace([found], **run, student=student)
                    print(*found.values(), flush=True)


if __name__ == "__main__":
    main()
