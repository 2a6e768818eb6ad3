"""Measure each component of an annotation alone and together; see ``benchmarks/README.md``.

One model a pair and seed is trained (and one on the audited reference), saved below ``--work``, and
annotates the same query in every way. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from harness.components import COMPONENTS, Component
from harness.pairs import read_pairs
from harness.prepare import Prepared, prepare
from harness.records import Records, accuracy_row
from harness.results import rounded
from harness.scoring import score
from methods.interface import Cells, Prediction, Reference, read_cells, read_reference
from methods.ours import SCHDeepInsight, batch_key_of

import hdeepinsight as hdi

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("ablation")


class Bench:
    """One pair and seed: models, reference and the queries.

    Parameters
    ----------
    prepared
        Files of the pair.
    seed
        Seed of the model and of the missing genes.
    folder
        Where models are kept.
    """

    def __init__(self, prepared: Prepared, seed: int, folder: Path):
        self.prepared, self.seed, self.folder = prepared, seed, folder
        levels = list(prepared.pair.levels)
        self.reference: Reference = read_reference(
            str(prepared.reference), levels, str(prepared.genes)
        )

    def fitted(self, *, audited: bool) -> SCHDeepInsight:
        """Return the trained method, from its folder where it was trained before."""
        models = self.folder / f"{self.prepared.pair.name}{'_audited' * audited}"
        method = SCHDeepInsight(
            seed=self.seed, threads=1, folder=models, variant="schdeepinsight", models=models
        )
        if audited:
            method.variant = replace(method.variant, train={"audit": True})
        method.fit(self.reference)
        return method

    def rows(self, component: Component, share: float) -> list[dict]:
        """Annotate by one component and score: one row a level."""
        method = self.fitted(audited=component.audited)
        path = self.prepared.reduced_query(share, self.seed) if share else self.prepared.query
        query = read_cells(str(path))
        start = time.perf_counter()
        prediction, decisions = self._predict(component, method, query)
        seconds = time.perf_counter() - start
        run = {
            "pair": self.prepared.pair.name,
            "method": component.name,
            "kind": "lever",  # as in the rows that are there
            "seed": self.seed,
            "train_s": None,
            "annotate_s": round(seconds, 2),
            "peak_rss_mb": None,
        }
        extra = {"missing_genes": share, "decisions": decisions}
        pair = self.prepared.pair
        scores = score(
            self.prepared.truth(),
            self.prepared.reference_labels(),
            prediction.table(self.reference.tree),
            prediction.probabilities,
            ignore=pair.ignore_labels,
            minimum=pair.min_reference_cells,
        )
        return [accuracy_row(rounded(s), run=run, extra=extra) for s in scores]

    def _predict(
        self, component: Component, method: SCHDeepInsight, query: Cells
    ) -> tuple[Prediction, list[str]]:
        adata, batch_key = query.anndata(), batch_key_of(query)
        if component.method == "stacas":
            return method.prediction(self._corrected(method, adata)), []
        result = hdi.annotate(
            adata,
            method.model,
            batch_key=batch_key,
            threshold=None,
            **component.options,
        )
        decisions = [str(decision) for decision in result.decisions]
        if component.method == "annotate":
            return method.prediction(result), decisions
        hdi.tl.expression_pca(adata, key_added="X_pca")
        return method.prediction(self._afterwards(component.method, adata, result, batch_key)), []

    def _afterwards(self, name: str, adata, result, batch_key: str | None) -> hdi.Annotation:
        if name == "vote":
            return replace(hdi.tl.vote(adata, result), threshold=None)
        if name == "permuted":
            order = np.random.default_rng(self.seed).permutation(adata.n_obs)
            adata.obsm["X_pca"] = adata.obsm["X_pca"][order]
            return hdi.tl.refine(adata, result, batch_key=batch_key).annotation(threshold=None)
        refined = hdi.tl.refine(adata, result, method="laplacian", lam=1.0, batch_key=batch_key)
        return refined.annotation(threshold=None)

    def _corrected(self, method: SCHDeepInsight, adata) -> hdi.Annotation:
        model = method.model
        corrected = hdi.pp.stacas(
            method._labelled(self.reference)[0],
            adata,
            layer=None,
            normalizer=model.normalizer,
            features=list(model.layout.genes),
        )
        return model.annotate(adata, corrected=corrected, threshold=None)


def parser() -> argparse.ArgumentParser:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="JSON list of pairs")
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR", help="names of pairs (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--components", nargs="+", default=[each.name for each in COMPONENTS])
    parser.add_argument("--missing", type=float, nargs="*", default=[], metavar="SHARE")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ablation.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    return parser


def main(argv: list[str] | None = None) -> None:
    """Measure what the command line asks for."""
    args = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.simplefilter("ignore")
    records = Records(args.out)
    components = [component for component in COMPONENTS if component.name in args.components]
    for seed in args.seeds:
        for pair in read_pairs(args.pairs, args.only):
            prepared = prepare(pair, args.data or args.pairs.parent, args.work)
            bench = Bench(prepared, seed, args.work / "models")
            for component in components:
                for share in (0.0, *args.missing):
                    key = {
                        "pair": pair.name,
                        "method": component.name,
                        "seed": seed,
                        "missing_genes": share,
                    }
                    if not records.matching(**key):
                        rows = bench.rows(component, share)
                        records.replace(rows, **key)
                        logger.info("%s %s", tuple(key.values()), rows[-1]["macro_f1"])


if __name__ == "__main__":
    main()
