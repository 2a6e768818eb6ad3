"""Plain types: what a model file may hold, and how other types become it and come back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch

from hdeepinsight.models._file._errors import ModelFileError
from hdeepinsight.models._file._json import MAX_NESTING

__all__ = ["FRAME_KEY", "check_plain", "frame_from_plain", "to_plain"]

FRAME_KEY: Final = "__dataframe__"
_LEAVES = (type(None), bool, int, float, str)


def to_plain(value: Any) -> Any:
    """Plain types and tensors that hold the same information.

    Arrays of numbers become tensors, arrays of text lists; DataFrames become mappings that
    :func:`frame_from_plain` turns back. Tensors come to the CPU.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {sys.intern(str(key)): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        is_text = value.dtype.kind in "OUS"
        return to_plain(value.tolist()) if is_text else torch.from_numpy(value.copy())
    if isinstance(value, pd.DataFrame):
        return {
            FRAME_KEY: to_plain(value.columns.tolist()),
            "index": to_plain(value.index.tolist()),
            "name": to_plain(value.index.name),
            "values": value.to_numpy(dtype=float).tolist(),
        }
    if isinstance(value, torch.Tensor):
        # A copy: of a view, all that it is a view of would be written.
        return value.detach().cpu().contiguous().clone()
    if isinstance(value, str):
        return sys.intern(str(value))  # equal text is one object, so equal models are equal bytes
    if value is None or isinstance(value, int | float | bool):
        return value
    msg = f"A {type(value).__name__} cannot be saved with a model; valid are plain types."
    raise TypeError(msg)


def frame_from_plain(value: Mapping[str, Any]) -> pd.DataFrame:
    """Put together the DataFrame that :func:`to_plain` took apart."""
    index = pd.Index(value["index"], name=value["name"])
    return pd.DataFrame(value["values"], index=index, columns=value[FRAME_KEY])


def check_plain(payload: Any, name: object) -> dict[str, Any]:
    """Refuse what :func:`to_plain` does not make.

    Parameters
    ----------
    payload
        What was read.
    name
        Where it was read from, for the error.

    Raises
    ------
    ModelFileError
        If it is no mapping, holds another type, is nested deeper than ``MAX_NESTING``, or holds
        one container twice: a few bytes could then stand for more than any memory.
    """
    if type(payload) is not dict:
        msg = f"{name} holds a {type(payload).__name__}, not a model. Check the path."
        raise ModelFileError(msg)
    seen: set[int] = set()
    waiting: list[tuple[Any, int]] = [(payload, 0)]
    while waiting:
        value, depth = waiting.pop()
        problem = _problem(value, depth, seen)
        if problem is not None:
            msg = (
                f"{name} holds {problem}. Valid are plain types and tensors, as "
                "SCHDeepInsight.save() writes them. Ask for another copy of the model."
            )
            raise ModelFileError(msg)
        if isinstance(value, dict | list):
            seen.add(id(value))
            items = value.values() if isinstance(value, dict) else value
            waiting.extend((item, depth + 1) for item in items)
    return payload


def _problem(value: Any, depth: int, seen: set[int]) -> str | None:
    if type(value) in _LEAVES:
        return None
    if type(value) is torch.Tensor:
        is_dense = value.layout is torch.strided and not value.is_quantized and not value.is_meta
        return None if is_dense else f"a tensor with the layout {value.layout}"
    if type(value) not in (dict, list):
        return f"a {type(value).__name__}"
    if depth > MAX_NESTING:
        return f"values that are nested more than {MAX_NESTING} deep"
    if id(value) in seen:
        return "one container in two places"
    if type(value) is dict and not all(type(key) is str for key in value):
        return "a mapping whose keys are not text"
    return None
