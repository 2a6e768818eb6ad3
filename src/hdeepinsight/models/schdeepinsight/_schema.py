"""Versions of what a model file says: what older ones lack, and what is too much for any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight.models._model_file import ModelFileError

__all__ = ["SCHEMA_VERSION", "checked", "migrated", "missing_capabilities"]

SCHEMA_VERSION: Final = 2
MAX_NODES: Final = 100_000
MAX_SIDE: Final = 4096
#: What a model cannot do without an attribute that older files lack.
CAPABILITIES: Final = {
    "calibration_": "conformal label sets (result.label_sets)",
    "novelty_detector_": "novelty scores (result.novelty, result.rejected)",
    "profiles_": "adapting to a query without its reference (load_query_data)",
}


def checked(payload: dict[str, Any], name: object, class_name: str) -> dict[str, Any]:
    """Refuse a payload that is no model of the class, or of a newer schema.

    Parameters
    ----------
    payload
        What was read, in plain types.
    name
        Where it was read from, for the error.
    class_name
        Class that is to be loaded.

    Raises
    ------
    ModelFileError
        Naming what was found.
    """
    attributes = payload.get(SAVE_KEYS.ATTR_DICT_KEY)
    if not isinstance(attributes, dict) or not isinstance(attributes.get("registry_"), dict):
        found = ", ".join(map(str, list(payload)[:5]))[:200] or "nothing"
        msg = f"{name} is not a model of hdeepinsight: it holds {found}. Check the path."
        raise ModelFileError(msg)
    found = str(attributes["registry_"].get("model_name"))[:80]
    if found != class_name:
        msg = f"{name} holds a {found}, not a {class_name}. Load it with its own class."
        raise ModelFileError(msg)
    version = attributes.get("schema_version_", 0)
    if type(version) is not int or not 0 <= version <= SCHEMA_VERSION:
        msg = (
            f"{name} has schema version {version!r}; this release reads up to {SCHEMA_VERSION}. "
            "Update hdeepinsight."
        )
        raise ModelFileError(msg)
    _check_size(payload, attributes, name)
    return payload


def migrated(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes in the present schema; what was not there yet is ``None``.

    Parameters
    ----------
    attributes
        Attributes of any schema up to the present one.
    """
    version = attributes.get("schema_version_", 0)
    moved = dict(attributes)
    for step in _STEPS[version:]:
        moved = step(moved)
    return moved | {"schema_version_": SCHEMA_VERSION}


def missing_capabilities(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """List what a model cannot do since it was saved before there was the attribute for it."""
    return tuple(what for key, what in CAPABILITIES.items() if key not in attributes)


def _from_0(attributes: dict[str, Any]) -> dict[str, Any]:
    """Add what schema 0 did not know."""
    later = ("train_indices_", "validation_indices_", "history_")
    return {"recipe_": {}, **dict.fromkeys(later)} | attributes


def _from_1(attributes: dict[str, Any]) -> dict[str, Any]:
    """Add what came in while schema 1 was written; it was not sealed either."""
    return dict.fromkeys(CAPABILITIES) | attributes


_STEPS: tuple[Callable[[dict[str, Any]], dict[str, Any]], ...] = (_from_0, _from_1)


def _check_size(payload: Mapping[str, Any], attributes: Mapping[str, Any], name: object) -> None:
    """Refuse descriptions of a model that would be larger than its own weights."""
    weights = payload.get(SAVE_KEYS.MODEL_STATE_DICT_KEY)
    options = attributes.get("init_params_")
    options = options.get("non_kwargs") if isinstance(options, dict) else None
    if not isinstance(weights, dict) or not isinstance(options, dict):
        msg = f"{name} holds no weights, or no settings, of a model, so it is damaged."
        raise ModelFileError(f"{msg} Copy or download the model again.")
    layout, tree = options.get("layout"), options.get("taxonomy")
    longest = max(
        (max(w.shape, default=0) for w in weights.values() if hasattr(w, "shape")), default=0
    )
    sizes = {
        "n_latent": (options.get("n_latent"), longest),
        "side": (layout.get("side") if isinstance(layout, dict) else None, MAX_SIDE),
        "nodes": (_n_nodes(tree), MAX_NODES),
    }
    for what, (found, most) in sizes.items():
        if found is not None and (type(found) is not int or not 0 <= found <= most):
            msg = (
                f"{name} describes a model with {what}={str(found)[:40]}. Valid beside its weights "
                f"is at most {most:,}, so it is damaged. Copy or download the model again."
            )
            raise ModelFileError(msg)


def _n_nodes(tree: object) -> int | None:
    nodes = tree.get("nodes") if isinstance(tree, dict) else None
    return len(nodes) if isinstance(nodes, list) else None
