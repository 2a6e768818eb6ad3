"""Settings of a recipe as text for ``uns``, and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np


def to_text(value: object) -> str:
    """Give a string as it is and anything else as JSON; a string that reads as JSON is quoted."""
    if isinstance(value, str) and from_text(value) == value:
        return value
    return json.dumps(value, default=_plain)


def from_text(text: str) -> Any:
    """Restore what `to_text` was given, a tuple as a list."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # plain words, or brackets without end in a foreign file
        return text


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else str(value)
