"""Measure speed and memory at one thread; writes results and the tables of the performance page.

A gzip h5ad is annotated end to end, file to labels, by ours and by others: cells are sums of two
cells of one type of a reference, drawn anew. Every figure is processor time (user and system) of a
process of its own, after imports and the loading of its model, the median of runs that alternate.
Models of others are trained briefly, as only their speed matters here.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from harness.execute import THREAD_VARIABLES, RunFailed, Runner
from harness.machine import forget_peak, host, peak_rss_mb, versions
from harness.records import Records
from harness.registry import Spec
from harness.tables import replace_between, table
from scipy import sparse

HERE = Path(__file__).resolve().parent
LEVELS = ["lineage", "cell_type", "cell_type_fine"]
N_ADAPTED, N_COLD, N_EXPLAINED, N_BLOCK = 20_000, 1_000, 500, 50_000
N_SHARED, N_TURNS = 300_000, 3  # on two workers
Job = Callable[[Path], Any]
logger = logging.getLogger("benchmarks")


def make_query(reference: Path, n_cells: int, path: Path) -> Path:
    """Write cells that are sums of two cells of one type, block by block, as gzip h5ad."""
    if path.exists():
        return path
    cells = ad.read_h5ad(reference)
    counts = sparse.csr_matrix(cells.X, dtype=np.float32)
    groups = cells.obs[LEVELS[-1]].astype(str).to_numpy()
    rng = np.random.default_rng(0)
    first = rng.integers(cells.n_obs, size=n_cells)
    second = first.copy()
    for group in np.unique(groups):
        here = np.flatnonzero(groups[first] == group)
        second[here] = rng.choice(np.flatnonzero(groups == group), len(here))
    obs = pd.DataFrame({"donor": rng.choice(list("abcd"), n_cells)}, dtype="category")
    obs.index = "cell_" + obs.index.astype(str)
    draft = path.with_suffix(".tmp")
    ad.AnnData(obs=obs, var=cells.var[[]]).write_h5ad(draft)
    with h5py.File(draft, "a") as file:
        for rows in np.split(np.arange(n_cells), range(N_BLOCK, n_cells, N_BLOCK)):
            block = sparse.csr_matrix(counts[first[rows]] + counts[second[rows]])
            block.sort_indices()
            if rows[0]:
                ad.io.sparse_dataset(file["X"]).append(block)
            else:
                ad.io.write_elem(file, "X", block, dataset_kwargs={"compression": "gzip"})
    return draft.rename(path)


def _log_cp10k(path: Path) -> ad.AnnData:
    """Read a file and normalise its counts in place."""
    cells = ad.read_h5ad(path)
    factor = 1e4 / np.maximum(np.asarray(cells.X.sum(axis=1)).ravel(), 1)
    cells.X.data *= np.repeat(factor.astype(np.float32), np.diff(cells.X.indptr))
    np.log1p(cells.X.data, out=cells.X.data)
    return cells


def reading(_: Path) -> Job:
    """Read the file, and no more."""
    return ad.read_h5ad


def ours_bundled(_: Path) -> Job:
    """Annotate by the bundled model."""
    import hdeepinsight as hdi

    return hdi.hub.pull("pbmc").annotate


def ours_streamed(_: Path) -> Job:
    """Annotate by the bundled model, block by block."""
    import hdeepinsight as hdi

    model = hdi.hub.load_annotator("pbmc")
    return lambda path: sum(map(len, model.annotate_blocks(path)))


def ours_on_dask(_: Path) -> Job:
    """Annotate in one process on one core and on two dask workers; returns the wall times."""
    import distributed

    import hdeepinsight as hdi

    model = hdi.hub.load_annotator("pbmc")

    def job(path: Path) -> dict:
        found: dict[str, list[float]] = {"one_s": [], "two_s": []}
        how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
        with distributed.LocalCluster(**how) as cluster, distributed.Client(cluster) as client:
            hdi.annotate(path, model, adapt="off", refine="off", client=client)  # imports
            every = os.sched_getaffinity(0)
            for _ in range(N_TURNS):
                for name, where in (("one_s", None), ("two_s", client)):
                    # A process reads and computes at a time, which would take a core and a half.
                    os.sched_setaffinity(0, every if where else {min(every)})
                    start = perf_counter()
                    hdi.annotate(path, model, adapt="off", refine="off", client=where)
                    found[name].append(round(perf_counter() - start, 2))
            os.sched_setaffinity(0, every)
        return found | {"load": round(os.getloadavg()[0], 1)}

    return job


def ours_plain(_: Path) -> Job:
    """Annotate by the bundled model, cells read by the network that is not folded."""
    import hdeepinsight as hdi

    model = hdi.hub.pull("pbmc")
    model.module.folded = lambda measured: None
    return model.annotate


def ours_default(folder: Path) -> Job:
    """Annotate by a model with the class defaults."""
    import hdeepinsight as hdi

    return hdi.SCHDeepInsight.load(folder).annotate


def ours_bfloat16(folder: Path) -> Job:
    """Annotate by a model with the class defaults, its dense layer in bfloat16."""
    import torch

    torch.set_float32_matmul_precision("medium")
    return ours_default(folder)


def ours_adapted(_: Path) -> Job:
    """Adapt the bundled model, annotate and refine."""
    import hdeepinsight as hdi

    model = hdi.hub.pull("pbmc")
    return lambda path: hdi.annotate(path, model, batch_key="donor")


def ours_trained(folder: Path) -> Job:
    """Train a model with the class defaults on the reference; the other jobs annotate by it."""
    import hdeepinsight as hdi

    def job(reference: Path) -> None:
        cells = ad.read_h5ad(reference)
        hdi.SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS)
        model = hdi.SCHDeepInsight(cells, seed=0)
        model.train(accelerator="cpu", enable_progress_bar=False)
        model.save(folder, overwrite=True)

    return job


def ours_explained(folder: Path) -> Job:
    """Explain the first cells of a file, each for its own node."""
    import hdeepinsight as hdi

    model = hdi.SCHDeepInsight.load(folder)
    return lambda path: model.explain(ad.read_h5ad(path)[:N_EXPLAINED].copy(), n_samples=50)


def celltypist(folder: Path) -> Job:
    """Annotate by CellTypist without voting."""
    import celltypist

    model = pickle.loads(folder.read_bytes())
    return lambda path: celltypist.annotate(_log_cp10k(path), model=model)


def _fit_celltypist(reference: Path, folder: Path, *, feature_selection: bool) -> None:
    import celltypist

    options = {"n_jobs": 1, "max_iter": 50, "feature_selection": feature_selection}
    model = celltypist.train(_log_cp10k(reference), labels=LEVELS[-1], **options)
    folder.write_bytes(pickle.dumps(model))


def logistic_regression(folder: Path) -> Job:
    """Predict probabilities from sparse values of all genes, which the file has in order."""
    model = pickle.loads(folder.read_bytes())
    return lambda path: model.predict_proba(_log_cp10k(path).X)


def _fit_logistic_regression(reference: Path, folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    cells = _log_cp10k(reference)
    model = LogisticRegression(max_iter=20).fit(cells.X, cells.obs[LEVELS[-1]].astype(str))
    folder.write_bytes(pickle.dumps(model))


def scanvi(folder: Path) -> Job:
    """Predict by scANVI, the cells taken as ones of the reference's batch."""
    from scvi.model import SCANVI

    model = SCANVI.load(folder, accelerator="cpu")

    def job(path: Path) -> Any:
        cells = ad.read_h5ad(path)
        cells.obs["batch"], cells.obs["label"] = "reference", "Unknown"
        SCANVI.prepare_query_anndata(cells, model)
        return model.predict(cells, soft=True)

    return job


