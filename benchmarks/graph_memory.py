"""Measure processor time and peak memory of SCAGC on simulated cells, with few epochs per phase."""

from __future__ import annotations

import argparse
import resource
import time

import numpy as np
from anndata import AnnData
from harness.machine import peak_rss_mb
from scipy import sparse

import hdeepinsight as hdi

N_GENES, N_TYPES, N_BLOCK = 2000, 20, 5000


def simulate(n_cells: int) -> AnnData:
    """Draw Poisson counts of 20 types, of which about 17 % are not 0."""
    rng = np.random.default_rng(0)
    profiles = rng.gamma(0.3, 1.0, size=(N_TYPES, N_GENES))
    profiles /= profiles.sum(axis=1, keepdims=True)
    types = rng.integers(N_TYPES, size=n_cells)
    blocks = []
    for rows in np.array_split(np.arange(n_cells), -(-n_cells // N_BLOCK)):
        depths = rng.lognormal(6.2, 0.4, size=(len(rows), 1))
        counts = rng.poisson(profiles[types[rows]] * depths)
        blocks.append(sparse.csr_matrix(counts, dtype=np.float32))
    cells = AnnData(sparse.vstack(blocks, "csr"))
    cells.var_names = [f"GENE{i}" for i in range(N_GENES)]
    return cells


def processor_s() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main(argv: list[str] | None = None) -> None:
    """Train on as many cells as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=2, help="of each phase")
    parser.add_argument("--propagation", default="auto", choices=["auto", "full", "blocks"])
    args = parser.parse_args(argv)
    cells = simulate(args.cells)
    hdi.SCAGC.setup_anndata(cells)
    model = hdi.SCAGC(cells, n_clusters=N_TYPES)
    used, started = processor_s(), time.perf_counter()
    phases = {"pretrain_epochs": args.epochs, "cluster_epochs": args.epochs}
    how = {"accelerator": "cpu", "enable_progress_bar": False, "propagation": args.propagation}
    for name, step in {
        "train": lambda: model.train(**phases, **how),
        "predict": model.predict,
        "graph": model.get_learned_graph,
    }.items():
        step()
        spent, wall = processor_s() - used, time.perf_counter() - started
        print(f"{name}: {spent:.0f} CPU-s, {wall:.0f} s, peak {peak_rss_mb():,.0f} MB")


if __name__ == "__main__":
    main()
