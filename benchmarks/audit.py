"""Plant wrong labels in real references and measure whether the audit finds them.

``python benchmarks/audit.py --data <folder> [--seeds 3]`` writes ``results/audit.json``: precision,
recall and AUROC of `hdeepinsight.tl.audit_labels`, of flagging as many cells by lowest
self-confidence, and of confident learning that knows no tree, all from the same out-of-fold
probabilities. The labels of these references have errors of their own, which count against
precision here; ``precision_beyond`` leaves out what was flagged before anything was planted.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from hdeepinsight import Taxonomy
from hdeepinsight.tl import audit_nodes
from hdeepinsight.tl._audit import (
    assign_folds,
    expression_features,
    out_of_fold_probabilities,
)
from hdeepinsight.tl._confident_learning import confident_classes

LEVELS = ("lineage", "cell_type", "cell_type_fine")
REFERENCES = {
    "pbmc3k": LEVELS[:2],
    "kang_ctrl_8donors": LEVELS,
    "bm_triana_citeseq": LEVELS,
    "pbmc_zheng2017_facs": LEVELS,
    "lung_mouse_zilionis_immune": LEVELS[1:],
}
RATES = (0.01, 0.03, 0.05, 0.1)
N_FOLDS = 5


def plant(
    taxonomy: Taxonomy, nodes: np.ndarray, rate: float, kind: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Give a share of all cells another label; return the labels and which are wrong."""
    sizes = np.bincount(nodes, minlength=taxonomy.n_nodes)
    labels = np.array([node for node in np.unique(nodes) if node and sizes[node] >= N_FOLDS])
    others = {
        node: [
            other
            for other in labels
            if other != node
            and (kind == "uniform" or taxonomy.parent[other] == taxonomy.parent[node] > 0)
        ]
        for node in labels.tolist()
    }
    eligible = np.flatnonzero([bool(others.get(node)) for node in nodes.tolist()])
    wrong = rng.choice(eligible, min(round(rate * len(nodes)), len(eligible)), replace=False)
    planted = nodes.copy()
    planted[wrong] = [rng.choice(others[int(nodes[cell])]) for cell in wrong]
    return planted, np.isin(np.arange(len(nodes)), wrong)


def probabilities_of(
    features: np.ndarray, taxonomy: Taxonomy, nodes: np.ndarray, batches: np.ndarray | None
) -> np.ndarray:
    """Compute the audit's own out-of-fold probabilities, from features made once."""
    sizes = np.bincount(nodes, minlength=taxonomy.n_nodes)
    kept = np.where(sizes[nodes] >= N_FOLDS, nodes, 0)
    folds = assign_folds(kept, batches, N_FOLDS, np.random.default_rng(0))
    return out_of_fold_probabilities(features, taxonomy, kept, folds)


def scores(flagged: np.ndarray, wrong: np.ndarray, before: np.ndarray) -> dict[str, float]:
    """Precision, precision beyond what was flagged without planted errors, and recall."""
    beyond = flagged & ~(before & ~wrong)
    return {
        "n_flagged": int(flagged.sum()),
        "precision": float(wrong[flagged].mean()) if flagged.any() else np.nan,
        "precision_beyond": float(wrong[beyond].mean()) if beyond.any() else np.nan,
        "recall": float(flagged[wrong].mean()),
    }


def flags(
    adata: ad.AnnData, taxonomy: Taxonomy, nodes: np.ndarray, probabilities: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Find the flagged cells and the doubts of the three methods."""
    audit = audit_nodes(adata, taxonomy, nodes, probabilities=probabilities)
    own = probabilities[np.arange(len(nodes)), nodes]
    cells = np.flatnonzero(audit.judged)
    classes, codes = np.unique(nodes[cells], return_inverse=True)
    likely = confident_classes(probabilities[np.ix_(cells, classes)], codes)
    flat, lowest = np.zeros(len(nodes), dtype=bool), np.zeros(len(nodes), dtype=bool)
    flat[cells] = (likely >= 0) & (likely != codes)
    order = cells[np.argsort(own[cells], kind="stable")]
    lowest[order[: audit.suspicious.sum()]] = True
    # A cell of a group with a single child has no rival: it is as sure as can be.
    doubt = -np.nan_to_num(audit.margin, nan=1.0)
    return (
        {"audit": audit.suspicious, "self_confidence": lowest, "flat": flat},
        {"audit": doubt, "self_confidence": 1 - own, "flat": 1 - own},
    )


def measure(name: str, levels: tuple[str, ...], folder: Path, n_seeds: int) -> Iterator[dict]:
    """Rows of one reference."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    taxonomy = Taxonomy.from_obs(adata, list(levels), unlabeled="unknown")
    nodes = taxonomy.encode_levels(adata.obs[list(levels)], unlabeled="unknown")
    batches = adata.obs["donor"].astype(str).to_numpy() if "donor" in adata.obs else None
    batches = None if batches is None or len(np.unique(batches)) < 2 else batches
    started = time.perf_counter()
    features = expression_features(adata, layer=None, seed=0)
    clean = probabilities_of(features, taxonomy, nodes, batches)
    before, _ = flags(adata, taxonomy, nodes, clean)
    seconds = time.perf_counter() - started
    for kind in ("uniform", "sibling"):
        for rate in RATES:
            for seed in range(n_seeds):
                rng = np.random.default_rng(seed)
                planted, wrong = plant(taxonomy, nodes, rate, kind, rng)
                probabilities = probabilities_of(features, taxonomy, planted, batches)
                flagged, doubts = flags(adata, taxonomy, planted, probabilities)
                for method, found in flagged.items():
                    yield {
                        "reference": name,
                        "n_cells": len(nodes),
                        "kind": kind,
                        "rate": rate,
                        "seed": seed,
                        "method": method,
                        **scores(found, wrong, before[method]),
                        "auroc": roc_auc_score(wrong, doubts[method]),
                        "flagged_before": float(before[method].mean()),
                        "seconds": round(seconds, 2),
                    }


def main() -> None:
    """Run all references and write the rows and their means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    here = Path(__file__).parent
    parser.add_argument("--output", type=Path, default=here / "results" / "audit.json")
    options = parser.parse_args()
    rows = [
        row
        for name, levels in REFERENCES.items()
        for row in measure(name, levels, options.data, options.seeds)
    ]
    table = pd.DataFrame(rows)
    columns = ["precision", "precision_beyond", "recall", "auroc", "flagged_before"]
    means = table.groupby(["kind", "rate", "method"])[columns].mean().round(3)
    record = json.loads(options.output.read_text()) if options.output.exists() else {}
    record |= {
        "planted": json.loads(table.round(4).to_json(orient="records")),
        "means": json.loads(means.reset_index().to_json(orient="records")),
    }
    options.output.write_text(json.dumps(record, indent=1) + "\n")
    print(means.to_string())


if __name__ == "__main__":
    main()
