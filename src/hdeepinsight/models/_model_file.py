"""A saved model: from a payload of plain types to the files of a folder, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from hdeepinsight.models._file._errors import ModelFileError
from hdeepinsight.models._file._folder import ModelFolder
from hdeepinsight.models._file._plain import frame_from_plain, to_plain
from hdeepinsight.models._file._tensor_file import dump_tensors, parse_tensors
from hdeepinsight.models._file._torch_file import dump_torch, parse_torch

__all__ = [
    "ModelFileError",
    "ModelFolder",
    "ModelFormat",
    "frame_from_plain",
    "read_model",
    "to_plain",
    "write_model",
]

ModelFormat: TypeAlias = Literal["torch", "safetensors"]


def write_model(
    folder: ModelFolder,
    payload: Mapping[str, Any],
    *,
    format: ModelFormat = "torch",
    references: Mapping[str, Callable[[Path], None]] | None = None,
) -> None:
    """Write a model so that its folder holds either the old one or the new one.

    Parameters
    ----------
    folder
        Where to write.
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames.
    format
        ``"torch"``: ``model.pt``; ``"safetensors"``: ``model.safetensors`` and ``model.json``.
    references
        What writes ``adata.h5ad`` or ``mdata.h5mu`` to the path that it is given.

    Raises
    ------
    OSError
        If the disk is full or not writable; an older model is then untouched.
    TypeError
        If the payload holds something else.
    """
    if format not in get_args(ModelFormat):
        valid = " or ".join(map(repr, get_args(ModelFormat)))
        msg = f"format={format!r} is not known. Valid is {valid}. Choose one of them."
        raise ValueError(msg)
    if format == "torch":
        parts = {"model.pt": dump_torch(payload)}
    else:
        weights, description = dump_tensors(payload)
        parts = {"model.safetensors": weights, "model.json": description}
    folder.write(parts, references)


def read_model(folder: ModelFolder) -> dict[str, Any]:
    """Read what :func:`write_model` wrote; nothing in the files is ever executed.

    Parameters
    ----------
    folder
        Where to read.

    Returns
    -------
    The payload, in plain types and with tensors on the CPU.

    Raises
    ------
    ModelFileError
        If there is no model, or it is damaged, or holds more than plain types and tensors.
    """
    kind, parts = folder.read()
    if kind == "torch":
        return parse_torch(parts["model.pt"], folder.file("model.pt"))
    return parse_tensors(parts["model.safetensors"], parts["model.json"], folder.path)
