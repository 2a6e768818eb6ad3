"""Plant wrong labels in real references and measure whether the audit finds them.

``python benchmarks/audit.py --data <folder> [--seeds 3]`` writes ``results/audit.json``: precision,
recall and AUROC of `hdeepinsight.tl.audit_labels`, of flagging as many cells by the lowest of its
probabilities, and of confident learning that knows no tree, from the same classifier on folds of
cells. The labels of these references have errors of their own, which count against
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
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.preprocessing import scale

from hdeepinsight import Taxonomy
from hdeepinsight.data import align_genes, log_normalize, open_counts, select_genes
from hdeepinsight.tl import audit_labels

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


def components_of(adata: ad.AnnData) -> np.ndarray:
    """Compute principal components of scaled log values, ``(n_cells, 50)``, as the audit does."""
    source = open_counts(adata)
    counts = source.read(align_genes(source.var_names, select_genes(source, 2000)))
    values = np.clip(scale(log_normalize(counts).toarray()), -10, 10)
    components = PCA(50, svd_solver="randomized", random_state=0).fit_transform(values)
    return components / components[:, 0].std()


def confident_learning(components: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flag cells whose most probable class that reaches its mean is another; also give doubts."""
    _, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    kept = np.flatnonzero(sizes[codes] >= N_FOLDS)
    classes, codes = np.unique(labels[kept], return_inverse=True)
    folds = StratifiedKFold(N_FOLDS, shuffle=True, random_state=0)
    model = LogisticRegression(C=0.1, max_iter=300)
    p = cross_val_predict(model, components[kept], codes, cv=folds, method="predict_proba")
    means = np.array([p[codes == code, code].mean() for code in range(len(classes))])
    reached = np.where(p >= means, p, -1.0)
    flagged, doubt = np.zeros(len(labels), dtype=bool), np.ones(len(labels))
    flagged[kept] = (reached.max(axis=1) >= 0) & (reached.argmax(axis=1) != codes)
    doubt[kept] = 1 - p[np.arange(len(kept)), codes]
    return flagged, doubt


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
    adata: ad.AnnData,
    taxonomy: Taxonomy,
    nodes: np.ndarray,
    batches: np.ndarray | None,
    components: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Find the flagged cells and the doubts of the three methods."""
    audit = audit_labels(adata, taxonomy=taxonomy, nodes=nodes, batch_key=batches, n_folds=N_FOLDS)
    own = np.nan_to_num(audit.probability)
    cells = np.flatnonzero(audit.judged)
    lowest = np.zeros(len(nodes), dtype=bool)
    lowest[cells[np.argsort(own[cells], kind="stable")][: audit.suspicious.sum()]] = True
    flat, flat_doubt = confident_learning(components, nodes)
    # A cell of a group with a single child has no rival: it is as sure as can be.
    doubt = -np.nan_to_num(audit.margin, nan=1.0)
    return (
        {"audit": audit.suspicious, "self_confidence": lowest, "flat": flat},
        {"audit": doubt, "self_confidence": 1 - own, "flat": flat_doubt},
    )


def measure(name: str, levels: tuple[str, ...], folder: Path, n_seeds: int) -> Iterator[dict]:
    """Rows of one reference."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    taxonomy = Taxonomy.from_obs(adata, list(levels), unlabeled="unknown")
    nodes = taxonomy.encode_levels(adata.obs[list(levels)], unlabeled="unknown")
    batches = adata.obs["donor"].astype(str).to_numpy() if "donor" in adata.obs else None
    batches = None if batches is None or len(np.unique(batches)) < 2 else batches
    started = time.perf_counter()
    components = components_of(adata)
    before, _ = flags(adata, taxonomy, nodes, batches, components)
    seconds = time.perf_counter() - started
    for kind in ("uniform", "sibling"):
        for rate in RATES:
            for seed in range(n_seeds):
                rng = np.random.default_rng(seed)
                planted, wrong = plant(taxonomy, nodes, rate, kind, rng)
                flagged, doubts = flags(adata, taxonomy, planted, batches, components)
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
