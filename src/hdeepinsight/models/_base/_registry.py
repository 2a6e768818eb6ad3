"""Registry of model classes; loading and conversion of saved models of any class."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.model._utils import parse_device_args

from hdeepinsight._archive import ModelFileError
from hdeepinsight._errors import invalid
from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight._model_folder import ModelFolder
from hdeepinsight.data import check_file, is_paired, open_paired
from hdeepinsight.models._base._schema import RENAMED, check_payload, class_name
from hdeepinsight.models._base._training import check_accelerator

_classes: dict[str, type[Any]] = {}


def register(cls: type[Any]) -> None:
    """Register a model class under its name."""
    _classes[cls.__name__] = cls


def model_class(name: str) -> type[Any]:
    """Return the model class with a name.

    Parameters
    ----------
    name
        Class name, stored in the registry of a model as ``"model_name"``.

    Raises
    ------
    KeyError
        If there is no such class.

    Examples
    --------
    >>> model_class("SCHDeepInsight").__name__
    'SCHDeepInsight'
    """
    models, present = import_module("hdeepinsight.models"), RENAMED.get(name, name)
    if present in models.__all__:
        getattr(models, present)  # a class registers itself when it is imported
    if present in _classes:
        return _classes[present]
    known = ", ".join(sorted(_classes)) or "none"
    msg = f"Model class must be one of {known}, got {str(name)[:80]!r}."
    raise KeyError(f"{msg} Update hdeepinsight, or load it with the package that saved it.")


def class_of(
    payload: Mapping[str, Any], name: object, expected: type[Any] | None = None
) -> type[Any]:
    """Return the model class of the content of a model file.

    Parameters
    ----------
    payload
        Content of the file, in plain types.
    name
        Name of the file, for the error.
    expected
        Required class; any by default.

    Raises
    ------
    ModelFileError
        If it is not a model of this package, or not of the expected class.
    """
    found = class_name(payload, name)
    try:
        cls = model_class(found)
    except KeyError:
        msg = f"{name} holds a {found[:80]}, which is not a model of hdeepinsight."
        raise ModelFileError(f"{msg} Load it with the package that saved it.") from None
    check_payload(payload, name)
    if expected is not None and cls is not expected:
        msg = f"{name} holds a {cls.__name__}, not a {expected.__name__}."
        raise ModelFileError(f"{msg} Load it with {cls.__name__}.load or load_model.")
    return cls


def load_model(
    folder: str | Path,
    adata: AnnData | MuData | bool | None = False,
    accelerator: str = "auto",
    device: int | str = "auto",
    prefix: str | None = None,
    *,
    expected: type[Any] | None = None,
) -> Any:
    """Load a saved model of any class; files that contain code are rejected without running it.

    Parameters
    ----------
    folder
        Folder written by ``save``.
    adata
        Reference to attach; ``None`` or ``True`` for the one saved with the model, if any.
        ``False`` attaches none, which is enough to annotate.
    accelerator, device
        Device of the model, as in scvi-tools.
    prefix
        As in ``save``.
    expected
        Required class; any by default.

    Raises
    ------
    ModelFileError
        If the folder holds no model, a damaged one, or one of another package or class.
    TypeError
        If ``adata`` is anything else, such as a path.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> load_model(hdi.hub.download("pbmc").folder).taxonomy.n_leaves
    8
    """
    if not isinstance(adata, AnnData | MuData | bool | None):
        raise TypeError(
            f"adata must be an AnnData or MuData, None for the reference that was saved with the "
            f"model, or False for none, got a {type(adata).__name__}. Read files first."
        )
    check_accelerator(accelerator)
    if device != "auto" and not isinstance(device, int):
        raise invalid("device", device, "'auto' or the index of a device", "Omit it for the best.")
    *_, chosen = parse_device_args(accelerator, device, "torch", validate_single_device=True)
    place = ModelFolder(Path(folder), prefix or "")
    payload = place.read()
    cls = class_of(payload, place.path, expected)
    if adata is None or adata is True:
        adata = _saved_reference(place)
    model = cls._from_payload(payload, None if adata is False else adata, place.path)
    model.to_device(chosen)
    model.module.eval()
    return model


def _saved_reference(folder: ModelFolder) -> AnnData | MuData | None:
    """Read the reference saved with a model, if any."""
    path = folder.reference()
    if path is None:
        return None
    try:
        check_file(path)
        saved = open_paired(path) if is_paired(path) else read_h5ad(path)
    except Exception as error:  # h5py, zarr and anndata raise many kinds of errors
        msg = f"{path}, the reference saved with the model, cannot be read ({str(error)[:200]})."
        raise ModelFileError(f"{msg} Pass adata=False to load the model without it.") from error
    # The AnnData in a bundle of the scvi hub has no counts.
    return None if REFERENCE_BUNDLE_KEY in saved.uns else saved


def convert_model(old: str | Path, new: str | Path, *, overwrite: bool = False) -> Any:
    """Convert a saved model of an earlier release to the present schema.

    Parameters
    ----------
    old
        Folder of a model of any schema.
    new
        Folder to write; may equal ``old`` with ``overwrite``.
    overwrite
        Replace an existing model in ``new``.

    Returns
    -------
    The converted model.

    Raises
    ------
    ModelFileError
        If ``old`` holds no model of this package.
    FileExistsError
        If ``new`` holds a model and ``overwrite`` is ``False``.

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
    model = load_model(old, None, accelerator="cpu")
    model.save(new, overwrite=overwrite, save_anndata=model.adata is not None)
    return model
