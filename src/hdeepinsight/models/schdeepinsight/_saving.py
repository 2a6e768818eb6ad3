"""Save and load: the layout of scvi-tools, plain types only, written in one piece."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import torch
from anndata import AnnData, read_h5ad
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight._keys import REFERENCE_BUNDLE_KEY
from hdeepinsight.data import open_paired
from hdeepinsight.models._model_file import (
    ModelFileError,
    frame_from_plain,
    read_model,
    write_model,
)
from hdeepinsight.models.schdeepinsight._calibration import CalibrationMixin

SCHEMA_VERSION = 1


class SavingMixin(CalibrationMixin):
    """Models as data: nothing in a model file is ever executed."""

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
        """
        folder, prefix = Path(dir_path), prefix or ""
        path = folder / f"{prefix}{SAVE_KEYS.MODEL_FNAME}"
        if path.exists() and not overwrite:
            msg = f"{path} exists. Pass overwrite=True to replace it, or give another folder."
            raise FileExistsError(msg)
        folder.mkdir(parents=True, exist_ok=True)
        if save_anndata:
            self._save_reference(folder, prefix, anndata_write_kwargs)
        write_model(path, self._payload())

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
        """
        folder, prefix = Path(dir_path), prefix or ""
        *_, torch_device = parse_device_args(
            accelerator, device, return_device="torch", validate_single_device=True
        )
        path = folder / f"{prefix}{SAVE_KEYS.MODEL_FNAME}"
        payload = cls._read_payload(path)
        attributes = payload[SAVE_KEYS.ATTR_DICT_KEY]
        registry = attributes.pop("registry_")
        if adata is None:
            adata = _saved_reference(folder, prefix)
        attached = adata if isinstance(adata, AnnData | MuData) else None
        if attached is not None:
            set_up = getattr(cls, registry["setup_method_name"])
            set_up(attached, source_registry=registry, **registry["setup_args"])
        model = cls(attached, registry=registry, **attributes["init_params_"]["non_kwargs"])
        model._restore(attributes)
        try:
            model.module.load_state_dict(payload[SAVE_KEYS.MODEL_STATE_DICT_KEY])
        except (RuntimeError, KeyError) as error:
            found = str(error).strip().splitlines()[-1].strip()
            msg = (
                f"{path} holds weights that do not fit the model it describes ({found}), so it is "
                "damaged. Copy or download the model again."
            )
            raise ModelFileError(msg) from None
        model.to_device(torch_device)
        model.module.eval()
        return model

    def _save_reference(self, folder: Path, prefix: str, options: dict[str, Any]) -> None:
        reference: Any = self._own_adata()
        if isinstance(reference, MuData):
            reference.write_h5mu(folder / f"{prefix}{SAVE_KEYS.MDATA_FNAME}", **options)
        else:
            reference.write_h5ad(folder / f"{prefix}{SAVE_KEYS.ADATA_FNAME}", **options)

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
        """
        path = Path(dir_path) / f"{prefix or ''}{SAVE_KEYS.MODEL_FNAME}"
        payload = cls._read_payload(path)
        return dict(payload[SAVE_KEYS.ATTR_DICT_KEY]["registry_"])

    @classmethod
    def view_setup_args(cls, dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the set-up arguments of a saved model."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))

    @classmethod
    def _read_payload(cls, path: Path) -> dict[str, Any]:
        """Read a file that holds a model of this class in a schema that we know."""
        payload = read_model(path)
        attributes = payload.get(SAVE_KEYS.ATTR_DICT_KEY)
        if not isinstance(attributes, dict) or "registry_" not in attributes:
            found = ", ".join(map(str, list(payload)[:5])) or "nothing"
            msg = f"{path} is not a model of hdeepinsight: it holds {found}. Check the path."
            raise ModelFileError(msg)
        name = attributes["registry_"].get("model_name")
        if name != cls.__name__:
            msg = f"{path} holds a {name}, not a {cls.__name__}. Load it with its own class."
            raise ModelFileError(msg)
        if attributes.get("schema_version_", 0) > SCHEMA_VERSION:
            msg = (
                f"{path} has schema version {attributes['schema_version_']}; this release reads up "
                f"to {SCHEMA_VERSION}. Update hdeepinsight."
            )
            raise ModelFileError(msg)
        return payload

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


def _saved_reference(folder: Path, prefix: str) -> AnnData | MuData | None:
    """Read the reference that was saved with a model, where there is one."""
    readers = {SAVE_KEYS.ADATA_FNAME: read_h5ad, SAVE_KEYS.MDATA_FNAME: open_paired}
    for name, read in readers.items():
        path = folder / f"{prefix}{name}"
        if path.exists():
            saved = read(path)
            # A bundle of the hub holds no counts: there is nothing to train on or to annotate.
            return None if REFERENCE_BUNDLE_KEY in saved.uns else saved
    return None
