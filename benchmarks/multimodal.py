"""Measure what surface proteins add, on bone marrow donors with 422 genes and 97 proteins.

``python benchmarks/multimodal.py --data <folder> [--seeds 0 1 2]`` writes
``results/multimodal.json``: accuracy and macro-F1 of the finest labels, over types with at least 5
reference cells, for a model of RNA, for one of RNA and proteins (asked with both, with half of the
proteins, with RNA alone and with proteins alone), and for logistic regression on the same values.
The regression's strength is chosen by cross-validation within the reference. Rows are written as
they come, and a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import mudata as md
import numpy as np
import pandas as pd
from harness.records import Records
from harness.scoring import macro_f1
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from hdeepinsight import SCHDeepInsight
from hdeepinsight.data import own_columns

LEVELS = ["lineage", "cell_type", "cell_type_fine"]
#: Pair: donors of the reference and of the query. The first two were used to choose defaults.
PAIRS = {
    "BM1 → Aged1 (development)": (["BM1"], ["Aged1"]),
    "Aged1 → BM1 (development)": (["Aged1"], ["BM1"]),
    "bm_donors": (["BM1", "Aged1"], ["BM2", "Aged2"]),
}
MIN_REFERENCE_CELLS = 5


def paired(adata: ad.AnnData, donors: list[str]) -> md.MuData:
    """RNA and proteins of some donors, with labels in ``obs``."""
    cells = adata[adata.obs["donor"].isin(donors)]
    obs = pd.DataFrame(index=cells.obs_names)
    proteins = cells.obsm["protein_counts"]
    mdata = md.MuData(
        {
            "rna": ad.AnnData(cells.X.copy(), obs=obs, var=cells.var.copy()),
            "protein": ad.AnnData(
                proteins.to_numpy(dtype=np.float32),
                obs=obs,
                var=pd.DataFrame(index=proteins.columns),
            ),
        }
    )
    for level in LEVELS:
        mdata.obs[level] = cells.obs[level].astype(str).to_numpy()
    return mdata


def part(mdata: md.MuData, *, rna: bool = True, proteins: float = 0.0, seed: int = 0) -> md.MuData:
    """Return a query that holds RNA or not, and a share of the proteins."""
    modalities = {"rna": mdata.mod["rna"]} if rna else {}
    if proteins:
        panel = mdata.mod["protein"]
        kept = np.random.default_rng(seed).permutation(panel.n_vars)[
            : round(proteins * panel.n_vars)
        ]
        modalities["protein"] = panel[:, np.sort(kept)].copy()
    return md.MuData(modalities)


def scores(reference: md.MuData, query: md.MuData, predicted: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of the finest level, over types that the reference has."""
    sizes = reference.obs[LEVELS[-1]].value_counts()
    truth = query.obs[LEVELS[-1]].to_numpy(dtype=str)
    scored = np.isin(truth, sizes.index[sizes >= MIN_REFERENCE_CELLS].astype(str))
    truth, predicted = truth[scored], predicted[scored]
    return {
        "n_cells": int(scored.sum()),
        "accuracy": round(float((truth == predicted).mean()), 4),
        "macro_f1": round(macro_f1(truth, predicted), 4),
    }


def ours(reference: md.MuData, query: md.MuData, seed: int, joint: bool) -> dict[str, np.ndarray]:
    """Finest labels that one model gives to each form of the query."""
    quiet = {"enable_progress_bar": False, "accelerator": "cpu"}
    if joint:
        SCHDeepInsight.setup_mudata(reference, labels_keys=LEVELS)
        model = SCHDeepInsight(reference, seed=seed)
        asked = {
            "ours: RNA + proteins": part(query, proteins=1.0),
            "ours: RNA + half of the proteins": part(query, proteins=0.5, seed=seed),
            "ours: joint model, RNA alone": part(query),
            "ours: joint model, proteins alone": part(query, rna=False, proteins=1.0),
        }
    else:
        rna = reference.mod["rna"].copy()
        rna.obs = reference.obs[LEVELS].copy()
        SCHDeepInsight.setup_anndata(rna, labels_keys=LEVELS)
        model = SCHDeepInsight(rna, seed=seed)
        asked = {"ours: RNA": query.mod["rna"]}
    model.train(**quiet)
    return {
        name: model.annotate(data, threshold=None).labels[LEVELS[-1]].to_numpy(dtype=str)
        for name, data in asked.items()
    }


def values(mdata: md.MuData, *, rna: bool, proteins: bool) -> np.ndarray:
    """``log1p`` of counts per thousand, and centred log-ratios."""
    blocks = []
    if rna:
        counts = mdata.mod["rna"].X.toarray()
        blocks.append(np.log1p(1e3 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)))
    if proteins:
        logged = np.log1p(mdata.mod["protein"].X)
        blocks.append(logged - logged.mean(axis=1, keepdims=True))
    return np.hstack(blocks)


def regression(
    reference: md.MuData, query: md.MuData, balanced: bool, *, rna: bool, proteins: bool
) -> np.ndarray:
    """Finest labels of a logistic regression, tuned within the reference."""
    model = make_pipeline(
        StandardScaler(),
        FunctionTransformer(np.clip, kw_args={"a_min": -10, "a_max": 10}),
        LogisticRegression(max_iter=300, class_weight="balanced" if balanced else None),
    )
    grid = {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]}
    search = GridSearchCV(model, grid, scoring="f1_macro", cv=3)
    with warnings.catch_warnings():
        # The rarest types have fewer cells than folds.
        warnings.simplefilter("ignore", UserWarning)
        search.fit(values(reference, rna=rna, proteins=proteins), reference.obs[LEVELS[-1]])
    return search.predict(values(query, rna=rna, proteins=proteins)).astype(str)


def controls(reference: md.MuData, query: md.MuData) -> dict[str, np.ndarray]:
    """Labels of every regression."""
    inputs = {"RNA": (True, False), "proteins": (False, True), "RNA + proteins": (True, True)}
    return {
        f"logistic regression{', balanced' if balanced else ''}: {name}": regression(
            reference, query, balanced, rna=rna, proteins=proteins
        )
        for name, (rna, proteins) in inputs.items()
        for balanced in (False, True)
    }


def measure(adata: ad.AnnData, records: Records, seeds: list[int]) -> None:
    """Add all rows that are not there yet, one seed after the other."""
    data = {name: tuple(paired(adata, part) for part in pair) for name, pair in PAIRS.items()}
    runs = [(name, seed, joint) for seed in seeds for name in PAIRS for joint in (True, False)]
    first = 2 * len(PAIRS)
    jobs = runs[:first] + [(name, None, None) for name in PAIRS] + runs[first:]
    for name, seed, joint in jobs:
        key = {"pair": name, "seed": seed, "joint": joint}
        if records.matching(**key):
            continue
        start = time.perf_counter()
        reference, query = (part.copy() for part in data[name])
        found = controls(reference, query) if seed is None else ours(reference, query, seed, joint)
        seconds = round(time.perf_counter() - start, 1)
        rows = [
            {**key, "method": method, **scores(reference, query, labels), "seconds": seconds}
            for method, labels in found.items()
        ]
        records.replace(rows, **key)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the h5ad file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    here = Path(__file__).resolve().parent
    parser.add_argument("--out", type=Path, default=here / "results" / "multimodal.json")
    arguments = parser.parse_args()
    adata = ad.read_h5ad(arguments.data / "bm_triana_citeseq.h5ad")
    with own_columns():
        measure(adata, Records(arguments.out), arguments.seeds)


if __name__ == "__main__":
    main()
