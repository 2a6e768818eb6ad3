"""``model.safetensors`` and ``model.json``: weights that any tool reads, and everything else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import torch

from hdeepinsight.models._file._errors import ModelFileError, damaged, first_sentence
from hdeepinsight.models._file._json import dump_json, parse_json
from hdeepinsight.models._file._plain import check_plain, to_plain
from hdeepinsight.models._file._seal import sha256

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FORMAT", "dump_tensors", "parse_tensors"]

FORMAT: Final = "hdeepinsight.model"
CONTAINER_VERSION: Final = 1
_WEIGHTS = "model_state_dict/"
_TENSOR, _FLOAT = "__tensor__", "__float__"


def dump_tensors(payload: Mapping[str, Any]) -> tuple[bytes, bytes]:
    """Content of ``model.safetensors`` and of ``model.json``.

    Parameters
    ----------
    payload
        Nested mappings and sequences of plain types, tensors, arrays and DataFrames. Weights keep
        the names that they have in the network; other tensors are named by their path.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    described = _take_apart(to_plain(payload), "", tensors)
    weights: bytes = save(tensors)
    record = {
        "format": FORMAT,
        "container_version": CONTAINER_VERSION,
        "weights_sha256": sha256(weights),
        "model": described,
    }
    return weights, dump_json(record)


def parse_tensors(weights: bytes, description: bytes, name: object) -> dict[str, Any]:
    """Read what :func:`dump_tensors` wrote.

    Parameters
    ----------
    weights, description
        Content of the two files.
    name
        Their folder, for the error.

    Raises
    ------
    ModelFileError
        If one of them is damaged, is not of this format, or does not belong to the other.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    record = parse_json(description, f"{name}/model.json", FORMAT, CONTAINER_VERSION)
    if record.get("weights_sha256") != sha256(weights):
        msg = (
            f"model.safetensors in {name} does not have the checksum that model.json gives, so one "
            "of them is damaged or of another model. Copy or download the model again."
        )
        raise ModelFileError(msg)
    try:
        tensors = load(weights)
        payload = _put_together(record["model"], tensors)
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        raise damaged(f"The model in {name}", first_sentence(error)) from None
    return check_plain(payload, name)


def _take_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Replace tensors by their names, and numbers that JSON does not know by text."""
    if isinstance(value, torch.Tensor):
        name = path.removeprefix(_WEIGHTS)
        if name in tensors:
            msg = f"Two tensors of the model are named {name!r}. Report this."
            raise ValueError(msg)
        tensors[name] = value
        return {_TENSOR: name}
    if isinstance(value, dict):
        if _TENSOR in value or _FLOAT in value:
            msg = f"A mapping at {path or 'the top'} has the reserved key {_TENSOR} or {_FLOAT}."
            raise ValueError(msg)
        inside = f"{path}/" if path else ""
        return {k: _take_apart(v, f"{inside}{k}", tensors) for k, v in value.items()}
    if isinstance(value, list):
        return [_take_apart(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return {_FLOAT: str(value)}
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_TENSOR}:
            return tensors[value[_TENSOR]]
        if value.keys() == {_FLOAT}:
            return float(value[_FLOAT])
        return {key: _put_together(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    return value
