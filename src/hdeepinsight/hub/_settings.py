"""Environment variables and the optional packages, each read when it is needed."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["cache_folder", "endpoint", "is_offline", "mirror", "require"]

_TRUE = {"1", "on", "yes", "true"}
_PUBLIC_HUB = "https://huggingface.co"


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` forbids every connection."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in _TRUE


def endpoint() -> str:
    """Address of the Hugging Face hub, or of what ``HF_ENDPOINT`` names."""
    return (os.environ.get("HF_ENDPOINT") or _PUBLIC_HUB).rstrip("/")


def mirror() -> str | None:
    """Return where ``HDEEPINSIGHT_MIRROR`` says that models are, instead of the hub.

    A folder, ``file://``, ``s3://``, or the address of a server that speaks like the hub.
    """
    return os.environ.get("HDEEPINSIGHT_MIRROR", "").strip().rstrip("/") or None


def cache_folder() -> Path:
    """Folder of fetched models: ``HDEEPINSIGHT_CACHE``, or one in the user's cache folder."""
    named = os.environ.get("HDEEPINSIGHT_CACHE")
    if named:
        return Path(named).expanduser() / "models"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hdeepinsight" / "models"


def require(package: str, purpose: str, extra: str = "hub") -> Any:
    """Import an optional package, which is among those of an extra of ours.

    Raises
    ------
    ImportError
        With how to install it.
    """
    try:
        return import_module(package)
    except ImportError as error:
        msg = (
            f"{purpose} needs the package {package}, which is not installed. Install it with "
            f'`pip install "hdeepinsight[{extra}]"`.'
        )
        raise ImportError(msg) from error
