"""Measure batch correction on real pairs and its speed; writes ``benchmarks/results/stacas.json``.

For each pair of prepared data (a folder with ``ref.h5ad``, ``query.h5ad``, ``model/`` and
``info.json``) the query is left as it is, shifted by the difference of means, and corrected with
different settings. Each is scored by the accuracy and macro-F1 of a trained model and of logistic
regression, by how well batches mix within types, and by how far types stay apart. The labels of a
query are used for scoring; the semi-supervised run alone also gets those of every third cell, and
is scored on the other two thirds next to an unsupervised run scored on the same cells.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
from harness.machine import forget_peak, host, peak_rss_mb, versions
from scipy import sparse
from sklearn.decomposition import TruncatedSVD
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("benchmarks")
N_CELLS, N_GENES = 20_000, 2000


class Pair:
    """A reference, a query and a trained model; values in the model's log space."""

    def __init__(self, folder: Path) -> None:
        import hdeepinsight as hdi

        self.name = folder.name
        info = json.loads((folder / "info.json").read_text())
        self.level = info["levels"][-1]
        self.reference = ad.read_h5ad(folder / "ref.h5ad")
        self.query = ad.read_h5ad(folder / "query.h5ad")
        self.model = hdi.SCHDeepInsight.load(str(folder / "model"))
        self.labels = self.reference.obs[self.level].astype(str).to_numpy()
        self.truth = self.query.obs[self.level].astype(str).to_numpy()
        names, counts = np.unique(self.labels, return_counts=True)
        self.scored = np.isin(self.truth, names[counts >= 5])

    def correct(self, reference: ad.AnnData | None = None, **options: object) -> object:
        """Correct the query in the model's log space."""
        import hdeepinsight as hdi

        reference = self.reference if reference is None else reference
        return hdi.pp.stacas(reference, self.query, normalizer=self.model.normalizer, **options)


