"""What the file of a model says, of whatever schema, checked before anything is built of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch

from hdeepinsight._archive import ModelFileError, damaged
from hdeepinsight._keys import SAVE_KEYS

SCHEMA_VERSION: Final = 3
#: What a model cannot do without an attribute that older files lack.
CAPABILITIES: Final = {
    "calibration_": "conformal label sets (result.label_sets)",
    "bank_": "novelty and a verdict on the query (result.novelty, result.verdict)",
    "profiles_": "adapting to a query without its reference (load_query_data)",
}
_MAX_NODES, _MAX_SIDE = 100_000, 4096
#: Classes of earlier releases, by what became of them.
RENAMED: Final = {"AdaptedSCHDeepInsight": "SCHDeepInsight"}

logger = logging.getLogger(__name__)


def class_name(payload: Mapping[str, Any], name: object) -> str:
    """Return the name of the class of models that a payload is of.

    Parameters
    ----------
    payload
        What was read, in plain types.
    name
        Where it was read from, for the error; ``ModelFileError`` if it is not a model of ours.
    """
    registry = _entry(payload.get(SAVE_KEYS.ATTRIBUTES), "registry_")
    if not isinstance(registry, dict):
        keys = ", ".join(map(str, list(payload)[:5]))[:200] or "nothing"
        msg = f"{name} is not a model of hdeepinsight: it holds {keys}. Check the path."
        raise ModelFileError(msg)
    found = str(registry.get("model_name"))
    return RENAMED.get(found, found)


def check_payload(payload: Mapping[str, Any], name: object) -> None:
    """Raise ``ModelFileError`` for a model of a newer schema, or larger than its own weights."""
    attributes = payload[SAVE_KEYS.ATTRIBUTES]
    version = attributes.get("schema_version_", 0)
    if type(version) is not int or not 0 <= version <= SCHEMA_VERSION:
        msg = f"{name} has schema version {str(version)[:40]}, and this release reads up to"
        raise ModelFileError(f"{msg} {SCHEMA_VERSION}. Update hdeepinsight.")
    weights: Any = payload.get(SAVE_KEYS.WEIGHTS)
    options = _entry(attributes, "init_params_", "non_kwargs")
    setup = attributes["registry_"].get("setup_args", {})
    if not all(isinstance(part, dict) for part in (weights, options, setup)):
        raise damaged(name, "It holds no weights, or no settings, of a model")
    widths = [n for w in weights.values() if isinstance(w, torch.Tensor) for n in w.shape]
    nodes = _entry(options, "taxonomy", "nodes")
    for what, size, most in (
        ("n_latent", options.get("n_latent"), max(widths, default=0)),
        ("side", _entry(options, "layout", "side"), _MAX_SIDE),
        ("nodes", len(nodes) if isinstance(nodes, list) else None, _MAX_NODES),
    ):
        if size is not None and (type(size) is not int or not 0 <= size <= most):
            says = f"It describes a model with {what}={str(size)[:40]}, where {most:,} is the most"
            raise damaged(name, says)


def _entry(value: Any, *keys: str) -> Any:
    """Return what is under keys, each inside the one before; ``None`` where there is nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def missing_capabilities(
    attributes: Mapping[str, Any], parts: Mapping[str, type]
) -> tuple[str, ...]:
    """List, and log, what a model cannot do since it was saved before its class had that part."""
    lacking = parts.keys() - attributes.keys()
    missing = tuple(what for key, what in CAPABILITIES.items() if key in lacking)
    if missing:
        logger.warning(
            "This model was saved by an older release and lacks %s. Train and save it again "
            "to have them; all else works.",
            "; ".join(missing),
        )
    return missing


def migrate(
    attributes: Mapping[str, Any],
    options: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Return attributes in the present schema; what was not there yet is ``None``.

    Parameters
    ----------
    attributes
        Attributes of any schema up to the present one, as :func:`check_payload` passed them.
    options
        What turns the constructor's options of earlier schemas into those of the present class.
    """
    version, moved = attributes.get("schema_version_", 0), dict(attributes)
    if version < 2:  # some of these came while schema 1 was written
        later = ("train_indices_", "validation_indices_", "history_", *CAPABILITIES)
        moved = {"recipe_": {}, **dict.fromkeys(later)} | moved
    if version < 3:  # an adapted model was of a class of its own
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


def restore_parts(model: Any, attributes: Mapping[str, Any]) -> None:
    """Set the recipe, figures and objects of a model, which has its network, from its file."""
    model.recipe_ = attributes["recipe_"]
    for name in model._figures:
        setattr(model, name, attributes.get(name))
    for name, kind in model._parts.items():
        values = attributes.get(name)
        setattr(model, name, values and model._part(kind, values))
