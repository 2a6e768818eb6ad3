"""The classes of saved models: which there are, what their files say, and how one is made of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.model._utils import parse_device_args
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.data import check_file, open_paired
from hdeepinsight.models._base._io import (
    ModelFileError,
    ModelFolder,
    damaged,
)

SCHEMA_VERSION: Final = 3
#: What a model cannot do without an attribute that older files lack.
CAPABILITIES: Final = {
    "calibration_": "conformal label sets (result.label_sets)",
    "novelty_detector_": "novelty scores (result.novelty, result.rejected)",
    "profiles_": "adapting to a query without its reference (load_query_data)",
}
_MAX_NODES, _MAX_SIDE, _MAX_BYTES = 100_000, 4096, 2**30

logger = logging.getLogger(__name__)

_classes: dict[str, type[Any]] = {}
ModelClass = TypeVar("ModelClass", bound=type[Any])


def register(cls: ModelClass) -> ModelClass:
    """Register a class of models under its name, as which its files name it; a decorator."""
    _classes[cls.__name__] = cls
    return cls


def model_class(name: str) -> type[Any]:
    """Return the class of models that has a name.

    Parameters
    ----------
    name
        As a model's registry has it under ``"model_name"``.

    Raises
    ------
    KeyError
        If there is none.

    Examples
    --------
    >>> model_class("SCHDeepInsight").__name__
    'SCHDeepInsight'
    """
    rooms = import_module("hdeepinsight.models")
    if name not in _classes and name in rooms.__all__:
        getattr(rooms, name)  # a class registers itself when it is imported
    if name not in _classes:
        known = ", ".join(sorted(_classes)) or "none yet"
        msg = f"There is no class of models named {str(name)[:80]!r}; there are {known}."
        raise KeyError(f"{msg} Update hdeepinsight, or load it with the package that made it.")
    return _classes[name]


def load_model(
    folder: str | Path,
    adata: AnnData | MuData | bool | None = False,
    accelerator: str = "auto",
    device: int | str = "auto",
    prefix: str | None = None,
) -> Any:
    """Load a saved model of whatever class; code in its files, if any, is refused and never run.

    Parameters
    ----------
    folder
        Folder written by ``save``.
    adata
        Reference to attach; ``None`` or ``True`` for the one that was saved with the model, where
        there is one, ``False`` for none. Annotating needs none.
    accelerator, device
        Where the model lives, as in scvi-tools.
    prefix
        As given to ``save``.

    Raises
    ------
    ModelFileError
        If the folder holds no model, or a damaged or foreign one.
    TypeError
        If ``adata`` is something else, such as the path of a file.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> load_model(hdi.hub.download("pbmc").folder).taxonomy.n_leaves
    8
    """
    if not isinstance(adata, AnnData | MuData | bool | None):
        msg = (
            f"adata must be an AnnData or MuData, None for the reference that was saved with the "
            f"model, or False for none, got a {type(adata).__name__}. Read a file first."
        )
        raise TypeError(msg)
    *_, torch_device = parse_device_args(
        accelerator, device, return_device="torch", validate_single_device=True
    )
    place = ModelFolder(Path(folder), prefix or "")
    payload = place.read()
    cls = class_of(payload, place.path)
    if adata is None or adata is True:
        adata = _saved_reference(place)
    attached = adata if isinstance(adata, AnnData | MuData) else None
    model = cls._from_payload(payload, attached, place.path)
    model.to_device(torch_device)
    model.module.eval()
    return model


def _saved_reference(folder: ModelFolder) -> AnnData | MuData | None:
    """Read the reference that was saved with a model, where there is one."""
    path = folder.reference()
    if path is None:
        return None
    try:
        check_file(path)
        saved = open_paired(path) if path.name.endswith(SAVE_KEYS.MDATA_FNAME) else read_h5ad(path)
    except Exception as error:  # what the libraries raise about odd files is open
        msg = f"{path}, the reference beside the model, cannot be read ({str(error)[:200]})."
        raise ModelFileError(f"{msg} Pass adata=False to load the model without it.") from error
    # A bundle of the hub holds no counts: there is nothing to train on or to annotate.
    return None if REFERENCE_BUNDLE_KEY in saved.uns else saved


def class_of(payload: Mapping[str, Any], name: object) -> type[Any]:
    """Return the class of the model that a payload describes, checked by :func:`check_payload`.

    Raises
    ------
    ModelFileError
        If it is not a model of ours.
    """
    check_payload(payload, name)
    found = _renamed(payload[SAVE_KEYS.ATTR_DICT_KEY]["registry_"].get("model_name"))
    try:
        return model_class(found)
    except (KeyError, TypeError):
        msg = f"{name} holds a {str(found)[:80]}, which is not a model of hdeepinsight."
        raise ModelFileError(f"{msg} Load it with its own package.") from None


def check_payload(payload: Mapping[str, Any], name: object) -> None:
    """Refuse a payload that is not a model, of a newer schema, or larger than its own weights.

    Parameters
    ----------
    payload
        What was read, in plain types.
    name
        Where it was read from, for the error.

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
    version = attributes.get("schema_version_", 0)
    if type(version) is not int or not 0 <= version <= SCHEMA_VERSION:
        msg = f"{name} has schema version {str(version)[:40]}, and this release reads up to"
        raise ModelFileError(f"{msg} {SCHEMA_VERSION}. Update hdeepinsight.")
    weights, options = payload.get(SAVE_KEYS.MODEL_STATE_DICT_KEY), attributes.get("init_params_")
    options = options.get("non_kwargs") if isinstance(options, dict) else None
    if not isinstance(weights, dict) or not isinstance(options, dict):
        raise damaged(name, "It holds no weights, or no settings, of a model")
    sides = [n for w in weights.values() if isinstance(w, torch.Tensor) for n in w.shape]
    layout, tree = options.get("layout"), options.get("taxonomy")
    nodes = tree.get("nodes") if isinstance(tree, dict) else None
    sizes = {
        "n_latent": (options.get("n_latent"), max(sides, default=0)),
        "side": (layout.get("side") if isinstance(layout, dict) else None, _MAX_SIDE),
        "nodes": (len(nodes) if isinstance(nodes, list) else None, _MAX_NODES),
    }
    for what, (found, most) in sizes.items():
        if found is not None and (type(found) is not int or not 0 <= found <= most):
            says = f"It describes a model with {what}={str(found)[:40]}, where {most:,} is the most"
            raise damaged(name, says)


