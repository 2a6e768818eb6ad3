"""Measure whether logistic regression annotates a query better without suspicious cells.

``python benchmarks/audit_effect.py --data <folder> [--pairs <file>]`` adds one row a pair to
``results/audit.json``: macro-F1 of the finest level with all reference cells and without those that
`hdeepinsight.tl.audit_labels` calls suspicious. ``--pairs`` takes a file like ``pairs.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from hdeepinsight.data import open_counts, select_genes
from hdeepinsight.tl import audit_labels


def cells_of(folder: Path, part: dict) -> ad.AnnData:
    """Read the cells of one side of a pair."""
    adata = ad.read_h5ad(folder / part["file"])
    keep = np.ones(adata.n_obs, dtype=bool)
    for column, values in part.get("where", {}).items():
        keep &= adata.obs[column].astype(str).isin(values).to_numpy()
    adata = adata[keep].copy()
    adata.obs = adata.obs.astype(str)
    return adata


def log_values(adata: ad.AnnData, genes: list[str]) -> np.ndarray:
    """``log1p`` of counts per 10,000 of these genes; 0 for genes that are not there."""
    found = pd.Index(adata.var_names).get_indexer(genes)
    values = np.zeros((adata.n_obs, len(genes)), dtype=np.float32)
    values[:, found >= 0] = sparse.csr_matrix(adata.X)[:, found[found >= 0]].toarray()
    return np.log1p(values * (1e4 / np.maximum(values.sum(axis=1, keepdims=True), 1)))


def measure(folder: Path, pair: dict) -> dict[str, float | str]:
    """Row of one pair."""
    level, ignored = pair["levels"][-1], [*pair["ignore_labels"], "nan"]
    reference, query = cells_of(folder, pair["reference"]), cells_of(folder, pair["query"])
    reference = reference[~reference.obs[level].isin(ignored)].copy()
    audit = audit_labels(reference, labels_keys=pair["levels"])
    genes = select_genes(open_counts(reference), 2000)
    values, query_values = log_values(reference, genes), log_values(query, genes)
    labels, truth = reference.obs[level].to_numpy(), query.obs[level].to_numpy()
    sizes = pd.Series(labels).value_counts()
    scored = np.isin(truth, sizes.index[sizes >= pair["min_reference_cells"]])
    scored &= ~np.isin(truth, ignored)

    def macro_f1(kept: np.ndarray) -> float:
        model = LogisticRegression(max_iter=500).fit(values[kept], labels[kept])
        predicted = model.predict(query_values[scored])
        classes = np.unique(truth[scored])
        return float(f1_score(truth[scored], predicted, labels=classes, average="macro"))

    before = macro_f1(np.ones(len(labels), dtype=bool))
    after = macro_f1(~audit.suspicious) if audit.suspicious.any() else before
    return {
        "pair": pair["name"],
        "n_suspicious": int(audit.suspicious.sum()),
        "macro_f1_all": round(before, 4),
        "macro_f1_without": round(after, 4),
    }


def main() -> None:
    """Measure all pairs and write the rows, replacing those of the same pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    here = Path(__file__).parent
    parser.add_argument("--output", type=Path, default=here / "results" / "audit.json")
    options = parser.parse_args()
    pairs = json.loads((options.pairs or options.data / "pairs.json").read_text())
    for pair in pairs:
        row = measure(options.data, pair)
        record = json.loads(options.output.read_text()) if options.output.exists() else {}
        others = [old for old in record.get("effect", []) if old["pair"] != row["pair"]]
        record["effect"] = [*others, row]
        options.output.write_text(json.dumps(record, indent=1) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
