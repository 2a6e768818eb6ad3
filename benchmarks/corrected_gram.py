"""Hide genes of real cells batch by batch, and measure what embeddings keep of the complete data.

``python benchmarks/corrected_gram.py --data <folder> [--seeds 5]`` writes
``results/corrected_gram.json`` and prints the table of ``docs/benchmarks_companions.md``. The
values are normalised before genes are hidden, so that only what is missing differs. Labels and
batches score; no method sees them, except that panels belong to batches.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from harness.records import Records
from scipy.linalg import subspace_angles
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from sklearn.utils.extmath import randomized_svd

from hdeepinsight.data import log_normalize
from hdeepinsight.graph import leading_eigenpairs
from hdeepinsight.pp import PanelMask, corrected_gram, corrected_gram_pca

HERE = Path(__file__).resolve().parent
DATASETS = {
    "seqfish": ("embryo_mouse_seqfish_3", "cell_type_fine"),
    "marrow": ("bm_triana_citeseq", "cell_type_fine"),
}
#: Name of a setting: share of the genes that all batches measure, and the rate at which each
#: measures another one; ``None``: one batch alone loses the others.
PANELS = {
    "half hidden in one batch": (0.5, None),
    "30 % shared": (0.3, 0.5),
    "10 % shared": (0.1, 0.5),
    "30 % shared, others in one panel each": (0.3, 0.0),
}
N_COMPS, N_ANGLES, N_NEIGHBORS = 20, 10, 15


def load(name: str, folder: Path) -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """Return log values with labels and batches, without cells of unknown type."""
    file, label = DATASETS[name]
    adata = ad.read_h5ad(folder / f"{file}.h5ad")
    adata = adata[adata.obs[label].astype(str) != "unknown"].copy()
    adata.X = log_normalize(adata.X)
    labels, batches = (adata.obs[key].astype(str).to_numpy() for key in (label, "batch"))
    return adata, labels, batches


def draw_panels(setting: str, n_batches: int, n_genes: int, rng: np.random.Generator) -> np.ndarray:
    """Draw which batch measures which gene, ``(n_batches, n_genes)``."""
    shared, rate = PANELS[setting]
    order = rng.permutation(n_genes)
    others = order[round(shared * n_genes) :]
    table = np.ones((n_batches, n_genes), dtype=bool)
    if rate is None:
        table[rng.integers(n_batches), others] = False
        return table
    table[:, others] = rng.random((n_batches, len(others))) < rate
    # Every gene is measured somewhere, and is not one of those that all share.
    one, other = np.array([rng.permutation(n_batches)[:2] for _ in others]).T
    table[one, others], table[other, others] = True, False
    return table


def filled_by_svd(values: np.ndarray, observed: np.ndarray) -> np.ndarray:
    """Fill in by 20 rounds of singular vectors, from the means on."""
    means = (values * observed).sum(axis=0) / observed.sum(axis=0)
    filled = np.where(observed, values - means, 0.0)
    for _ in range(20):
        u, s, vt = randomized_svd(filled, N_COMPS, n_iter=2, random_state=0)
        filled = np.where(observed, values - means, (u * s) @ vt)
    return filled


def methods(adata: ad.AnnData, mask: PanelMask) -> dict[str, Callable[[], np.ndarray]]:
    """Return each method as a function without arguments that gives coordinates."""
    observed = mask.measured[mask.groups]
    shared = mask.measured.all(axis=0)
    values = adata.X.toarray().astype(np.float64)

    def ours(estimator: str) -> np.ndarray:
        result = corrected_gram_pca(adata, mask=mask, estimator=estimator, n_comps=N_COMPS)
        return result.embedding

    def eigenvectors() -> np.ndarray:
        lengths, vectors = leading_eigenpairs(corrected_gram(adata, mask), N_COMPS)
        return vectors * np.sqrt(np.maximum(lengths, 0.0))

    def plain(matrix: np.ndarray) -> np.ndarray:
        n_comps = min(N_COMPS, min(matrix.shape) - 1)
        return PCA(n_comps, svd_solver="arpack", random_state=0).fit_transform(matrix)

    return {
        "complete data": lambda: plain(values),
        "pairwise": lambda: ours("pairwise"),
        "pairwise, eigenvectors alone": eigenvectors,
        "shared genes only": lambda: plain(values[:, shared]),
        "mean-fill": lambda: ours("mean_fill"),
        "zero-fill": lambda: ours("zero_fill"),
        "rank1": lambda: ours("rank1"),
        "iterative SVD": lambda: plain(filled_by_svd(values, observed)),
    }


def score(
    points: np.ndarray, complete: np.ndarray, labels: np.ndarray, batches: np.ndarray
) -> dict[str, float]:
    """Compare with the complete data, and look at neighbours."""
    near = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1).fit(points)
    neighbors = near.kneighbors(points, return_distance=False)[:, 1:]
    sizes = pd.Series(batches).map(pd.Series(batches).value_counts()).to_numpy()
    expected = 1 - (sizes - 1) / (len(batches) - 1)
    other = batches[neighbors] != batches[:, None]
    n_angles = min(N_ANGLES, points.shape[1])
    angles = subspace_angles(complete[:, :n_angles], points[:, :n_angles])
    # Neighbours of other batches alone: what a label transfer would see.
    across = np.full(len(labels), np.nan)
    for batch in np.unique(batches):
        own = batches == batch
        found = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(points[~own])
        rows = np.flatnonzero(~own)[found.kneighbors(points[own], return_distance=False)]
        across[own] = (labels[rows] == labels[own, None]).mean(axis=1)
    return {
        "angle": float(np.degrees(angles.mean())),
        "purity": float((labels[neighbors] == labels[:, None]).mean()),
        "purity_across": float(across.mean()),
        "mixing": float((other.mean(axis=1) / expected).mean()),
    }


def measure(name: str, setting: str, seed: int, folder: Path) -> list[dict[str, object]]:
    """Rows of one drawing of panels."""
    adata, labels, batches = load(name, folder)
    codes, batch_names = pd.factorize(batches, sort=True)
    table = draw_panels(setting, len(batch_names), adata.n_vars, np.random.default_rng(seed))
    mask = PanelMask(codes, table, tuple(batch_names))
    complete, rows = None, []
    for method, embed in methods(adata, mask).items():
        started = time.process_time()
        points = embed()
        seconds = time.process_time() - started
        complete = points if complete is None else complete
        found = score(points, complete, labels, batches)
        row = {"dataset": name, "setting": setting, "method": method, "seed": seed}
        row |= {"shared": float(table.all(axis=0).mean()), "cpu_s": round(seconds, 2)}
        rows.append(row | {key: round(value, 4) for key, value in found.items()})
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """Write the means over seeds as a Markdown table."""
    columns = {
        "angle": "angle to complete data (degrees)",
        "purity": "purity of neighbours",
        "purity_across": "purity across batches",
        "mixing": "mixing",
        "cpu_s": "CPU-s",
    }
    frame = pd.DataFrame(rows)
    keys = ["dataset", "setting", "method"]
    means = frame.groupby(keys, sort=False)[list(columns)].mean()
    lines = ["| " + " | ".join(["data", "panels", "method", *columns.values()]) + " |"]
    lines.append("|" + "---|" * (3 + len(columns)))
    for (dataset, setting, method), one in means.iterrows():
        cells = [
            f"{one[key]:.1f}" if key in ("angle", "cpu_s") else f"{one[key]:.3f}" for key in columns
        ]
        lines.append("| " + " | ".join([dataset, setting, method, *cells]) + " |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run what is not there yet, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS), choices=list(DATASETS))
    parser.add_argument("--settings", nargs="+", default=list(PANELS), choices=list(PANELS))
    parser.add_argument("--out", type=Path, default=HERE / "results" / "corrected_gram.json")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore", UserWarning)
    records = Records(args.out)
    for name in args.datasets:
        for setting in args.settings:
            for seed in range(args.seeds):
                run = {"dataset": name, "setting": setting, "seed": seed}
                if not records.matching(**run):
                    records.replace(measure(name, setting, seed, args.data), **run)
    print(table(records.rows))


if __name__ == "__main__":
    main()