def missing_capabilities(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """List what a model cannot do since it was saved before there was the attribute for it."""
    return tuple(what for key, what in CAPABILITIES.items() if key not in attributes)


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
    if version < 1:
        later = ("train_indices_", "validation_indices_", "history_")
        moved = {"recipe_": {}, **dict.fromkeys(later)} | moved
    if version < 2:  # calibration, novelty and profiles came while schema 1 was written
        moved = dict.fromkeys(CAPABILITIES) | moved
    if version < 3:  # an adapted model was of a class of its own
        old = {"report": "adaptation_", "batches": "batches_", "batch_key": "batch_key_"}
        adapter = {key: moved.pop(name, None) for key, name in (old | {"trust": "trust_"}).items()}
        is_adapted = adapter["report"] is not None or adapter["trust"] is not None
        moved["adapter_"] = adapter if is_adapted else None
        name = _renamed(moved["registry_"].get("model_name"))
        moved["registry_"] = {**moved["registry_"], "model_name": name}
        if options is not None:
            parameters = moved["init_params_"]
            new = options(dict(parameters["non_kwargs"]))
            moved["init_params_"] = {**parameters, "non_kwargs": new}
    return moved | {"schema_version_": SCHEMA_VERSION}


def _renamed(name: Any) -> Any:
    """Return the present name of a class."""
    return "SCHDeepInsight" if name == "AdaptedSCHDeepInsight" else name


def convert_model(
    old: str | Path, new: str | Path, *, trust: bool = False, overwrite: bool = False
) -> Any:
    """Write a saved model again, in the present schema and format.

    Parameters
    ----------
    old
        Folder of a model: of any schema, of the format ``model.safetensors`` of earlier releases,
        or with ``trust`` one that was pickled, as the ``save`` of scvi-tools' base class does.
    new
        Folder to write; it may be the same one with ``overwrite``.
    trust
        Unpickle the file where it is not plain. **That runs whatever code is in it**: only for
        files that you made yourself.
    overwrite
        Replace a model in ``new``.

    Returns
    -------
    The model, as it was written.

    Raises
    ------
    ModelFileError
        If there is no model of ours, or it needs ``trust``.
    FileExistsError
        If ``new`` holds a model and ``overwrite`` is off.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> with TemporaryDirectory() as folder:
    ...     new = Path(folder) / "pbmc"
    ...     model = convert_model(hdi.hub.download("pbmc").folder, new)
    ...     (new / "model.pt").is_file()
    True
    """
    source, target = ModelFolder(Path(old)), ModelFolder(Path(new))
    if target.holds_model and not overwrite:
        msg = f"A model exists in {target.path}. Allow overwriting, or give another folder."
        raise FileExistsError(msg)
    reference = None
    if source.file("model.safetensors").is_file() and not source.file("model.pt").exists():
        payload = _read_tensors(source)
    else:
        payload = _read(source, trust)
        reference = source.reference()
    model = class_of(payload, source.path)._from_payload(payload, None, source.path)
    model.module.eval()
    copies = {} if reference is None else {reference.name: partial(shutil.copyfile, reference)}
    target.write(model._payload(), copies)
    return model
def _read_tensors(*a): ...
def _read(*a): ...
