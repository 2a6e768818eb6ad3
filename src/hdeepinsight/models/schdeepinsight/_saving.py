"""Save and load: the layout of scvi-tools, plain types only, written in one piece."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.data import check_file, open_paired
from hdeepinsight.models._model_file import (
    ModelFileError,
    ModelFolder,
    ModelFormat,
    frame_from_plain,
    read_model,
    write_model,
)
from hdeepinsight.models.schdeepinsight._calibration import CalibrationMixin
from hdeepinsight.models.schdeepinsight._schema import (
    SCHEMA_VERSION,
    checked,
    migrated,
    missing_capabilities,
)

logger = logging.getLogger(__name__)


class SavingMixin(CalibrationMixin):
    """Models as data: nothing in a model file is ever executed."""

    missing_capabilities_: tuple[str, ...] = ()

    @property
    def missing_capabilities(self) -> tuple[str, ...]:
        """What this model cannot do since an older release saved it; mostly nothing."""
        return self.missing_capabilities_

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        *,
        overwrite: bool = False,
        save_anndata: bool = False,
        format: ModelFormat = "torch",
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model to a folder.

        Parameters
        ----------
        dir_path
            Folder, made where it does not exist.
        prefix
            Put before the names of the files.
        overwrite
            Replace a model that is there already. The old one stays whole until the new one is
            completely written.
        save_anndata
            Save the reference too, as ``adata.h5ad`` or ``mdata.h5mu``.
        format
            ``"torch"`` writes ``model.pt``, as scvi-tools does and its hub needs;
            ``"safetensors"`` writes ``model.safetensors``, whose weights any tool reads, and
            everything else to ``model.json``. :meth:`load` takes either.
        **anndata_write_kwargs
            Passed to :meth:`anndata.AnnData.write_h5ad`, or its equal for a MuData.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is off.
        OSError
            If the disk is full or cannot be written.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import hdeepinsight as hdi
        >>> model = hdi.hub.pull("pbmc")
        >>> with TemporaryDirectory() as folder:
        ...     model.save(Path(folder) / "pbmc")
        ...     hdi.SCHDeepInsight.load(
        ...         Path(folder) / "pbmc", adata=False
        ...     ).taxonomy == model.taxonomy
        True

        Notes
        -----
        ``manifest.json`` beside the model lists sizes and SHA-256 checksums, which :meth:`load`
        compares before it parses anything. A process that is killed while it saves leaves the old
        model or the new one.
        """
        folder = ModelFolder(Path(dir_path), prefix or "")
        if folder.holds_model and not overwrite:
            msg = (
                f"A model exists in {folder.path}. Pass overwrite=True to replace it, or give "
                "another folder."
            )
            raise FileExistsError(msg)
        references = self._reference_writers(anndata_write_kwargs) if save_anndata else {}
        write_model(folder, self._payload(), format=format, references=references)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
    ) -> Self:
        """Load a model; code in the file, if any, is refused and never run.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Reference to attach. By default the one saved with the model, where there is one;
            ``False`` attaches none. Annotating needs none.
        accelerator, device
            Where the model lives, as in scvi-tools.
        prefix
            As given to :meth:`save`.

        Raises
        ------
        ModelFileError
            If the folder holds no model, or a damaged or foreign one.
        TypeError
            If ``adata`` is something else, such as the path of a file.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> folder = hdi.hub.download("pbmc").folder  # or that of a model that you saved
        >>> hdi.SCHDeepInsight.load(folder, adata=False).taxonomy.n_leaves
        8
        """
        if not isinstance(adata, AnnData | MuData | bool | None):
            msg = (
                f"adata is a {type(adata).__name__}. Valid are an AnnData or MuData, None for the "
                "reference that was saved with the model, and False for none. Read a file first."
            )
            raise TypeError(msg)
        *_, torch_device = parse_device_args(
            accelerator, device, return_device="torch", validate_single_device=True
        )
        folder = ModelFolder(Path(dir_path), prefix or "")
        payload = cls._read_payload(folder)
        if adata is None or adata is True:
            adata = _saved_reference(folder)
        attached = adata if isinstance(adata, AnnData | MuData) else None
        model = cls._from_payload(payload, attached, folder.path)
        model.to_device(torch_device)
        model.module.eval()
        return model

    @classmethod
    def _from_payload(cls, payload: dict[str, Any], adata: Any, name: object) -> Self:
        """Build the model that a payload describes, with its weights."""
        attributes = payload[SAVE_KEYS.ATTR_DICT_KEY]
        missing = missing_capabilities(attributes)
        try:
            attributes = migrated(attributes)
            registry = attributes.pop("registry_")
            if adata is None:
                model = cls._built(None, registry, attributes)
        except (TypeError, LookupError, ValueError, AttributeError, RuntimeError) as error:
            raise _does_not_fit(name, "settings", error) from None
        if adata is not None:  # what is wrong is then more likely with the data that was passed
            setup_method(cls, registry)(adata, source_registry=registry, **registry["setup_args"])
            model = cls._built(adata, registry, attributes)
        try:
            model.module.load_state_dict(payload[SAVE_KEYS.MODEL_STATE_DICT_KEY])
        except (RuntimeError, KeyError) as error:
            raise _does_not_fit(name, "weights", error) from None
        model._tell_what_is_missing(missing)
        return model

    @classmethod
    def _built(cls, adata: Any, registry: dict[str, Any], attributes: dict[str, Any]) -> Self:
        model = cls(adata, registry=registry, **attributes["init_params_"]["non_kwargs"])
        model._restore(attributes)
        return model

    def _tell_what_is_missing(self, missing: tuple[str, ...]) -> None:
        self.missing_capabilities_ = missing
        if missing:
            logger.warning(
                "This model was saved by an older release and lacks %s. Train and save it again "
                "to have them; all else works.",
                "; ".join(missing),
            )

    def _reference_writers(self, options: dict[str, Any]) -> dict[str, Callable[[Path], None]]:
        reference: Any = self._own_adata()
        if isinstance(reference, MuData):
            return {SAVE_KEYS.MDATA_FNAME: lambda path: reference.write_h5mu(path, **options)}
        return {SAVE_KEYS.ADATA_FNAME: lambda path: reference.write_h5ad(path, **options)}

    @classmethod
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Read the registry of a saved model, as safely as :meth:`load` does.

        Parameters
        ----------
        dir_path, prefix
            As given to :meth:`save`.

        Returns
        -------
        Set-up arguments and registered fields, in plain types.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> folder = hdi.hub.download("pbmc").folder
        >>> hdi.SCHDeepInsight.load_registry(folder)["model_name"]
        'SCHDeepInsight'
        """
        payload = cls._read_payload(ModelFolder(Path(dir_path), prefix or ""))
        return dict(payload[SAVE_KEYS.ATTR_DICT_KEY]["registry_"])

    @classmethod
    def view_setup_args(cls, dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the set-up arguments of a saved model."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))

    @classmethod
    def _read_payload(cls, folder: ModelFolder) -> dict[str, Any]:
        """Read a model of this class in a schema that we know."""
        return checked(read_model(folder), folder.path, cls.__name__)

    def _payload(self) -> dict[str, Any]:
        attributes = {
            "registry_": self.registry_,
            "init_params_": self.init_params_,
            "schema_version_": SCHEMA_VERSION,
            "is_trained_": self.is_trained_,
            "train_indices_": self.train_indices_,
            "validation_indices_": self.validation_indices_,
            "history_": self.history_,
            "recipe_": self.recipe_,
            **self._confidence_payload(),
        }
        return {
            SAVE_KEYS.MODEL_STATE_DICT_KEY: self.module.state_dict(),
            SAVE_KEYS.VAR_NAMES_KEY: list(self.layout.genes),
            SAVE_KEYS.ATTR_DICT_KEY: attributes,
        }

    def _restore(self, attributes: dict[str, Any]) -> None:
        """Set what :meth:`_payload` stored, in its original types."""
        self.is_trained_ = attributes["is_trained_"]
        self.recipe_ = attributes["recipe_"]
        for name in ("train_indices_", "validation_indices_"):
            value = attributes[name]
            setattr(self, name, value.numpy() if isinstance(value, torch.Tensor) else value)
        self._restore_confidence(attributes)
        history = attributes["history_"]
        self.history_ = history and {key: frame_from_plain(t) for key, t in history.items()}


def setup_method(model_class: type, registry: dict[str, Any]) -> Callable[..., None]:
    """Return the method that registered the reference; a file may name no other than these."""
    name = registry["setup_method_name"]
    if name not in ("setup_anndata", "setup_mudata"):
        msg = f"The model names the set-up method {str(name)[:80]!r}, so its file is damaged."
        raise ModelFileError(f"{msg} Copy or download the model again.")
    method: Callable[..., None] = getattr(model_class, name)
    return method


def _does_not_fit(name: object, what: str, error: Exception) -> ModelFileError:
    found = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:300]
    return ModelFileError(
        f"{name} holds {what} that do not fit the model it describes ({found}), so it is damaged. "
        "Copy or download the model again."
    )


def _saved_reference(folder: ModelFolder) -> AnnData | MuData | None:
    """Read the reference that was saved with a model, where there is one."""
    path = folder.reference()
    if path is None:
        return None
    try:
        check_file(path)
        saved = open_paired(path) if path.name.endswith(SAVE_KEYS.MDATA_FNAME) else read_h5ad(path)
    except Exception as error:  # what the libraries raise about odd files is open
        msg = (
            f"{path}, the reference beside the model, cannot be read ({str(error)[:200]}). Valid "
            "is what save(save_anndata=True) wrote. Pass adata=False to load the model without it."
        )
        raise ModelFileError(msg) from error
    # A bundle of the hub holds no counts: there is nothing to train on or to annotate.
    return None if REFERENCE_BUNDLE_KEY in saved.uns else saved
