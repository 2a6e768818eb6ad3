"""Check and migrate the content of model files before a model is built from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from hdeepinsight._archive import ModelFileError, damaged
from hdeepinsight._keys import SAVE_KEYS

SCHEMA_VERSION: Final = 3
_MAX_NODES, _MAX_SIDE = 100_000, 4096
#: Present names of classes that were renamed or merged.
RENAMED: Final = {"AdaptedSCHDeepInsight": "SCHDeepInsight"}


def class_name(payload: Mapping[str, Any], name: object) -> str:
    """Return the name of the model class that saved a payload.

    Parameters
    ----------
    payload
        Content of a model file, in plain types.
    name
        Name of the file, for the error.

    Raises
    ------
    ModelFileError
        If it is not a model of this package.
    """
    registry = _entry(payload.get(SAVE_KEYS.ATTRIBUTES), "registry_")
    if not isinstance(registry, dict):
        keys = ", ".join(map(str, list(payload)[:5]))[:200] or "nothing"
        msg = f"{name} is not a model of hdeepinsight: it holds {keys}. Check the path."
        raise ModelFileError(msg)
    found = str(registry.get("model_name"))
    return RENAMED.get(found, found)


def check_payload(payload: Mapping[str, Any], name: object) -> None:
    """Raise ``ModelFileError`` for a newer schema, or sizes that the weights do not support."""
    attributes = payload[SAVE_KEYS.ATTRIBUTES]
    version = attributes.get("schema_version_", 0)
    if type(version) is not int or not 0 <= version <= SCHEMA_VERSION:
        msg = f"{name} must have schema version {SCHEMA_VERSION} or earlier, got"
        raise ModelFileError(f"{msg} {str(version)[:40]}. Update hdeepinsight.")
    weights: Any = payload.get(SAVE_KEYS.WEIGHTS)
    options = _entry(attributes, "init_params_", "non_kwargs")
    setup = attributes["registry_"].get("setup_args", {})
    if not all(isinstance(part, dict) for part in (weights, options, setup)):
        raise damaged(name, "It lacks the weights or the settings of a model")
    widths = [n for w in weights.values() if isinstance(w, torch.Tensor) for n in w.shape]
    nodes = _entry(options, "taxonomy", "nodes")
    for what, size, most in (
        ("n_latent", options.get("n_latent"), max(widths, default=0)),
        ("side", _entry(options, "layout", "side"), _MAX_SIDE),
        ("nodes", len(nodes) if isinstance(nodes, list) else None, _MAX_NODES),
    ):
        if size is not None and (type(size) is not int or not 0 <= size <= most):
            found = f"It describes a model with {what}={str(size)[:40]}, and at most {most:,}"
            raise damaged(name, f"{found} is possible")


def _entry(value: Any, *keys: str) -> Any:
    """Return the value under nested keys, or ``None``."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def migrate(
    attributes: Mapping[str, Any], options: Callable[[dict[str, Any]], dict[str, Any]] | None = None
) -> dict[str, Any]:
    """Return attributes in the present schema; those that did not exist yet are ``None``.

    Parameters
    ----------
    attributes
        Attributes in any earlier schema, accepted by :func:`check_payload`.
    options
        Function that converts constructor options of earlier schemas to present ones.
    """
    version, moved = attributes.get("schema_version_", 0), dict(attributes)
    if version < 2:  # some were already written under schema 1
        later = ["train_indices_", "validation_indices_", "history_"]
        later += ["calibration_", "bank_", "profiles_"]
        moved = {"recipe_": {}, **dict.fromkeys(later)} | moved
    if version < 3:  # adapted models had a separate class
        old = {"report": "adaptation_", "batches": "batches_", "batch_key": "batch_key_"}
        old["shrinkage"] = "trust_"
        adapter = {key: moved.pop(name, None) for key, name in old.items()}
        is_adapted = adapter["report"] is not None or adapter["shrinkage"] is not None
        moved["adapter_"] = adapter if is_adapted else None
        registry, parameters = moved["registry_"], moved["init_params_"]
        name = registry.get("model_name")
        moved["registry_"] = {**registry, "model_name": RENAMED.get(name, name)}
        if options is not None:
            new = options(dict(parameters["non_kwargs"]))
            moved["init_params_"] = {**parameters, "non_kwargs": new}
    return moved | {"schema_version_": SCHEMA_VERSION}


def restore_objects(model: Any, attributes: Mapping[str, Any]) -> None:
    """Set the recipe and the saved values and objects of a model whose network is built."""
    model.recipe_ = attributes["recipe_"]
    for name in model._saved_values:
        setattr(model, name, attributes.get(name))
    for name, kind in model._saved_objects.items():
        values = attributes.get(name)
        setattr(model, name, values and model._load_object(kind, values))
