"""Make one environment a peer from ``benchmarks/environments/*.txt``.

A peer that cannot be installed or imported leaves its reason in ``<environment>.failed.txt``, which
the benchmark reports in its place.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

from harness.execute import environment_folder

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "environments"
#: What has to be importable afterwards.
MODULES = {
    "celltypist": "celltypist",
    "harmony": "harmonypy",
    "popv": "popv",
    "schpl": "scHPL",
    "scpoli": "scarches",
    "singler": "singler",
}
logger = logging.getLogger("benchmarks")


def build(name: str, folder: Path, *, python: str, uv: str | None) -> None:
    """Make one environment anew.

    Parameters
    ----------
    name
        Name of a requirements file.
    folder
        Where the environment goes; what is there is replaced.
    python
        Interpreter to build on.
    uv
        The ``uv`` program; pip is used without it.
    """
    note = folder.with_name(folder.name + ".failed.txt")
    note.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in _commands(name, folder, python, uv):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=_clean_environment()
        )
        if done.returncode:
            reason = _last_lines(done.stderr or done.stdout)
            note.write_text(reason + "\n")
            shutil.rmtree(folder, ignore_errors=True)
            logger.warning("%s: not installed: %s", name, reason)
            return
    logger.info("%s: installed in %s", name, folder)


def _commands(name: str, folder: Path, python: str, uv: str | None) -> list[list[str]]:
    requirements = str(REQUIREMENTS / f"{name}.txt")
    inside = str(folder / "bin" / "python")
    check = [inside, "-c", f"import {MODULES[name]}"]
    if uv:
        install = [uv, "pip", "install", "--python", inside, "-r", requirements]
        return [[uv, "venv", "--python", python, str(folder)], install, check]
    install = [inside, "-m", "pip", "install", "-r", requirements]
    return [[python, "-m", "venv", str(folder)], install, check]


def _python() -> str:
    """Python 3.11 if there is one: pandas 1 and TensorFlow 2.14 have no wheels for later ones."""
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    return shutil.which("python3.11") or sys.executable


def _clean_environment() -> dict[str, str]:
    """Leave out the variables that point at the environment that this runs in."""
    return {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}


def _last_lines(text: str, n: int = 3) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " ".join(lines[-n:])[:500]


def main(argv: list[str] | None = None) -> None:
    """Build the environments that the command line names."""
    names = sorted(MODULES)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument(
        "--envs", default=str(HERE / ".envs"), help="folder, or pattern with {name}"
    )
    parser.add_argument("--python", default=_python(), help="interpreter; some peers need 3.11")
    parser.add_argument("--uv", default=shutil.which("uv"), help="the uv program")
    parser.add_argument("--force", action="store_true", help="make existing ones anew")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    unknown = sorted(set(args.names) - set(names))
    if unknown:
        parser.error(f"there is no environment {unknown}; there are {names}")
    for name in args.names or names:
        folder = environment_folder(args.envs, name)
        if args.force or not (folder / "bin" / "python").exists():
            build(name, folder, python=args.python, uv=args.uv)


if __name__ == "__main__":
    main()
