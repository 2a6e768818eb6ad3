"""A saved model: scvi-tools' layout, but only plain types and tensors, read without unpickling."""

from __future__ import annotations

import io
import os
import pickle
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

FRAME_KEY = "__dataframe__"


class ModelFileError(ValueError):
    """A file that is not a model of ours, or is damaged."""


def write_model(path: Path, payload: Mapping[str, Any]) -> None:
    """Write the payload so that ``path`` holds either the old model or the new one.

    Parameters
    ----------
    path
        File to write.
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames.

    Raises
    ------
    OSError
        If the disk is full or not writable; an older file at ``path`` is then untouched.
    """
    # Serialised in memory: torch turns the error of a full disk into one of its own.
    buffer = io.BytesIO()
    torch.save(to_plain(payload), buffer)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def read_model(path: Path, *, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what :func:`write_model` wrote; nothing in the file is ever executed.

    Parameters
    ----------
    path
        File to read.
    map_location
        Device for the tensors.

    Raises
    ------
    ModelFileError
        If there is no such file, or it is damaged, or holds more than plain types and tensors.
    """
    if not path.is_file():
        msg = (
            f"There is no model at {path.parent}: it has no file {path.name}. Valid is a folder "
            "written by save(). Check the path."
        )
        raise ModelFileError(msg)
    try:
        with warnings.catch_warnings():
            # torch warns about unusual files that it then refuses; the error says enough.
            warnings.simplefilter("ignore", UserWarning)
            payload = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        msg = (
            f"{path} holds objects other than plain types and tensors, or is not a PyTorch file: "
            f"{_first_sentence(error)} Loading it could run code, so it is refused. Valid are "
            "files written by SCHDeepInsight.save()."
        )
        raise ModelFileError(msg) from None
    except (RuntimeError, EOFError, OSError, KeyError, ValueError) as error:
        msg = (
            f"{path} is damaged or incomplete: {_first_sentence(error)} Copy or download the "
            "model again."
        )
        raise ModelFileError(msg) from None
    if not isinstance(payload, dict):
        msg = f"{path} holds a {type(payload).__name__}, not a model. Check the path."
        raise ModelFileError(msg)
    return payload


def to_plain(value: Any) -> Any:
    """Plain types and tensors that hold the same information.

    Arrays of numbers become tensors, arrays of text lists; DataFrames become mappings that
    :func:`frame_from_plain` turns back.
    """
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype.kind in "OUS" else torch.from_numpy(value.copy())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, pd.DataFrame):
        return {
            FRAME_KEY: value.columns.tolist(),
            "index": value.index.tolist(),
            "name": value.index.name,
            "values": value.to_numpy(dtype=float).tolist(),
        }
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    msg = f"A {type(value).__name__} cannot be saved with a model; valid are plain types."
    raise TypeError(msg)


def frame_from_plain(value: Mapping[str, Any]) -> pd.DataFrame:
    """Put together the DataFrame that :func:`to_plain` took apart."""
    index = pd.Index(value["index"], name=value["name"])
    return pd.DataFrame(value["values"], index=index, columns=value[FRAME_KEY])


def _first_sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". ")[0].rstrip(".") + "."