def _fit_scanvi(reference: Path, folder: Path) -> None:
    from methods.scanvi_peer import ARCHITECTURE, QUIET, UNKNOWN, _variable
    from scvi.model import SCANVI, SCVI

    cells = _variable(ad.read_h5ad(reference))
    cells.obs["batch"], cells.obs["label"] = "reference", cells.obs[LEVELS[-1]].astype(str)
    SCVI.setup_anndata(cells, batch_key="batch", labels_key="label")
    base = SCVI(cells, **ARCHITECTURE)
    base.train(max_epochs=1, **QUIET)
    model = SCANVI.from_scvi_model(base, unlabeled_category=UNKNOWN)
    model.train(max_epochs=1, **QUIET)
    model.save(folder, save_anndata=True)


_OURS = ("hdeepinsight", "scvi-tools", "torch", "anndata", "numpy")
_SKLEARN = ("scikit-learn", "anndata", "numpy")


def _celltypist(name: str, title: str) -> Spec:
    packages = ("celltypist", *_SKLEARN)
    return Spec(name, title, "peer", "celltypist", environment="celltypist", packages=packages)


def _stored(suffix: str) -> Spec:
    title = f"ours, bundled model, from `convert --fast` (`{suffix}`)"
    how = {"options": {"store": suffix}, "packages": _OURS}
    return Spec(f"bundled{suffix.replace('.', '_')}", title, "ours", "ours_bundled", **how)


