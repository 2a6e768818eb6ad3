"""The classes of saved models: which there are, what their files say, and how one is made of it."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.model._utils import parse_device_args
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight._archive import ModelFileError, damaged, parse_pair, unpickle
from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight._model_folder import OLD_FILES, ModelFolder
from hdeepinsight.data import check_file, open_paired

SCHEMA_VERSION: Final = 3
#: What a model cannot do without an attribute that older files lack.
CAPABILITIES: Final = {
    "calibration_": "conformal label sets (result.label_sets)",
    "bank_": "novelty and a verdict on the query (result.novelty, result.verdict)",
    "profiles_": "adapting to a query without its reference (load_query_data)",
}
_MAX_NODES, _MAX_SIDE, _MAX_BYTES = 100_000, 4096, 2**30

logger = logging.getLogger(__name__)

_classes: dict[str, type[Any]] = {}
_RENAMED = {"AdaptedSCHDeepInsight": "SCHDeepInsight"}


def register(cls: type[Any]) -> None:
    """Register a class of models under its name, which its files have."""
    _classes[cls.__name__] = cls


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
    models, present = import_module("hdeepinsight.models"), _RENAMED.get(name, name)
    if present in models.__all__:
        getattr(models, present)  # a class registers itself when it is imported
    if present in _classes:
        return _classes[present]
    known = ", ".join(sorted(_classes)) or "none yet"
    msg = f"There is no class of models named {str(name)[:80]!r}; there are {known}."
    raise KeyError(f"{msg} Update hdeepinsight, or load it with the package that made it.")


def load_model(
    folder: str | Path,
    adata: AnnData | MuData | bool | None = False,
    accelerator: str = "auto",
    device: int | str = "auto",
    prefix: str | None = None,
    *,
    expected: type[Any] | None = None,
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
    expected
        Class that it has to be.

    Raises
    ------
    ModelFileError
        If the folder holds no model, or a damaged or foreign one, or one of another class.
    TypeError
        If ``adata`` is something else, such as the path of a file.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> load_model(hdi.hub.download("pbmc").folder).taxonomy.n_leaves
    8
    """
    if not isinstance(adata, AnnData | MuData | bool | None):
        raise TypeError(
            f"adata must be an AnnData or MuData, None for the reference that was saved with the "
            f"model, or False for none, got a {type(adata).__name__}. Read a file first."
        )
    *_, torch_device = parse_device_args(accelerator, device, "torch", validate_single_device=True)
    place = ModelFolder(Path(folder), prefix or "")
    payload = place.read()
    cls = check_payload(payload, place.path, expected)
    if adata is None or adata is True:
        adata = _saved_reference(place)
    model = cls._from_payload(payload, None if adata is False else adata, place.path)
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


def check_payload(
    payload: Mapping[str, Any], name: object, expected: type[Any] | None = None
) -> type[Any]:
    """Return the class of the model that a payload describes.

    Parameters
    ----------
    payload
        What was read, in plain types.
    name
        Where it was read from, for the error.
    expected
        Class that it has to be.

    Raises
    ------
    ModelFileError
        If it is not a model of ours, of another class than expected, of a newer schema, or larger
        than its own weights.
    """
    attributes: Any = payload.get(SAVE_KEYS.ATTR_DICT_KEY)
    if not isinstance(_entry(attributes, "registry_"), dict):
        keys = ", ".join(map(str, list(payload)[:5]))[:200] or "nothing"
        msg = f"{name} is not a model of hdeepinsight: it holds {keys}. Check the path."
        raise ModelFileError(msg)
    found = _entry(attributes, "registry_", "model_name")
    try:
        cls = model_class(found)
    except (KeyError, TypeError):
        msg = f"{name} holds a {str(found)[:80]}, which is not a model of hdeepinsight."
        raise ModelFileError(f"{msg} Load it with its own package.") from None
    version = attributes.get("schema_version_", 0)
    if type(version) is not int or not 0 <= version <= SCHEMA_VERSION:
        msg = f"{name} has schema version {str(version)[:40]}, and this release reads up to"
        raise ModelFileError(f"{msg} {SCHEMA_VERSION}. Update hdeepinsight.")
    weights: Any = payload.get(SAVE_KEYS.MODEL_STATE_DICT_KEY)
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
    if expected is not None and cls is not expected:
        msg = f"{name} holds a {cls.__name__}, not a {expected.__name__}."
        raise ModelFileError(f"{msg} Load it with its own class, or with load_model.")
    return cls


def _entry(value: Any, *keys: str) -> Any:
    """Return what is under keys, each inside the one before; ``None`` where there is nothing."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def missing_capabilities(
    attributes: Mapping[str, Any], parts: Mapping[str, type]
) -> tuple[str, ...]:
    """List what a model cannot do since it was saved before its class had the part for it."""
    lacking = parts.keys() - attributes.keys()
    return tuple(what for key, what in CAPABILITIES.items() if key in lacking)


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
        moved["registry_"] = {**registry, "model_name": _RENAMED.get(name, name)}
        if options is not None:
            new = options(dict(parameters["non_kwargs"]))
            moved["init_params_"] = {**parameters, "non_kwargs": new}
    return moved | {"schema_version_": SCHEMA_VERSION}


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
    payload = _read(source, trust)
    model = check_payload(payload, source.path)._from_payload(payload, None, source.path)
    model.module.eval()
    reference = source.reference()
    copies = {} if reference is None else {reference.name: partial(shutil.copyfile, reference)}
    target.write(model._payload(), copies)
    for name in OLD_FILES:
        target.file(name).unlink(missing_ok=True)
    return model


def _read(folder: ModelFolder, trust: bool) -> dict[str, Any]:
    path = folder.file(SAVE_KEYS.MODEL_FNAME)
    try:
        return folder.read()
    except ModelFileError:
        if folder.file(OLD_FILES[0]).exists() and not path.exists():
            description, weights = (folder.content(n, _MAX_BYTES) or b"" for n in OLD_FILES)
            return parse_pair(description, weights, folder.path)
        if not trust or not path.is_file():
            raise
    payload = unpickle(path)
    attributes = payload.get(SAVE_KEYS.ATTR_DICT_KEY, {})
    name = _entry(attributes, "registry_", "model_name")
    if name == "AdaptedSCHDeepInsight" or attributes.get("adapter_") is not None:
        msg = f"{path} holds a pickled model of a query, whose adapters are not in the file."
        raise ModelFileError(f"{msg} Make it anew with load_query_data.")
    # scvi-tools puts it among the weights of every model
    payload.get(SAVE_KEYS.MODEL_STATE_DICT_KEY, {}).pop("pyro_param_store", None)
    return payload
