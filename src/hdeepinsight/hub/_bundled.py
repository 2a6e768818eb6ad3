"""Models that the package itself carries, each as `publish` wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hdeepinsight.hub._manifest import CHECKSUMS_FILE

__all__ = ["bundled_folder", "bundled_folders"]

_SHELF: Final = Path(__file__).parents[1] / "models" / "bundled"


def bundled_folders() -> dict[str, Path]:
    """Folders of the bundled models, by the names of the models.

    Examples
    --------
    >>> sorted(bundled_folders())
    ['pbmc']
    """
    return {path.parent.name: path.parent for path in sorted(_SHELF.glob(f"*/{CHECKSUMS_FILE}"))}


def bundled_folder(name: object) -> Path | None:
    """Folder of the bundled model of this name; ``None`` for anything else."""
    return bundled_folders().get(name) if isinstance(name, str) else None
