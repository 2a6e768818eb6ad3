"""The folder of the demo: its own, or none."""

from __future__ import annotations

from pathlib import Path

from hdeepinsight._demo._report import MARKER
from hdeepinsight.cli._boundary import UsageProblem

__all__ = ["claim_folder"]


def claim_folder(out: Path) -> None:
    """Make the folder, or take the one that an earlier run made; nothing in it is deleted.

    Parameters
    ----------
    out
        Folder.

    Raises
    ------
    UsageProblem
        If it is a file, or holds files and no README of an earlier run.
    """
    readme = out / "README.md"
    if out.exists() and not out.is_dir():
        msg = f"--out {out} is a file. Valid is a folder, which may be missing. Choose another."
        raise UsageProblem(msg)
    ours = readme.is_file() and readme.read_text(encoding="utf-8").startswith(MARKER)
    if out.is_dir() and any(out.iterdir()) and not ours:
        msg = (
            f"{out} holds files that the demo did not make. Valid is an empty or missing folder, "
            "or that of an earlier run. Choose another with --out."
        )
        raise UsageProblem(msg)
    out.mkdir(parents=True, exist_ok=True)
    # First of all, so that a run that was interrupted can be repeated.
    readme.write_text(f"{MARKER}\n\nThe run has not finished.\n", encoding="utf-8")
