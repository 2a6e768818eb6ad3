"""Save and load: the layout of scvi-tools, plain types only, written in one piece."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight.models._base._io import ModelFileError, ModelFolder, frame_from_plain
from hdeepinsight.models._base._registry import (
    SCHEMA_VERSION,
    load_model,
    migrate,
    missing_capabilities,
    read_payload,
)
from hdeepinsight.models.schdeepinsight._calibration import CalibrationMixin

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
        folder.write(self._payload(), references)

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
        model: Self = load_model(dir_path, adata, accelerator, device, prefix, expected=cls)
        return model

    @classmethod
    def _from_payload(cls, payload: dict[str, Any], adata: Any, name: object) -> Self:
        """Build the model that a payload describes, with its weights."""
        attributes = payload[SAVE_KEYS.ATTR_DICT_KEY]
        missing = missing_capabilities(attributes)
        try:
            attributes = migrate(attributes)
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
        _, payload = read_payload(ModelFolder(Path(dir_path), prefix or ""), cls)
        return dict(payload[SAVE_KEYS.ATTR_DICT_KEY]["registry_"])

    @classmethod
    def view_setup_args(cls, dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the set-up arguments of a saved model."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))

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
