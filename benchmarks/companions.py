"""Measure models that learn without labels, and their controls; see ``benchmarks/README.md``.

Rows that are there already are kept, so an interrupted benchmark is resumed by the same command.
"""

from __future__ import annotations

import argparse
import logging
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from clustering import METHODS, method
from clustering.datasets import ROWS, load
from clustering.page import page
from harness.records import Records
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("benchmarks")


def measure(row: str, name: str, seed: int, folder: Path) -> dict[str, object]:
    """Run one method on one row, and score it against the labels that it has not seen."""
    adata, truth = load(row, folder)
    torch.set_num_threads(1)  # scanpy's kernels have set it to that of all cores
    started, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    found = dict(method(name)(adata, len(np.unique(truth)), seed))
    now = resource.getrusage(resource.RUSAGE_SELF)
    labels = np.asarray(found.pop("labels"))
    for key in [key for key in found if key.startswith("labels_")]:
        score = adjusted_rand_score(truth, np.asarray(found.pop(key)))
        found[key.replace("labels", "ari")] = round(float(score), 4)
    return {
        "row": row,
        "method": name,
        "seed": seed,
        "ari": round(float(adjusted_rand_score(truth, labels)), 4),
        "nmi": round(float(normalized_mutual_info_score(truth, labels)), 4),
        "n_clusters": len(np.unique(labels)),
        "wall_s": round(time.perf_counter() - started, 1),
        "cpu_s": round(now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime, 1),
        **found,
    }


def main(argv: list[str] | None = None) -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument(
        "--data", type=Path, default=Path(os.environ.get("HDI_DATA", "../shared/data"))
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / "results" / "companions", help="folder, a file a method"
    )
    parser.add_argument("--page", type=Path, help="page to write from all results")
    parser.add_argument("--force", action="store_true", help="measure again what is there")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    for name in args.methods:
        records = Records(args.out / f"{name}.json")
        for row in args.rows:
            for seed in args.seeds:
                run = {"row": row, "method": name, "seed": seed}
                if args.force or not records.matching(**run):
                    found = measure(row, name, seed, args.data)
                    records.replace([found], **run)
                    logger.info("%s", found)
    if args.page:
        args.page.write_text(page(args.out.parent))


if __name__ == "__main__":
    main()
