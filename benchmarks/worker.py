"""Fit one method and annotate; runs inside the method's environment, started by ``run.py``.

It reads the task, the reference, the gene list and queries without labels, and writes predictions,
times, peak memory and versions. It never sees the labels of a query.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from harness.machine import host, peak_rss_mb, versions
from methods.interface import Cells, Prediction, Reference, read_cells, read_reference


def work(task: dict) -> dict:
    """Carry out a task and write its predictions; returns what goes to ``result.json``."""
    folder, seed = Path(task["folder"]), task["seed"]
    reference = read_reference(task["reference"], task["levels"], task["genes"])
    module, name = task["target"].split(":")
    build = getattr(importlib.import_module(f"methods.{module}"), name)
    np.random.seed(seed)
    method = build(seed=seed, threads=task["threads"], folder=folder / "tmp", **task["options"])
    resting = peak_rss_mb()

    start = time.perf_counter()
    method.fit(reference)
    train_s = time.perf_counter() - start
    queries = {
        tag: _annotate(method, reference, read_cells(path), folder / f"predictions_{tag}.npz")
        for tag, path in task["queries"].items()
    }
    return {
        "train_s": train_s,
        "loaded_rss_mb": resting,
        "queries": queries,
        "extra": dict(getattr(method, "extra", {})),
        "host": host() | {"threads": task["threads"]},
        "versions": versions((*task["packages"], "numpy")),
    }


def _annotate(method, reference: Reference, query: Cells, path: Path) -> dict:
    start = time.perf_counter()
    prediction: Prediction = method.annotate(query)
    annotate_s = time.perf_counter() - start
    prediction.save(path, reference.tree, query.n_cells)
    return {"annotate_s": annotate_s, "peak_rss_mb": peak_rss_mb(), "n_cells": query.n_cells}


def main() -> None:
    """Read the task named on the command line."""
    task = json.loads(Path(sys.argv[1]).read_text())
    result = work(task)
    (Path(task["folder"]) / "result.json").write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
