"""Measure speed and scale of our model; writes ``benchmarks/results/speed.json``.

Training on 4,000 cells × 4,000 genes, cells annotated and explained a second, time to fit a gene
layout, and how peak memory grows from 10,000 to 100,000 sparse cells. Data are drawn from negative
binomials with twelve types in four lineages; every memory figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd
from harness.machine import forget_peak, host, peak_rss_mb, versions
from harness.records import Records
from scipy import sparse

if TYPE_CHECKING:
    import hdeepinsight as hdi

HERE = Path(__file__).resolve().parent
N_GENES = 4000
N_TRAIN = 4000
N_EXPLAINED = 500
SIZES = (10_000, 100_000)
logger = logging.getLogger("benchmarks")


def simulate(n_cells: int, seed: int, n_genes: int = N_GENES) -> ad.AnnData:
    """Draw sparse counts (about one value in ten is not 0) with twelve types in four lineages."""
    design = np.random.default_rng(0)
    types = np.array([f"type {i}" for i in range(12)])
    base = design.gamma(0.3, 0.3, n_genes)
    profiles = base * design.lognormal(0, 0.5, (len(types), n_genes))
    rng = np.random.default_rng(seed)
    codes = rng.integers(len(types), size=n_cells)
    depth = rng.lognormal(0, 0.3, n_cells)
    chunks = [
        sparse.csr_matrix(rng.poisson(profiles[codes[rows]] * depth[rows, None]), dtype=np.float32)
        for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 5000))
    ]
    obs = pd.DataFrame(
        {"lineage": np.array([f"lineage {i // 3}" for i in codes]), "cell_type": types[codes]},
        index=[f"cell_{i}" for i in range(n_cells)],
        dtype="category",
    )
    var = pd.DataFrame(index=[f"GENE{i}" for i in range(n_genes)])
    return ad.AnnData(X=sparse.vstack(chunks, format="csr"), obs=obs, var=var)


def measure(work: Path, threads: int) -> list[dict]:
    """Run everything, one record a figure."""
    import torch

    import hdeepinsight as hdi

    torch.set_num_threads(threads)
    reference = simulate(N_TRAIN, seed=0)
    records = [_layout_time(reference)]

    hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
    start = time.perf_counter()
    model = hdi.SCHDeepInsight(reference, seed=0)
    built = time.perf_counter()
    model.train(accelerator="cpu", enable_progress_bar=False)
    trained = time.perf_counter()
    size = f"{N_TRAIN:,} cells × {N_GENES:,} genes"
    records.append(
        _record(f"build the model (genes, layout, scaling) on {size}", built - start, "s")
    )
    records.append(_record(f"train on {size}", trained - built, "s"))
    model.save(str(work / "model"), overwrite=True)

    query = simulate(20_000, seed=1)
    start = time.perf_counter()
    model.annotate(query)
    rate = query.n_obs / (time.perf_counter() - start)
    records.append(_record("annotate 20,000 cells in memory", rate, "cells/s"))
    records.append(_explain_rate(model, query[:N_EXPLAINED].copy()))
    return records + _memory(work, threads)


def _explain_rate(model: hdi.SCHDeepInsight, query: ad.AnnData) -> dict:
    model.explain(query[:1].copy(), "type 0", n_samples=1)
    start = time.perf_counter()
    model.explain(query, "type 0", n_samples=50)
    rate = query.n_obs / (time.perf_counter() - start)
    return _record("explain one node of 500 cells, 50 samples a cell", rate, "cells/s")


def _layout_time(reference: ad.AnnData) -> dict:
    from hdeepinsight.image import GeneLayout

    logged = reference.X.log1p()
    start = time.perf_counter()
    GeneLayout.fit(logged, list(reference.var_names), method="tsne", seed=0)
    return _record(f"fit a t-SNE layout of {N_GENES:,} genes", time.perf_counter() - start, "s")


def _memory(work: Path, threads: int) -> list[dict]:
    """Peak memory of annotating a file, and what it adds to a query that is in memory already."""
    peaks: dict[str, list[float]] = {"file": [], "memory": []}
    for n_cells in SIZES:
        path = work / f"query_{n_cells}.h5ad"
        simulate(n_cells, seed=2).write_h5ad(path)
        for mode, found in peaks.items():
            command = [sys.executable, __file__, "--threads", str(threads)]
            command += ["--child", mode, str(work / "model"), str(path)]
            child = subprocess.run(command, capture_output=True, text=True, check=True)
            found.append(json.loads(child.stdout.splitlines()[-1])["mb"])
    titles = {
        "file": "peak memory, annotating {:,} cells from an h5ad file",
        "memory": "memory added by annotating {:,} cells in memory",
    }
    records = []
    for mode, (small, large) in peaks.items():
        records += [
            _record(titles[mode].format(n), mb, "MB")
            for n, mb in zip(SIZES, (small, large), strict=True)
        ]
        records.append(_record(f"growth of the above ({mode})", large - small, "MB"))
    return records


def child(mode: str, model_path: str, query_path: str, threads: int) -> None:
    """Annotate in this process and print its peak memory."""
    import torch

    import hdeepinsight as hdi

    torch.set_num_threads(threads)
    model = hdi.SCHDeepInsight.load(model_path)
    query = ad.read_h5ad(query_path) if mode == "memory" else query_path
    before = 0.0
    if mode == "memory":
        forget_peak()
        before = peak_rss_mb()
    model.annotate(query)
    print(json.dumps({"mb": peak_rss_mb() - before}))


def _record(what: str, value: float, unit: str) -> dict:
    logger.info("%s: %.1f %s", what, value, unit)
    return {"what": what, "value": round(value, 2), "unit": unit}


def main(argv: list[str] | None = None) -> None:
    """Measure, or act as one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work" / "speed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=3, metavar=("MODE", "MODEL", "QUERY"), help="internal")
    args = parser.parse_args(argv)
    if args.child:
        child(*args.child, args.threads)
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args.work.mkdir(parents=True, exist_ok=True)
    facts = {"host": host() | {"threads": args.threads}}
    facts["versions"] = versions(("hdeepinsight", "scvi-tools", "torch", "anndata", "numpy"))
    records = Records(args.out)
    records.rows = [row | facts for row in measure(args.work, args.threads)]
    records.save()


if __name__ == "__main__":
    main()