def log_values(result: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log values of the reference, the query, and the query after correction."""
    reference, query = (one.gather(result.genes).toarray() for one in result.datasets[:2])
    return reference, query, query + result.correction(dataset=result.datasets[1].name)


class Scorer:
    """Scores of one query matrix; what depends on the reference alone is computed once."""

    def __init__(self, pair: Pair, reference: np.ndarray) -> None:
        self.pair, self.reference = pair, reference
        self.classifier = LogisticRegression(max_iter=200, C=0.1).fit(reference, pair.labels)

    def __call__(self, values: np.ndarray, shift: np.ndarray | None, cells: np.ndarray) -> dict:
        """Score values, and by the model the shift that led to them, on some cells of the query."""
        pair = self.pair
        by_model = {}
        if shift is not None:
            by_model = agreement(pair.truth, classify(pair, shift), cells, "model")
        linear = self.classifier.predict(values)
        space = TruncatedSVD(30, random_state=0).fit_transform(
            np.concatenate([self.reference, values])
        )
        n_reference = len(self.reference)
        types = np.concatenate([pair.labels, pair.truth])
        batch = np.arange(len(types)) >= n_reference
        row = {
            **by_model,
            **agreement(pair.truth, linear, cells, "linear"),
            "mixing": mixing_within_types(space, types, batch),
            "separation": float(
                silhouette_score(space, types, sample_size=min(2000, len(types)), random_state=0)
            ),
        }
        return {key: round(value, 4) for key, value in row.items()}


def agreement(truth: np.ndarray, found: np.ndarray, cells: np.ndarray, name: str) -> dict:
    """Accuracy and macro-F1 over the types of these cells."""
    truth, found = truth[cells], found[cells]
    macro = f1_score(truth, found, labels=np.unique(truth), average="macro", zero_division=0)
    return {f"{name}_accuracy": float((truth == found).mean()), f"{name}_macro_f1": float(macro)}


def classify(pair: Pair, shift: np.ndarray) -> np.ndarray:
    """Leaf labels by the model, with ``shift`` added to the log values of all its genes."""
    import torch

    from hdeepinsight.data import open_counts

    model, module = pair.model, pair.model.module.eval()
    source = open_counts(pair.query)
    alignment = source.align(model.layout.genes, warn_coverage=0.0)
    measured = torch.tensor(alignment.measured, dtype=torch.float32)
    leaves = model.taxonomy.leaves
    names = np.array([model.taxonomy.label(int(leaf)) for leaf in leaves], dtype=object)
    found = []
    for rows, counts in source.chunks(alignment, 1024):
        here = torch.from_numpy(shift[rows].astype(np.float32))
        out = module.predict(torch.from_numpy(counts.toarray()), measured=measured, shift=here)
        found.append(names[out["probabilities"].numpy()[:, leaves].argmax(axis=1)])
    return np.concatenate(found).astype(str)


def mixing_within_types(space: np.ndarray, types: np.ndarray, batch: np.ndarray) -> float:
    """Mean inverse Simpson index of the batch among 30 neighbours of the same type.

    0 where every neighbourhood holds one batch, 1 where it holds both as often as the type does;
    the mean over types with at least 30 cells in each batch.
    """
    scores = []
    for one in np.unique(types):
        cells = np.flatnonzero(types == one)
        share = batch[cells].mean()
        if min(share, 1 - share) * len(cells) < 30:
            continue
        near = NearestNeighbors(n_neighbors=31).fit(space[cells]).kneighbors(space[cells])[1]
        p = batch[cells][near[:, 1:]].mean(axis=1)
        simpson = 1 / (p**2 + (1 - p) ** 2)
        expected = 1 / (share**2 + (1 - share) ** 2)
        scores.append((simpson.mean() - 1) / (expected - 1))
    return float(np.mean(scores)) if scores else float("nan")


def measure_pair(folder: Path) -> list[dict]:
    """All controls on one pair, one record a setting."""
    import hdeepinsight as hdi

    pair = Pair(folder)
    genes = {"features": pair.model.layout.genes}
    settings: dict[str, dict] = {
        "stacas": {},
        "stacas, model genes": genes,
        "stacas, schdeepinsight preset": {"config": hdi.pp.StacasConfig.schdeepinsight(), **genes},
    }
    first = pair.correct()
    reference, query, _ = log_values(first)
    scorer = Scorer(pair, reference)
    place = placer(pair, first.genes)
    everyone = pair.scored
    means = reference.mean(axis=0) - query.mean(axis=0)
    records = [
        record(pair, "no correction", scorer(query, place(0 * query), everyone)),
        record(pair, "mean shift", scorer(query + means, place(0 * query + means), everyone)),
    ]
    for name, options in settings.items():
        start = time.perf_counter()
        result = pair.correct(**options)
        seconds = time.perf_counter() - start
        change = np.zeros_like(query)
        change[:, [first.genes.index(gene) for gene in result.genes]] = result.correction()
        scores = scorer(query + change, place(change), everyone)
        facts = {"anchors_right": right_anchors(pair, result), "seconds": round(seconds, 2)}
        records.append(record(pair, name, scores, **facts, **anchor_facts(result)))
    records += semi_supervised(pair, scorer, place, first)
    records += integrated(pair)
    records += held_out(pair)
    return records


def placer(pair: Pair, genes: tuple[str, ...]) -> Callable[[np.ndarray], np.ndarray]:
    """Put a change of some genes among all genes of the model."""
    every = list(pair.model.layout.genes)
    columns = [every.index(gene) for gene in genes]

    def place(change: np.ndarray) -> np.ndarray:
        placed = np.zeros((len(change), len(every)), dtype=np.float32)
        placed[:, columns] = change
        return placed

    return place


def integrated(pair: Pair) -> list[dict]:
    """Let either side move; the trained model knows the reference as it was, so it is left out."""
    result = pair.correct(mode="integrate")
    now = [
        one.gather(result.genes).toarray() + result.correction(dataset=one.name)
        for one in result.datasets
    ]
    scores = Scorer(pair, now[0])(now[1], None, pair.scored)
    base = result.datasets[result.tree.base].name
    return [record(pair, "stacas, integrate", scores, base=base)]


def semi_supervised(pair: Pair, scorer: Scorer, place: Callable, plain: object) -> list[dict]:
    """Labels of every third query cell, against none, on the cells whose labels were not given."""
    given = np.arange(pair.query.n_obs) % 3 == 0
    pair.query.obs["given"] = np.where(given, pair.truth, "Unknown")
    keys = {"labels_key": pair.level, "query_labels_key": "given"}
    records = []
    for name, result in (
        ("stacas, no labels, other cells", plain),
        ("stacas, a third labelled, other cells", pair.correct(**keys)),
    ):
        _, query, after = log_values(result)
        scores = scorer(after, place(after - query), pair.scored & ~given)
        facts = {"anchors_right": right_anchors(pair, result)}
        records.append(record(pair, name, scores, **facts, **anchor_facts(result)))
    return records


def right_anchors(pair: Pair, result: object) -> float:
    """Share of the anchors' total score that joins cells of one type."""
    anchors = result.anchors
    first = pair.reference.obs[pair.level].astype(str).reindex(anchors["cell_1"]).to_numpy()
    second = pair.query.obs[pair.level].astype(str).reindex(anchors["cell_2"]).to_numpy()
    return round(float(np.average(first == second, weights=anchors["score"])), 4)


def anchor_facts(result: object) -> dict:
    """How many anchors there were, and how many query cells are part of one."""
    row = result.report.datasets.loc["query"]
    return {"n_anchors": int(row["n_anchors"]), "share_anchored": round(row["share_anchored"], 4)}


def held_out(pair: Pair) -> list[dict]:
    """Leave the largest type of the query out of the reference, and see if it stays apart.

    AUROC with which the distance to the nearest reference cell tells its cells from the others,
    before and after the correction; 30 dimensions of the reference.
    """
    names, counts = np.unique(pair.truth[pair.scored], return_counts=True)
    left_out = names[counts.argmax()]
    reference = pair.reference[pair.labels != left_out].copy()
    new = pair.truth == left_out
    known, before, after = log_values(pair.correct(reference))
    space = TruncatedSVD(30, random_state=0).fit(known)
    search = NearestNeighbors(n_neighbors=1).fit(space.transform(known))
    found = [
        round(roc_auc_score(new, search.kneighbors(space.transform(values))[0].ravel()), 4)
        for values in (before, after)
    ]
    facts = {"left_out": left_out, "auroc_before": found[0], "auroc_after": found[1]}
    return [{"pair": pair.name, "setting": "stacas, type held out", **facts}]


def record(pair: Pair, setting: str, scores: dict, **facts: object) -> dict:
    """One row, also logged."""
    row = {"pair": pair.name, "setting": setting, **scores, **facts}
    logger.info("%s", json.dumps(row))
    return row


def resampled(n_cells: int, seed: int, shift: float) -> ad.AnnData:
    """Draw counts of twelve types; ``shift`` is the spread of a factor for each gene."""
    design = np.random.default_rng(0)
    profiles = design.gamma(0.3, 0.3, N_GENES) * design.lognormal(0, 0.7, (12, N_GENES))
    rng = np.random.default_rng(seed)
    kinds, depth = rng.integers(12, size=n_cells), rng.lognormal(0, 0.3, n_cells)
    factor = rng.lognormal(0, shift, N_GENES)
    blocks = [
        sparse.csr_matrix(
            rng.poisson(profiles[kinds[rows]] * factor * depth[rows, None]), dtype=np.float32
        )
        for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 5000))
    ]
    adata = ad.AnnData(sparse.vstack(blocks, format="csr"))
    adata.var_names = [f"GENE{i}" for i in range(N_GENES)]
    adata.obs_names = [f"{seed}_{i}" for i in range(n_cells)]
    return adata