#: What annotates files of every size; the target is a function of this module.
ANNOTATORS = (
    Spec("reading", "reading alone (`anndata.read_h5ad`)", "control", "reading"),
    Spec("bundled", "**ours, bundled model**", "ours", "ours_bundled", packages=_OURS),
    Spec("default", "**ours, class defaults**", "ours", "ours_default", packages=_OURS),
    Spec("bfloat16", "ours, class defaults, bfloat16", "ours", "ours_bfloat16", packages=_OURS),
    Spec("streamed", "ours, bundled model, in blocks", "ours", "ours_streamed", packages=_OURS),
    _stored(".h5ad"),
    _stored(".zarr"),
    Spec("plain", "ours, bundled model, not folded", "ours", "ours_plain", packages=_OURS),
    _celltypist("celltypist", "CellTypist, all genes"),
    _celltypist("celltypist_selected", "CellTypist, a selection of genes"),
    Spec(
        "logistic_regression",
        "logistic regression, sparse",
        "control",
        "logistic_regression",
        packages=_SKLEARN,
    ),
    Spec("scanvi", "scANVI without surgery", "peer", "scanvi", packages=("scvi-tools", "torch")),
)
FITS = {
    "celltypist": partial(_fit_celltypist, feature_selection=False),
    "celltypist_selected": partial(_fit_celltypist, feature_selection=True),
    "logistic_regression": _fit_logistic_regression,
    "scanvi": _fit_scanvi,
}
TRAINING = Spec("training", "train", "ours", "ours_trained", packages=_OURS)
ADAPTING = Spec("adapted", "adapt", "ours", "ours_adapted", packages=_OURS)
EXPLAINING = Spec("explained", "explain", "ours", "ours_explained", packages=_OURS)
SHARING = Spec("shared", "two dask workers", "ours", "ours_on_dask", packages=_OURS)


