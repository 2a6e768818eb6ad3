"""Run one method on one pair with one seed, in a process and environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .prepare import Prepared
from .registry import MAIN, Spec

WORKER = Path(__file__).resolve().parents[1] / "worker.py"
#: Variables that hold the number of threads of the libraries that methods use.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class RunFailed(Exception):
    """A method could not be run; the message is the reason that the report repeats."""


@dataclass(frozen=True)
class Runner:
    """How workers are started.

    Parameters
    ----------
    work
        Folder for prepared files and predictions.
    envs
        Folder with one environment a peer, or a pattern that holds ``{name}``.
    threads
        Threads that a method may use.
    timeout
        Seconds after which a run counts as failed.
    """

    work: Path
    envs: str
    threads: int = 1
    timeout: float = 7200.0

    def python(self, spec: Spec) -> Path:
        """Interpreter of the method's environment."""
        if spec.environment == MAIN:
            return Path(sys.executable)
        folder = environment_folder(self.envs, spec.environment)
        python = folder / "bin" / "python"
        if not python.exists():
            raise RunFailed(f"not installed: {installation_failure(folder)}")
        return python

    def run(self, spec: Spec, prepared: Prepared, seed: int, queries: dict[str, Path]) -> Path:
        """Fit and annotate; returns the folder with ``result.json`` and the predictions.

        Parameters
        ----------
        queries
            Query files by tag; the model is fitted once and annotates them in this order.
        """
        python = self.python(spec)
        folder = (Path(self.work) / "runs" / prepared.pair.name / spec.name / str(seed)).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "tmp").mkdir(parents=True)
        task = {
            "target": spec.target,
            "options": spec.options,
            "packages": list(spec.packages),
            "reference": str(prepared.reference.resolve()),
            "genes": str(prepared.genes.resolve()),
            "levels": list(prepared.pair.levels),
            "queries": {tag: str(path.resolve()) for tag, path in queries.items()},
            "seed": seed,
            "threads": self.threads,
            "folder": str(folder),
        }
        (folder / "task.json").write_text(json.dumps(task, indent=1))
        self._call(python, folder)
        return folder

    def _call(self, python: Path, folder: Path) -> None:
        threads = str(self.threads)
        env = {
            **os.environ,
            **dict.fromkeys(THREAD_VARIABLES, threads),
            "TMPDIR": str(folder / "tmp"),
        }
        with open(folder / "log.txt", "w") as log:
            try:
                done = subprocess.run(
                    [str(python), str(WORKER), str(folder / "task.json")],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=folder / "tmp",
                    env=env,
                    timeout=self.timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                raise RunFailed(f"took longer than {self.timeout:.0f} s") from None
        if done.returncode:
            raise RunFailed(_reason(folder / "log.txt", done.returncode))


def environment_folder(envs: str, name: str) -> Path:
    """Folder of an environment: ``{name}`` filled in, or a folder below `envs`."""
    return Path(envs.format(name=name)) if "{name}" in envs else Path(envs) / name


def installation_failure(folder: Path) -> str:
    """Reason that ``environments.py`` left when it could not build an environment."""
    note = folder.with_name(folder.name + ".failed.txt")
    if note.exists():
        return note.read_text().strip()
    return "no environment was made; run benchmarks/environments.py"


def _reason(log: Path, code: int) -> str:
    """Last line that says something, which in Python is the exception."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:500] if lines else f"ended with exit code {code}"
