"""Measure how much there is to win: what methods reach that may learn from the query's own labels.

``python benchmarks/headroom.py --pairs pairs.json --data DIR`` cuts the scored cells of every query
into five parts, by their finest label; each part is annotated by a method that learned from the
other four, alone or together with the reference. No method of the benchmark gets such labels, so
what it lacks to these figures is the most that a better adaptation could still bring, as far as
these methods can tell. It is not a proof of a limit: another method might read more out of the same
labels.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from harness.genes import select_genes
from harness.learned import LABELS
from harness.pairs import read_pairs
from harness.prepare import N_GENES, Prepared, prepare
from harness.records import Records
from harness.registry import Spec, resolve
from harness.results import rounded
from harness.scoring import score, scored_cells
from harness.tree import LabelTree
from methods.interface import Cells, Reference, read_cells, read_reference
from scipy import sparse
from sklearn.model_selection import StratifiedKFold

HERE = Path(__file__).resolve().parent
N_PARTS = 5
METHODS = ("logistic_regression_balanced", "linear_svm", "schdeepinsight")


class LabelledQuery:
    """The scored cells of a query, in parts, with their labels.

    Parameters
    ----------
    prepared
        Files of the pair.
    seed
        Of the parts.
    """

    def __init__(self, prepared: Prepared, seed: int):
        pair = prepared.pair
        self.pair, self.seed = pair.name, seed
        self.reference = read_reference(
            str(prepared.reference), list(pair.levels), str(prepared.genes)
        )
        truth, finest = prepared.truth(), pair.levels[-1]
        known = scored_cells(
            truth[finest].to_numpy(dtype=object),
            self.reference.labels[finest].to_numpy(dtype=object),
            ignore=pair.ignore_labels,
            minimum=pair.min_reference_cells,
        )
        kept = np.flatnonzero(known.mask)
        query = read_cells(str(prepared.query))
        self.cells = _rows(query, kept)
        self.labels = truth.iloc[kept].reset_index(drop=True)
        self.selected = select_genes(self.cells.anndata(), N_GENES)
        with warnings.catch_warnings():  # a class of fewer cells than parts is missing in some
            warnings.filterwarnings("ignore", "The least populated class")
            parts = StratifiedKFold(N_PARTS, shuffle=True, random_state=seed)
            self.parts = list(parts.split(kept, self.labels[finest]))

    def learn_from(self, rows: np.ndarray, *, reference: bool) -> Reference:
        """Cells of the query with their labels, on demand after those of the reference."""
        part, labels = _rows(self.cells, rows), self.labels.iloc[rows]
        selected = self.selected
        if reference:
            part = _joined(self.reference, part)
            labels = pd.concat([self.reference.labels, labels])
            selected = [gene for gene in self.reference.selected if gene in set(part.genes)]
        labels = labels.reset_index(drop=True)
        tree = LabelTree.from_labels(labels)
        return Reference(
            counts=part.counts,
            genes=part.genes,
            batch=part.batch,
            labels=labels,
            tree=tree,
            codes=tree.codes(labels),
            selected=selected,
        )

    def predicted(self, spec: Spec, *, reference: bool) -> np.ndarray:
        """Label every cell by a method that saw the labels of the other parts only."""
        module, name = spec.target.split(":")
        build = getattr(importlib.import_module(f"methods.{module}"), name)
        labels = np.empty(self.labels.shape, dtype=object)
        for learned, asked in self.parts:
            known = self.learn_from(learned, reference=reference)
            with tempfile.TemporaryDirectory() as folder:
                method = build(seed=self.seed, threads=1, folder=Path(folder), **spec.options)
                method.fit(known)
                labels[asked] = method.annotate(_rows(self.cells, asked)).table(known.tree)
        return labels


def _rows(cells: Cells, rows: np.ndarray) -> Cells:
    return Cells(cells.counts[rows], cells.genes, cells.batch[rows])


def _joined(reference: Cells, query: Cells) -> Cells:
    """Cells of both, in the genes that both measured."""
    genes = [str(gene) for gene in reference.genes if gene in set(query.genes)]
    counts = sparse.vstack([reference.aligned(genes)[0], query.aligned(genes)[0]], format="csr")
    batch = np.concatenate([reference.batch, query.batch])
    return Cells(counts, np.array(genes, dtype=object), batch)


def measure(query: LabelledQuery, spec: Spec, learns_from: str) -> list[dict]:
    """One row per level."""
    predicted = query.predicted(spec, reference=learns_from != "query")
    scores = score(query.labels, query.labels, predicted, None)
    run = {"pair": query.pair, "method": spec.name, "seed": query.seed, "labels": learns_from}
    kept = ("level", "accuracy", "macro_f1", "h_f1", "n_cells")
    return [run | rounded({key: s[key] for key in kept}) for s in scores]


def main(argv: list[str] | None = None) -> None:
    """Measure what the records lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--labels", nargs="+", choices=list(LABELS), default=list(LABELS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "headroom.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    args = parser.parse_args(argv)
    records = Records(args.out)
    for pair in read_pairs(args.pairs, args.only):
        prepared = prepare(pair, args.data or args.pairs.parent, args.work)
        for seed in args.seeds:
            query = None  # read once a seed, and not at all where nothing is lacking
            for spec, labels in itertools.product(resolve(list(args.methods)), args.labels):
                run = {"pair": pair.name, "method": spec.name, "seed": seed, "labels": labels}
                if not records.matching(**run):
                    query = query or LabelledQuery(prepared, seed)
                    rows = measure(query, spec, labels)
                    records.replace(rows, **run)
                    print(*run.values(), rows[-1]["macro_f1"], flush=True)


if __name__ == "__main__":
    main()
