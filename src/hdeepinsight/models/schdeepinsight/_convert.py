"""Other formats: plain files to one another, and a pickled file of one's own to a plain one."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight.models._model_file import (
    ModelFileError,
    ModelFolder,
    ModelFormat,
    read_model,
    to_plain,
    write_model,
)
from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.models.schdeepinsight._schema import checked
from hdeepinsight.models.schdeepinsight._surgery_model import AdaptedSCHDeepInsight

__all__ = ["convert_model"]

#: scvi-tools puts it among the weights of every model.
PYRO_KEY = "pyro_param_store"

logger = logging.getLogger(__name__)


def convert_model(
    old_dir: str | Path,
    new_dir: str | Path,
    *,
    format: ModelFormat = "torch",
    trust: bool = False,
    overwrite: bool = False,
) -> SCHDeepInsight:
    """Write a saved model again, in the present schema and the given format.

    Parameters
    ----------
    old_dir
        Folder of a model: of any schema and format, or with ``trust`` one that was pickled, as
        the ``save`` of scvi-tools' base class does.
    new_dir
        Folder to write; it may be the same one with ``overwrite``.
    format
        As in :meth:`SCHDeepInsight.save`.
    trust
        Unpickle the file where it is not plain. **That runs whatever code is in it**: only for
        files that you made yourself.
    overwrite
        Replace a model in ``new_dir``.

    Returns
    -------
    The model, as it was written.

    Raises
    ------
    ModelFileError
        If there is no model of ours, or it needs ``trust``.
    FileExistsError
        If ``new_dir`` holds a model and ``overwrite`` is off.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import convert_model
    >>> with TemporaryDirectory() as folder:
    ...     new = Path(folder) / "pbmc"
    ...     model = convert_model(hdi.hub.download("pbmc").folder, new, format="safetensors")
    ...     (new / "model.safetensors").is_file()
    True
    """
    old, new = ModelFolder(Path(old_dir)), ModelFolder(Path(new_dir))
    if new.holds_model and not overwrite:
        msg = f"A model exists in {new.path}. Allow overwriting, or give another folder."
        raise FileExistsError(msg)
    payload = _read(old, trust)
    name = _class_name(payload)
    model_class = AdaptedSCHDeepInsight if name == "AdaptedSCHDeepInsight" else SCHDeepInsight
    payload = checked(payload, old.path, model_class.__name__)
    model = model_class._from_payload(payload, None, old.path)
    model.module.eval()
    reference = old.reference()
    copies = {} if reference is None else {reference.name: partial(shutil.copyfile, reference)}
    write_model(new, model._payload(), format=format, references=copies)
    return model


def _read(folder: ModelFolder, trust: bool) -> dict[str, Any]:
    try:
        return read_model(folder)
    except ModelFileError:
        path = folder.file(SAVE_KEYS.MODEL_FNAME)
        if not trust or not path.is_file():
            raise
    logger.warning("%s is unpickled, which runs whatever code is in it.", path)
    return _plain_parts(_unpickled(path), path)


def _unpickled(path: Path) -> Mapping[str, Any]:
    try:
        payload = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # whatever the code in the file raises
        msg = f"{path} could not be unpickled ({type(error).__name__}: {str(error)[:200]})."
        raise ModelFileError(f"{msg} Use the versions of the packages that wrote it.") from error
    if not isinstance(payload, Mapping):
        msg = f"{path} holds a {type(payload).__name__}, not a model. Check the path."
        raise ModelFileError(msg)
    if _class_name(payload) == "AdaptedSCHDeepInsight":
        msg = (
            f"{path} holds a pickled model of a query, whose adapters are not in the file. Valid "
            "are models of a reference. Make it anew with load_query_data."
        )
        raise ModelFileError(msg)
    return payload


def _plain_parts(payload: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Weights and attributes in plain types; what a model does not need is left out."""
    attributes = {}
    for key, value in dict(payload.get(SAVE_KEYS.ATTR_DICT_KEY) or {}).items():
        try:
            attributes[key] = to_plain(value.to_dict() if _describes_itself(value) else value)
        except TypeError as error:
            logger.warning("%s of %s is left out: %s", key, path, error)
    weights = to_plain(payload.get(SAVE_KEYS.MODEL_STATE_DICT_KEY))
    if isinstance(weights, dict):
        weights.pop(PYRO_KEY, None)
    return {SAVE_KEYS.ATTR_DICT_KEY: attributes, SAVE_KEYS.MODEL_STATE_DICT_KEY: weights}


def _describes_itself(value: Any) -> bool:
    return type(value).__module__.startswith("hdeepinsight.") and hasattr(value, "to_dict")


def _class_name(payload: Mapping[str, Any]) -> str:
    attributes = payload.get(SAVE_KEYS.ATTR_DICT_KEY)
    registry = attributes.get("registry_") if isinstance(attributes, Mapping) else None
    return str(registry.get("model_name")) if isinstance(registry, Mapping) else "nothing"