class Speed:
    """Processes that are measured.

    Parameters
    ----------
    records
        Where figures go.
    reference
        Labelled cells that models learn from and queries are drawn from.
    work
        Folder of queries and models; what is there is taken again.
    envs
        As for ``run.py``.
    """

    def __init__(self, records: Records, reference: Path, work: Path, envs: str):
        self.records, self.reference, self.work = records, reference.resolve(), work.resolve()
        self.runner = Runner(work, envs)
        self.env = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")}
        (self.work / "models").mkdir(parents=True, exist_ok=True)

    def query(self, n_cells: int) -> Path:
        """Return the file of so many cells."""
        return make_query(self.reference, n_cells, self.work / f"query_{n_cells}.h5ad")

    def stored(self, path: Path, suffix: str | None) -> Path:
        """Return the file, or the store that `convert --fast` makes of it."""
        fast = path if suffix is None else path.with_name(f"{path.stem}_fast{suffix}")
        if not fast.exists():
            from hdeepinsight.data import write_fast_store

            draft = fast.with_stem(f"{fast.stem}_draft")
            write_fast_store(path, draft)
            draft.rename(fast)
        return fast

    def model(self, name: str) -> Path:
        """Return where a model is kept."""
        return self.work / "models" / name

    def annotate(self, specs: list[Spec], n_cells: int, runs: int) -> None:
        """Annotate one file by each, in turn, so many times."""
        path, found = self.query(n_cells), {spec.name: [] for spec in specs}
        for _ in range(runs):
            for spec in specs:
                try:
                    query = self.stored(path, spec.options.get("store"))
                    model = self.model("default" if spec.name == "bfloat16" else spec.name)
                    found[spec.name].append(self.run(spec, model, query))
                except RunFailed as reason:  # such as too little memory
                    logger.warning("%s of %s cells failed: %s", spec.name, n_cells, reason)
        keys: dict[str, Any] = {"n_cells": n_cells}
        if reads := found.get("reading"):
            keys["reading_s"] = median(r["cpu_s"] for r in reads)
        for spec in specs:
            if results := found[spec.name]:
                source = "" if spec.options else " of a gzip h5ad"
                what = f"annotate {n_cells:,} cells{source}: {spec.title.replace('*', '')}"
                self.add(what, results, method=spec.name, **keys)

    def fit(self, spec: Spec) -> bool:
        """Train the model of another method if it is not there; say whether it can be run."""
        try:
            if spec.name in FITS and not self.model(spec.name).exists():
                self.run(spec, self.model(spec.name), self.reference, fit=True)
            return self.runner.python(spec).exists()
        except RunFailed as reason:
            logger.warning("%s: %s", spec.name, reason)
            return False

    def run(self, spec: Spec, model: Path, path: Path, *, fit: bool = False) -> dict:
        """Run one job in a process and environment of its own; returns what it measured."""
        command = [str(self.runner.python(spec)), __file__, "--child", spec.name, str(model)]
        command += [str(path), *(["--fit"] if fit else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=self.env)
        if done.returncode:
            raise RunFailed(f"exit code {done.returncode}: {done.stderr.strip()[-500:]}")
        return json.loads(done.stdout.splitlines()[-1])

    def cold(self, runs: int) -> None:
        """Measure the command line from start to end."""
        path, results = self.query(N_COLD), []
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            for _ in range(runs):
                before = _processor_s()
                code = "from hdeepinsight.cli import app; app()"
                out = ["--out", str(Path(folder) / "labels.csv"), "--overwrite"]
                command = [sys.executable, "-c", code, "annotate", str(path), "--fast", *out]
                subprocess.run(command, capture_output=True, check=True, env=self.env)
                facts = {"host": host() | {"threads": 1}, "versions": versions(_OURS)}
                results.append({"cpu_s": _processor_s() - before} | facts)
        what = f"`hdeepinsight annotate --fast` of {N_COLD:,} cells, bundled model, cold start"
        self.add(what, results)

    def share(self) -> None:
        """Compare two dask workers with one process; only meaningful on two idle cores."""
        result = self.run(SHARING, self.model("shared"), self.query(N_SHARED))
        one, two = (median(result[name]) for name in ("one_s", "two_s"))
        what = f"annotate {N_SHARED:,} cells of a gzip h5ad, bundled model"
        row = {"what": f"{what}: one process on one core / two"}
        row |= {"value": round(one / two, 2), "unit": "ratio of wall times", "runs": N_TURNS}
        row |= {key: result[key] for key in ("one_s", "two_s", "load", "host", "versions")}
        logger.info("two dask workers: %.2f times as fast %s", row["value"], result)
        self.records.replace([row], what=row["what"])

    def add(self, what: str, results: list[dict], **keys) -> None:
        """Keep the medians of some runs."""
        row = {"what": what, "value": round(median(r["cpu_s"] for r in results), 2)}
        row |= {"unit": "CPU-s", "runs": len(results), **keys}
        for key in ("peak_mb", "added_mb"):
            if key in results[0]:
                row[key] = round(median(r[key] for r in results))
        row |= {key: results[0][key] for key in ("host", "versions")}
        logger.info("%s: %.2f CPU-s %s", what, row["value"], [r["cpu_s"] for r in results])
        self.records.replace([row], what=what)


def child(spec: Spec, model: Path, path: Path) -> dict:
    """Do a job in this process and measure it."""
    warnings.simplefilter("ignore")
    job = globals()[spec.target](model)
    forget_peak()
    before, resting = _processor_s(), peak_rss_mb()
    found = job(path)
    cpu_s, peak = _processor_s() - before, peak_rss_mb()
    facts = {"host": host() | {"threads": 1}, "versions": versions(spec.packages or _SKLEARN[1:])}
    facts |= found if isinstance(found, dict) else {}
    return {"cpu_s": round(cpu_s, 3), "peak_mb": peak, "added_mb": peak - resting} | facts


def _processor_s() -> float:
    """Processor time of this process and of children that have ended, user and system."""
    return sum(os.times()[:4])


def tables(rows: list[dict]) -> str:
    """Lay out end-to-end figures by size and method, then the other jobs."""
    parts, titles = [], {spec.name: spec.title for spec in ANNOTATORS}
    for size in sorted({row["n_cells"] for row in rows if "method" in row}):
        here = {row["method"]: row for row in rows if row.get("n_cells") == size}
        lines = [
            [
                f"{size:,} cells: {titles[name]}",
                f"{row['value']:.2f}",
                f"{size / row['value']:,.0f}",
                f"{row['value'] / row['reading_s']:.2f}" if "reading_s" in row else "–",  # same run
                f"{row['peak_mb']:,}",
                f"{row['added_mb']:,}",
            ]
            for name in titles
            if (row := here.get(name))
        ]
        header = ["file to labels", "CPU-s", "cells per CPU-s", "time / reading"]
        parts.append(table([*header, "peak MB", "added MB"], lines))
    others = [row for row in rows if "method" not in row and "one_s" not in row]
    parts.append(
        table(["other jobs", "CPU-s"], [[r["what"], f"{r['value']:,.1f}"] for r in others])
    )
    shared = [
        [
            row["what"],
            *(f"{median(row[key]):.1f}" for key in ("one_s", "two_s")),
            f"{row['value']:.2f}",
        ]
        for row in rows
        if "one_s" in row
    ]
    if shared:
        header = ["two dask workers", "s, one core", "s, two workers", "ratio of wall times"]
        parts.append(table(header, shared))
    return "\n\n".join(parts)


def measure(speed: Speed, args: argparse.Namespace) -> None:
    """Measure everything that is asked for."""
    default = speed.model("default")
    if not default.exists():
        what = "train with the class defaults on 2,638 cells × 13,714 genes, from file to model"
        speed.add(what, [speed.run(TRAINING, default, speed.reference)])
    able = [s for s in ANNOTATORS if (not args.only or s.name in args.only) and speed.fit(s)]
    for size in args.sizes:
        speed.annotate(able, size, max(1, args.runs - (size >= 100_000)))
    if args.million:
        speed.annotate([s for s in able if s.name in ("bundled", "streamed")], 1_000_000, 1)
    if not args.skip_others:
        what = f"`hdi.annotate`, bundled model, adapted and refined, {N_ADAPTED:,} cells"
        speed.add(what, [speed.run(ADAPTING, default, speed.query(N_ADAPTED))])
        what = f"explain {N_EXPLAINED} cells, class defaults, 50 samples per cell"
        speed.add(what, [speed.run(EXPLAINING, default, speed.query(10_000))])
        speed.cold(args.runs)
        speed.share()


def main(argv: list[str] | None = None) -> None:
    """Measure, or act as one of the processes that are measured."""
    specs = {s.name: s for s in (*ANNOTATORS, TRAINING, ADAPTING, EXPLAINING, SHARING)}
    data = Path(os.environ.get("HDI_DATA", HERE.parents[1] / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reference", type=Path, default=data / "pbmc3k.h5ad")
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 100_000])
    parser.add_argument("--million", action="store_true", help="a million cells too, ours alone")
    parser.add_argument("--runs", type=int, default=2, help="one less from 100,000 cells on")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "speed.json")
    parser.add_argument("--page", type=Path, default=HERE.parent / "docs" / "performance.md")
    parser.add_argument("--work", type=Path, default=HERE / ".work" / "speed")
    parser.add_argument("--dask", action="store_true", help="only two dask workers against one")
    parser.add_argument("--only", nargs="+", choices=[s.name for s in ANNOTATORS], metavar="NAME")
    parser.add_argument("--envs", default=str(HERE / ".envs"), help="as for run.py")
    parser.add_argument("--skip-others", action="store_true", help="leave out the other jobs")
    parser.add_argument("--child", nargs=3, metavar=("JOB", "MODEL", "PATH"), help="internal")
    parser.add_argument("--fit", action="store_true", help="internal")
    args = parser.parse_args(argv)
    if args.child:
        name, model, path = args.child[0], *map(Path, args.child[1:])
        print(json.dumps(FITS[name](path, model) if args.fit else child(specs[name], model, path)))
        return
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    speed = Speed(Records(args.out), args.reference, args.work, args.envs)
    if args.dask:
        speed.share()
    else:
        measure(speed, args)
    text = replace_between(args.page.read_text(), "speed", tables(speed.records.rows))
    args.page.write_text(text)


if __name__ == "__main__":
    main()
