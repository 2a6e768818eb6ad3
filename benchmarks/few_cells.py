"""Measure how methods do with 5 to 100 labelled cells per type.

``python benchmarks/few_cells.py --pairs pairs.json --data DIR`` cuts every reference to so many
cells of each type, all from the batch that has most of them: one donor, one study. The query stays
whole. Another seed draws other cells.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from harness.genes import select_genes
from harness.pairs import read_pairs
from harness.prepare import N_GENES, Prepared, prepare
from harness.records import Records
from harness.registry import Spec, resolve
from harness.results import rounded
from harness.scoring import score
from methods.interface import Reference, read_cells, read_reference

HERE = Path(__file__).resolve().parent
SIZES = (5, 10, 30, 100)
METHODS = (
    "schdeepinsight",
    "network_alone",
    "members",
    "logistic_regression_balanced",
    "logistic_regression_balanced_tuned",
    "class_means",
)


def cut_reference(prepared: Prepared, n_each: int, seed: int) -> Reference:
    """Draw so many cells of every type from the batch of the reference that has most of them."""
    pair = prepared.pair
    whole = read_reference(str(prepared.reference), list(pair.levels), str(prepared.genes))
    rng, choices = np.random.default_rng(seed), []
    for batch in np.unique(whole.batch):
        cells = rng.permutation(np.flatnonzero(whole.batch == batch))
        turn = pd.Series(cells).groupby(whole.codes[cells]).cumcount().to_numpy()
        choices.append(np.sort(cells[turn < n_each]))
    part = whole[max(choices, key=len)]
    return replace(part, selected=select_genes(part.anndata(), N_GENES))


def measure(prepared: Prepared, spec: Spec, n_each: int, seed: int) -> list[dict]:
    """One row per level."""
    pair, reference = prepared.pair, cut_reference(prepared, n_each, seed)
    module, name = spec.target.split(":")
    build = getattr(importlib.import_module(f"methods.{module}"), name)
    with tempfile.TemporaryDirectory() as folder:
        method = build(seed=seed, threads=1, folder=Path(folder), **spec.options)
        method.fit(reference)
        predicted = method.annotate(read_cells(str(prepared.query)))
    scores = score(
        prepared.truth(),
        reference.labels,
        predicted.table(reference.tree),
        predicted.probabilities,
        ignore=pair.ignore_labels,
        minimum=min(n_each, pair.min_reference_cells),
    )
    run = {
        "pair": pair.name,
        "method": spec.name,
        "seed": seed,
        "n_each": n_each,
        "across": pair.reference.file != pair.query.file,
        "n_reference": reference.n_cells,
    }
    kept = ("level", "accuracy", "macro_f1", "h_f1", "ece", "n_cells")
    return [run | rounded({key: s[key] for key in kept}) for s in scores]


def main(argv: list[str] | None = None) -> None:
    """Measure what the records lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="cells per type")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "few_cells.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    args = parser.parse_args(argv)
    records = Records(args.out)
    for pair in read_pairs(args.pairs, args.only):
        prepared = prepare(pair, args.data or args.pairs.parent, args.work)
        todo = itertools.product(args.seeds, args.sizes, resolve(list(args.methods)))
        for seed, n_each, spec in todo:
            run = {"pair": pair.name, "method": spec.name, "seed": seed, "n_each": n_each}
            if not records.matching(**run):
                rows = measure(prepared, spec, n_each, seed)
                records.replace(rows, **run)
                print(*run.values(), rows[-1]["macro_f1"], flush=True)


if __name__ == "__main__":
    main()