def measure_speed() -> list[dict]:
    """Time and peak memory of correcting 20,000 cells onto 20,000."""
    import hdeepinsight as hdi

    reference, query = resampled(N_CELLS, 1, 0.0), resampled(N_CELLS, 2, 0.5)
    records = []
    runs: dict[str, dict] = {
        "exact neighbours": {"neighbors": "exact"},
        "approximate neighbours": {"neighbors": "approximate"},
        "40 neighbours an anchor": {"config": hdi.pp.StacasConfig.schdeepinsight()},
    }
    for name, options in runs.items():
        forget_peak()
        start, cpu = time.perf_counter(), time.process_time()
        result = hdi.pp.stacas(reference, query, **options)
        for _ in result.corrected():
            pass
        facts = {
            "seconds": round(time.perf_counter() - start, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_mb": round(peak_rss_mb()),
            "n_anchors": len(result.anchors),
        }
        records.append(
            {"setting": f"{N_CELLS:,} × {N_CELLS:,} cells, {N_GENES:,} genes, {name}", **facts}
        )
        logger.info("%s", json.dumps(records[-1]))
    return records


def compare_searches(folder: Path) -> dict:
    """Approximate against exact neighbours on one real pair."""
    pair = Pair(folder)
    exact, near = (pair.correct(neighbors=name) for name in ("exact", "approximate"))
    pairs = [set(zip(r.anchors["cell_1"], r.anchors["cell_2"], strict=True)) for r in (exact, near)]
    first, second = exact.correction(), near.correction()
    gap = np.linalg.norm(first - second, axis=1) / np.linalg.norm(first, axis=1)
    return {
        "pair": pair.name,
        "setting": "approximate against exact",
        "anchors_found_again": round(len(pairs[0] & pairs[1]) / len(pairs[0]), 4),
        "median_relative_difference": round(float(np.median(gap)), 4),
    }


def main() -> None:
    """Measure what was asked for and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of prepared pairs")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "stacas.json")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    warnings.simplefilter("ignore")
    old = json.loads(given.output.read_text()) if given.output.exists() else {}
    pairs = [row for folder in given.folders for row in measure_pair(folder)]
    searches = [compare_searches(given.folders[0])] if given.folders else []
    names = {row["pair"] for row in pairs}
    kept = [row for row in old.get("pairs", []) if row["pair"] not in names]
    results = {
        "host": host(),
        "versions": versions(("hdeepinsight", "numpy", "scipy", "scikit-learn", "pynndescent")),
        "pairs": kept + pairs,
        "searches": searches or old.get("searches", []),
        "speed": measure_speed() if given.speed else old.get("speed", []),
    }
    given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
