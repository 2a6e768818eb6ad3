"""Base class of all models of raw counts: set-up, data loaders, training, saving and loading."""

from __future__ import annotations

import hashlib
import os
import platform
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401 - scvi-tools uses it without importing it
import torch
from anndata import AnnData
from mudata import MuData
from scvi import settings
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader, DataSplitter
from scvi.model.base import BaseModelClass

from hdeepinsight import data
from hdeepinsight._archive import UNFIT, damaged, damaged_if_unfit, frame_from_plain
from hdeepinsight._errors import batch_column, check_choice, check_integer, check_keywords, counted
from hdeepinsight._keys import SAVE_KEYS
from hdeepinsight._model_folder import REFERENCE_FILES, ModelFolder, bundled_folders
from hdeepinsight._progress import quiet_trainer
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base import _registry as classes
from hdeepinsight.models._base import _schema as schema
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._plan import OneCyclePlan, Prepared
from hdeepinsight.models._base._registration import BATCH, LABELS, PANEL
from hdeepinsight.models._base._setup import PANEL_KEY, Setup, as_label_keys, resolve_cells
from hdeepinsight.models._base._training import LOADING, SPLITTING

#: Attributes with hashes of held-out and of unused cells.
HASHES = "held_out_", "left_out_"
#: Arguments of ``DataSplitter`` that :meth:`CountModel.train` does not set itself.
SPLITTER_OPTIONS = (
    *("external_indexing", "num_workers", "drop_last", "pin_memory", "persistent_workers"),
    *("prefetch_factor", "load_sparse_tensor", "multiprocessing_context", "timeout", "generator"),
    *("worker_init_fn", "drop_dataset_tail", "in_order"),
)
#: Methods of scvi-tools' base class that do not apply to these models.
NOT_SUPPORTED = {
    *("convert_legacy_save", "deregister_manager", "register_manager", "transfer_fields"),
    *("differential_abundance", "get_normalized_expression", "get_normalized_function_name"),
    *("setup_annbatch", "setup_datamodule", "update_setup_method_args"),
}
RECORDED_PACKAGES = ("hdeepinsight", "scvi-tools", "torch", "lightning", "anndata", "numpy")


class CountModel(BaseModelClass):  # type: ignore[misc]
    """Model of raw counts that uses scvi-tools' loaders, splitters and training plans.

    A subclass builds its module in ``__init__`` after ``_read_genes``; it inherits set-up,
    training, saving and loading. The user's object is never modified: scvi-tools registers a
    shell AnnData that shares its matrix.

    Parameters
    ----------
    adata
        Reference that was registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model or of a datamodule; required without ``adata``.
    seed
        Seed of the initial weights, the split and the training; ``scvi.settings.seed`` by default,
        or 0 if that is not set.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import CountModel
    >>> model = hdi.hub.pull("pbmc")
    >>> isinstance(model, CountModel), len(model.genes)
    (True, 2048)
    """

    _training_plan_cls: ClassVar[type] = OneCyclePlan
    #: Attributes that are saved with the model, with their class, which has to_dict and from_dict.
    _saved_objects: ClassVar[Mapping[str, type]] = {}
    #: Attributes of plain types that are saved with the model.
    _saved_values: ClassVar[tuple[str, ...]] = ()
    #: Metric that early stopping monitors.
    _monitor: ClassVar[str] = "validation_loss"
    module: Any
    adapter_: Any = None
    recipe_: dict[str, Any]
    #: Hashes of the cells that were held out in training, and of those that were not used at all.
    held_out_: np.ndarray | None = None
    left_out_: np.ndarray | None = None
    _labels_required: ClassVar[bool] = False
    #: Class-specific arguments of :meth:`train`, passed to ``_prepare``.
    _train_options: ClassVar[tuple[str, ...]] = ()
    #: Default number of optimiser steps, and bounds of the number of epochs and the batch size.
    _default_steps: ClassVar[int] = 1200
    _epoch_bounds: ClassVar[tuple[int, int]] = (5, 400)
    _batch_size_bounds: ClassVar[tuple[int, int]] = (16, 128)
    #: Default share of training cells; ``None`` holds out 10 % of the cells.
    _default_train_size: ClassVar[float | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        classes.register(cls)

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        if adata is None and "field_registries" not in (registry or {}):
            msg = f"{type(self).__name__} needs a reference or a registry, got neither."
            hint = "Pass an AnnData that was set up with setup_anndata, or a datamodule's registry."
            raise ValueError(f"{msg} {hint}")
        check_integer("seed", seed, 0, optional=True)
        if adata is not None:
            training.refuse_unused({"registry": registry}, "with a reference")
            registration.registration_of(type(self), adata)  # raises for other objects
        super().__init__(adata, registry and {**registry, "model_name": type(self).__name__})
        self.seed = seed if seed is not None else int(settings.seed or 0)
        self.recipe_ = {}

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        labels_key: str | None = None,
        labels_keys: Sequence[str] | None = None,
        batch_key: str | None = None,
        panel_key: str | None = None,
        unlabeled_category: str = "Unknown",
        source_registry: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Register a reference without modifying it.

        Parameters
        ----------
        adata
            Reference with raw counts, shape ``(n_obs, n_vars)``.
        layer
            Layer with the counts; ``X`` by default.
        labels_key
            Column of ``obs`` with labels. They may be at different levels of the taxonomy: a cell
            labelled at an inner node is used in training down to that node.
        labels_keys
            One label column per level, from coarse to fine, instead of ``labels_key``.
        batch_key
            Column of ``obs`` with the batch (donor, study) of each cell. The differences between
            batches are used later to decide whether a query needs adaptation.
        panel_key
            Column of ``obs`` with the gene panel (study, assay) of each cell, for datasets with
            different genes that were joined with ``anndata.concat(join="outer")``. A gene without a
            count in any cell of a panel is then not measured in it, instead of 0. By default all
            genes were measured in all cells.
        unlabeled_category
            Label of unlabelled cells. Missing values and words such as "unassigned" are treated
            the same way.
        source_registry
            Registry of a saved model, used when the model is loaded with a new reference.
        **others
            Other arguments are refused.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column is missing.
        TypeError
            If ``adata`` is not an AnnData, or for other arguments.
        ValueError
            If not exactly one of ``labels_key`` and ``labels_keys`` is given, or ``adata`` is a
            view of another object.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> hdi.SCHDeepInsight(reference, layout="random").taxonomy.level_names
        ('lineage', 'cell_type')
        """
        given = dict(locals())
        if panel_key is None:
            del given["panel_key"]  # as in the files of earlier releases
        keys = as_label_keys(labels_key, labels_keys, required=cls._labels_required)
        is_given = not keys and unlabeled_category != "Unknown"
        training.refuse_unused({"unlabeled_category": is_given}, "without a label column")
        if labels_keys is not None:
            given["labels_keys"] = keys  # a list, which can be saved
        cls._set_up(given)

    @classmethod
    def _set_up(cls, given: dict[str, Any]) -> None:
        """Register an AnnData with the arguments of its set-up."""
        adata, setup = given["adata"], cls._setup_of(given, "setup_anndata")
        one = "setup_anndata on one modality, such as mdata.mod['rna']"
        other = "setup_mudata" if hasattr(cls, "setup_mudata") else one
        registration.check_reference(adata, AnnData, other)
        source = data.open_counts(adata, layer=setup.layer, arguments={"layer": "layer"})
        registration.register(cls, adata, source, adata.obs, setup)

    @classmethod
    def _setup_of(cls, given: dict[str, Any], method: str) -> Setup:
        """Return the arguments of a set-up method; raise ``TypeError`` for those of others."""
        others, own = given.pop("others", ()), {"adata", "mdata", "source_registry", "others"}
        known = [name for name in signature(getattr(cls, method)).parameters if name not in own]
        hint = "Omit the others; the model does not account for further columns."
        if "batch_key" in known:
            hint = "Omit the others; join covariates, such as donor and assay, to one column"
            hint += " for batch_key."
        check_keywords(f"{cls.__name__}.{method}()", others, known, hint)
        return Setup(**cls._get_setup_method_args(**given))

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: Any, required: bool = False) -> AnnDataManager:
        return registration.registration_of(cls, adata).manager

    @property
    def adata(self) -> Any:
        """Attached reference, or ``None``."""
        return self._adata

    @adata.setter
    def adata(self, adata: Any) -> None:
        if not isinstance(adata, AnnData | MuData):
            msg = (
                f"adata must be an AnnData or MuData, got an object of {type(adata).__name__}. Read"
            )
            raise TypeError(f"{msg} files first, or load the model with adata=False to omit it.")
        manager = self._manager_of(adata)
        self._adata, self._adata_manager = adata, manager
        self._find_parts()

    def view_anndata_setup(self, adata: Any = None, hide_state_registries: bool = False) -> None:
        """Print the registry of the model or of another object."""
        manager = self.get_anndata_manager(adata)
        if manager is not None:
            manager.view_registry(hide_state_registries=hide_state_registries)
        else:
            self.view_setup_method_args()

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print the registry of the model."""
        self.view_anndata_setup(None, hide_state_registries)

    def deregister_manager(self, adata: Any = None) -> None:
        """Do nothing: managers are stored on the model, not in a global table."""

    @classmethod
    def view_setup_args(cls, dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the set-up arguments of a saved model; no code in its files is run."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))

    @classmethod
    def convert_legacy_save(cls, *_: Any, **__: Any) -> None:
        """Raise an error: models of earlier releases are converted by another function."""
        msg = f"{cls.__name__} models were never saved in the format of scvi-tools before 0.15."
        raise NotImplementedError(f"{msg} Use hdeepinsight.models.convert_model.")

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        """Do nothing: the manager is an attribute of the model."""

    def _record_options(self, given: dict[str, Any], **plain: Any) -> dict[str, Any]:
        """Record the options of the constructor for the model file, with the seed that is used.

        ``plain`` are options as plain types. Returns the options.
        """
        self.init_params_ = self._get_init_params(given)
        options: dict[str, Any] = self.init_params_["non_kwargs"]
        options |= {**plain, "seed": self.seed}
        return options

    def _build_module(self, *sizes: Any, **options: Any) -> None:
        """Build the module with reproducible weights."""
        with training.seeded(self.seed):
            self.module = self._module_cls(*sizes, **options)

    def _registration(self) -> registration.Registration:
        return registration.registration_of(type(self), self.adata)

    def _read_genes(
        self, genes: Sequence[str] | None = None, obsm: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Restrict the loaders to these genes of the reference, in this order; all by default."""
        known = self._registration()
        genes = known.genes if genes is None else genes
        manager = registration.with_genes(known, genes, self._setup, obsm)
        self._adata_manager, self.registry_ = manager, dict(manager.registry)
        self.summary_stats = manager.summary_stats

    @property
    def recipe(self) -> dict[str, Any]:
        """Data summary, settings and package versions of the training, in plain types."""
        return dict(self.recipe_)

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the model, in order."""
        fields = self.registry_["field_registries"]
        return tuple(map(str, fields["X"]["state_registry"]["column_names"]))

    @property
    def summary_string(self) -> str:
        """Summary of the model."""
        return repr(self)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in NOT_SUPPORTED]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self.genes):,} genes\n{self._training_state()}"

    def _training_state(self) -> str:
        """Return the numbers of training and held-out cells and the adaptation, as text."""
        if not self.is_trained_:
            return f"not trained, {self.summary_stats.n_cells:,} cells registered"
        trained = self.recipe_.get("n_cells", 0) - self.recipe_.get("n_held_out", 0)
        held_out = self.recipe_.get("n_held_out") or "no"
        text = f"trained on {trained:,} cells, {held_out} cells held out"
        if self.adapter_ is not None and (report := self.adapter_.report) is not None:
            is_applied = "adapted" if self.adapter_.is_applied else "not adapted"
            text += f"; {is_applied} to {report.n_cells:,} query cells"
        return text

    @property
    def _setup(self) -> Setup:
        return Setup.of(self.registry_)

    def _resolve_adata(self, data: Any) -> Any:
        """Return the given object, read if it is a MuData file; the reference by default."""
        return resolve_cells(data, self.adata)

    def open(
        self,
        query: Any = None,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        scale: data.ScaleMode = "auto",
        fold_case: bool = False,
        indices: Sequence[int] | None = None,
    ) -> data.AlignedQuery:
        """Open, check and align a query once, to pass it to several methods.

        Parameters
        ----------
        query
            AnnData (in memory or backed), MuData, or path of an h5ad, zarr or h5mu file, with raw
            counts and gene names. No set-up is needed. The registered reference by default.
        layer
            Layer with the counts. By default the layer that the reference was registered with, if
            the query has it, else ``X``.
        use_raw
            Read the counts from ``raw``.
        scale
            Scale of the values; ``"auto"`` detects it, see :func:`hdeepinsight.data.open_counts`.
        fold_case
            Match gene names regardless of case. Off by default, because a mouse gene is not the
            human gene of the same name.
        indices
            Cells to read, as positions or a Boolean mask; all cells by default.

        Returns
        -------
        The aligned query, which the methods of this model accept instead of an AnnData.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model = hdi.hub.pull("pbmc")
        >>> opened = model.open(hdi.datasets.demo().query)
        >>> opened.n_obs, int(opened.measured.sum()), len(model.annotate(opened))
        (210, 263, 210)
        """
        how: Any = {"layer": layer, "use_raw": use_raw, "scale": scale, "fold_case": fold_case}
        how |= self._opening()
        return self._setup.open(self._resolve_adata(query), self.genes, indices, **how)

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: Any,
        *,
        return_reference_var_names: bool = False,
        inplace: bool = False,
    ) -> AnnData | pd.Index:
        """Return a copy of a query with exactly the genes of a model, in the same order.

        :meth:`open` and ``load_query_data`` align genes themselves; use this method for tools that
        require identical genes. Genes that the query lacks are 0 in the copy, and
        ``var["measured"]`` is ``False`` for them. ``obs``, ``obsm``, ``obsp``, ``uns``, ``raw`` and
        all layers are copied.

        Parameters
        ----------
        adata
            Query; it is not modified.
        reference_model
            Trained model, the folder of one, or the name of a bundled one.
        return_reference_var_names
            Return only the names of the model's genes, as in scvi-tools.
        inplace
            Not supported; present for compatibility with scvi-tools.

        Returns
        -------
        The copy, or the gene names.

        Raises
        ------
        GeneMatchError
            If too few genes match.
        ValueError
            If ``inplace`` is ``True``.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> padded = hdi.SCHDeepInsight.prepare_query_anndata(query, model)
        >>> padded.shape == (query.n_obs, len(model.genes))
        True
        """
        if inplace:
            msg = "inplace must be False, got True: genes that were not measured would be added to"
            raise ValueError(f"{msg} your object. Omit it, and use the returned copy.")
        model = cls._model_of(reference_model)
        if return_reference_var_names:
            return pd.Index(model.genes)
        weights = model._opening().get("weights")
        alignment = data.align_genes(adata.var, model.genes, weights=weights)
        return data.pad(adata, alignment, model.genes)

    @classmethod
    def _model_of(cls, given: Any) -> Self:
        """Return a model, loaded if its folder, or the name of a bundled one, is given."""
        if isinstance(given, str | os.PathLike):
            folder = Path(given).expanduser()
            bundled = {} if folder.is_dir() else bundled_folders()
            given = classes.load_model(bundled.get(str(given), folder), expected=cls)
        if isinstance(given, cls):
            return given
        expected = f"a trained {cls.__name__}, the folder of one, or a bundled name"
        msg = f"The reference model must be {expected}, got an object of {type(given).__name__}."
        other = type(given).__name__ if hasattr(given, "load_query_data") else ""
        hint = "Pass the query first and the model second."
        raise TypeError(f"{msg} {f'Call the method of {other}.' if other else hint}")

    def _opening(self) -> dict[str, Any]:
        """Return class-specific arguments of ``open_query``, such as gene weights."""
        return {}

    def get_anndata_manager(self, adata: Any, required: bool = False) -> AnnDataManager | None:
        """Return the scvi-tools manager of the shell AnnData of an object.

        Parameters
        ----------
        adata
            The registered reference, a shell, or any AnnData, which is then opened and aligned.
        required
            Unused: a manager is always found, or an error raised.
        """
        if adata is None or adata is self.adata:
            return self.adata_manager
        return getattr(adata, "_hdi_manager", None) or self._manager_of(adata)

    def _validate_anndata(self, adata: Any = None, copy_if_view: bool = True) -> AnnData:
        """Return the shell AnnData of an object, which the loaders read."""
        manager: Any = self.get_anndata_manager(self._resolve_adata(adata))
        shell: AnnData = manager.adata
        shell._hdi_manager = manager
        return shell

    def _make_data_loader(
        self, adata: Any = None, indices: Any = None, *args: Any, **kwargs: Any
    ) -> AnnDataLoader:
        """Return a scvi-tools loader of the cells of an object, with the genes of the model."""
        shell = self._validate_anndata(adata)
        if indices is not None:
            named = shell if adata is None else adata  # a shell numbers repeated names
            indices = data.cell_positions(indices, getattr(named, "obs_names", shell.obs_names))
        return super()._make_data_loader(shell, indices, *args, **kwargs)

    def _manager_of(self, data: Any) -> AnnDataManager:
        """Align cells that were not registered, and register a shell AnnData of them."""
        opened = self.open(data)
        obs = registration.shell_obs(opened.obs, self._setup, self.registry_)
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        extra = self._extra_arrays(opened.obs)
        shell = AnnData(opened.read(), obs=obs, var=var, obsm=extra)
        return registration.register_shell(shell, self._setup)

    def _extra_arrays(self, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return the arrays that loaders provide in addition to the counts, from ``obs``."""
        return {}

    @training.leaves_unchanged_if_interrupted
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        batch_size: int | None = None,
        early_stopping: bool = False,
        datasplitter_kwargs: dict[str, Any] | None = None,
        plan_kwargs: Mapping[str, Any] | None = None,
        datamodule: Any = None,
        *,
        split_key: str | None = None,
        checkpoint: str | Path | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the network on the reference, or fit the adapter of a query model.

        Parameters
        ----------
        max_epochs
            Number of epochs; by default as many as give about 1,200 optimiser steps, at least 5
            and at most 400.
        accelerator, devices
            As in Lightning. With several devices, each process trains on its share of the cells.
            An adapter is fitted on one device, by default the one that the model is on.
        train_size
            Share of training cells; by default all cells that are not held out. Cells in neither
            this share nor ``validation_size`` are left out (``test_indices``).
        validation_size
            Share of cells held out for the metrics in ``history`` and for calibration; 0.1 by
            default, 0 for none.
        shuffle_set_split
            Draw the held-out cells at random; otherwise hold out the first cells of each label.
        batch_size
            Cells per mini-batch; by default one eighth of the cells, at least 16 and at most 128.
        early_stopping
            Stop when the validation loss has not improved in ``early_stopping_patience`` (12)
            consecutive validations, and keep the best epoch. Off by default: the learning rate
            falls to zero over ``max_epochs``, and the last epoch was the best in our measurements.
        datasplitter_kwargs
            Passed to :class:`scvi.dataloaders.DataSplitter`, such as ``num_workers`` or
            ``external_indexing``, a list of the positions of the training and held-out cells; the
            other cells are left out (``test_indices``).
        plan_kwargs
            Passed to the training plan: ``lr`` (peak of the one-cycle learning rate, 2e-3) and
            ``weight_decay`` (1e-4). For an adapter: fields of
            :class:`~hdeepinsight.adaptation.AdaptationOptions`.
        datamodule
            External data loaders, such as scvi-tools' ``AnnbatchDataModule``, for a model that was
            created from their registry.
        split_key
            Column of ``obs`` whose groups (donors, studies) are held out as a whole. By default,
            cells of each label are held out.
        checkpoint
            Folder of a checkpoint, which is written between epochs and removed after training. A
            checkpoint of the same training is resumed and gives the same result. By default no
            checkpoint is written, and an interrupted training leaves the model unchanged.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`: ``precision``, ``callbacks``, ``logger``,
            ``enable_progress_bar``, ``early_stopping_patience``, ... A hierarchical classifier also
            accepts ``audit``: ``True`` to audit the labels first
            (:func:`hdeepinsight.tl.audit_labels`), or the result of such an audit. Training cells
            with a suspicious label are then used only down to the node that the audit supports;
            held-out cells keep their labels. Off by default: it helps with noisy labels and has
            little effect otherwise.

        Raises
        ------
        KeyError
            If ``split_key`` is not a column, or a label column was removed.
        ValueError
            If a setting is out of range or has no effect, no cell has a label, the reference was
            changed after registration, or no group of ``split_key`` can be held out.
        TypeError
            If the trainer does not accept an argument.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCHDeepInsight(reference, layout="random", n_latent=16)
        >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        >>> model.is_trained, len(model.validation_indices) > 0
        (True, True)
        """
        given, plan_kwargs = dict(locals()), training.as_options("plan_kwargs", plan_kwargs)
        if self.adapter_ is not None:
            self._train_adapter(given, plan_kwargs, trainer_kwargs)
            return
        specific = {name: trainer_kwargs.pop(name, None) for name in self._train_options}
        specific = {name: value for name, value in specific.items() if value is not None}
        training.check_names(trainer_kwargs)
        patience = trainer_kwargs.get("early_stopping_patience")
        for name in ("max_epochs", "batch_size", "early_stopping_patience"):
            check_integer(name, (given | trainer_kwargs).get(name), optional=True)
        for name in ("shuffle_set_split", "early_stopping"):
            check_choice(name, given[name], (True, False))
        loading = training.as_options("datasplitter_kwargs", datasplitter_kwargs)
        hint = "Pass sizes to train(), and devices for several processes."
        check_keywords("datasplitter_kwargs", loading, SPLITTER_OPTIONS, hint)
        is_fixed = split_key is not None and not shuffle_set_split
        training.refuse_unused({"shuffle_set_split": is_fixed}, "with split_key")
        split, share = None, 0.0
        if datamodule is not None:
            training.refuse_without_effect(given, LOADING, "with a datamodule")
            if self.adata is not None:
                msg = "train(datamodule=...) requires a model without a reference. Create one from"
                raise ValueError(f"{msg} its registry: {type(self).__name__}(registry=...).")
            n_train, n_val = training.sizes_of(datamodule)
        else:
            self._check_reference()
            how = {name: given[name] for name in SPLITTING}
            split, share = self._split(loading.pop("external_indexing", None), **how)
            n_train, n_val = len(split[0]), len(split[1])
            self._warn_of_seen_cells(split[1])
            self._warn_of_empty_cells(split[0])
            batch_size = int(batch_size or np.clip(n_train // 8, *self._batch_size_bounds))
        usual = getattr(datamodule, "batch_size", None) or self._batch_size_bounds[1]
        size = int(batch_size or usual)
        steps = max(1, -(-n_train // size))
        epochs = int(max_epochs or np.clip(round(self._default_steps / steps), *self._epoch_bounds))
        plan_args, found = self._prepare(split, datamodule, held_out_share=share, **specific)
        plan = self._training_plan_cls(self.module, *plan_args, **plan_kwargs)
        monitor = self._monitor if early_stopping else None
        options = training.trainer_options(trainer_kwargs, epochs, n_val, devices, monitor=monitor)
        settings = {"max_epochs": epochs, "batch_size": batch_size, "split_key": split_key, **found}
        settings |= {"lr": plan.lr, "weight_decay": plan.weight_decay}
        loaders = datamodule
        if datamodule is None:
            # Batch statistics of a last mini-batch of one or two cells would be unstable.
            loading.setdefault("drop_last", 0 < n_train % size < 3 and n_train > size)
            loading |= {
                "external_indexing": split,
                "batch_size": batch_size,
                "distributed_sampler": training.is_distributed(options, devices),
            }
            loaders = self._splitter(settings, **loading)
        checkpoints = None
        if checkpoint is not None:
            given = loading | options
            how = {name: given[name] for name in sorted(training.DECISIVE & set(given))}
            started = (self.init_params_, settings, early_stopping, patience, how)
            checkpoints = training.Checkpoints(checkpoint, self._fingerprint(started, split))
            options = checkpoints.added_to(options)
        options |= {"max_epochs": epochs, "accelerator": accelerator, "devices": devices}
        self._record_recipe(n_train, n_val, settings)
        if split is not None:
            digests = self._cell_digests()
            self.held_out_, self.left_out_ = (digests[part] for part in split[1:])
        self._run(plan, loaders, options)
        self._finish(plan, datamodule)
        if checkpoints is not None:
            checkpoints.path.unlink(missing_ok=True)

    def _record_recipe(self, n_train: int, n_held_out: int, settings: Mapping[str, Any]) -> None:
        """Record the cells, settings and package versions of a training, before it starts.

        Callbacks may save the model during the training.
        """
        self.recipe_ = {
            "n_cells": n_train + n_held_out,
            "n_held_out": n_held_out,
            "n_genes": len(self.genes),
            "seed": self.seed,
            **settings,
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_PACKAGES},
        }

    def _run(self, plan: Any, loaders: Any, options: Mapping[str, Any]) -> None:
        """Run a training plan."""
        training.check_accelerator(options.get("accelerator"))
        with quiet_trainer(), training.seeded(self.seed):
            runner = training.Runner(self, plan, loaders, **options)
            self.module.train()
            runner()
            self.module.float()  # precision="64-true" converts the weights
            if runner.trainer.error is not None:
                raise runner.trainer.error
            if not runner.trainer.global_step:
                msg = "The training took no optimiser step. Raise max_epochs, or omit the trainer"
                raise ValueError(f"{msg} settings that end it at once.")
            training.check_finite(self.module)

    def _check_reference(self) -> None:
        """Raise an error without a reference, or if it was changed after registration."""
        own, setup = self._resolve_adata(None), self._setup
        x = None
        if not data.is_paired(own):
            has_layer = setup.layer in own.layers  # X of a file without one raises an error
            x = own.layers[setup.layer] if has_layer else own.X
        obs, keys = setup.obs_of(own), setup.labels_keys
        registration.check_unchanged(self.adata_manager, obs, x, keys)
        rna: Any = setup.modalities.rna_of(own) if data.is_paired(own) else own
        lacking = ~data.align_genes(rna.var, self.genes, warn_coverage=0).measured
        if lacking.any() and not self.adata_manager.adata.X[:, lacking].nnz:
            msg = f"The attached reference lacks {lacking.sum():,} of the model's {len(lacking):,}"
            hint = "which would be trained as zeros. Create a new model from it."
            raise ValueError(f"{msg} genes, {hint}")

    def _split(
        self,
        parts: Any = None,
        *,
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        split_key: str | None = None,
    ) -> tuple[list[np.ndarray], float]:
        """Return training, held-out and unused cells, and the share that was to be held out."""
        if parts is not None:
            training.refuse_without_effect(locals(), SPLITTING, "with external_indexing")
            return data.given_split(parts, self.summary_stats.n_cells), 0.0
        if (train_size, validation_size, split_key) == (None, None, None):
            train_size = self._default_train_size
        groups, rng = self._groups(split_key), np.random.default_rng(self.seed)
        obs = self.adata_manager.adata.obs
        labels = obs.get(LABELS, pd.Series(1, index=obs.index)).to_numpy()
        sizes = train_size, validation_size
        split = data.split_three(labels, *sizes, rng, groups=groups, shuffle=shuffle_set_split)
        rest = 0.1 if train_size is None else 1 - train_size
        share = rest if validation_size is None else validation_size
        unused = not (shuffle_set_split or share) and len(split[0]) == len(labels)
        training.refuse_unused({"shuffle_set_split": unused}, "because no cells are held out")
        return split, share

    def _warn_of_seen_cells(self, held_out: np.ndarray) -> None:
        """Warn if an earlier training used cells that are now held out."""
        seen = np.intersect1d(held_out, () if self.train_indices_ is None else self.train_indices_)
        if self.is_trained_ and len(seen):
            warnings.warn(
                f"{len(seen):,} of {counted(len(held_out), 'held-out cell')} may have been used in "
                "an earlier training of this model, so that scores on them are too high. Create a "
                "new model, or hold out the same cells again: external_indexing in "
                "datasplitter_kwargs takes [model.train_indices, model.validation_indices].",
                UserWarning,
                stacklevel=4,  # the caller of train
            )

    def _warn_of_empty_cells(self, train: np.ndarray) -> None:
        """Warn if many training cells have no counts."""
        n_empty = int((np.diff(self.adata_manager.adata.X.indptr)[train] == 0).sum())
        if n_empty > 0.1 * len(train):
            msg = f"{n_empty:,} of {counted(len(train), 'training cell')} have no counts of the"
            hint = "Remove them, or check how the reference was read."
            warnings.warn(f"{msg} model's genes. {hint}", UserWarning, stacklevel=5)

    def _splitter(self, settings: Mapping[str, Any], **loading: Any) -> DataSplitter:
        """Return the data loaders; a subclass may record ``settings`` in the recipe."""
        return DataSplitter(self.adata_manager, **loading)

    def _prepare(self, split: list[np.ndarray] | None, datamodule: Any, **options: Any) -> Prepared:
        """Return further arguments of the training plan, and settings for the recipe."""
        return (), {}

    def _fingerprint(self, settings: object, split: list[np.ndarray] | None) -> str:
        """Compute the SHA-256 of the initial state of a training: weights, data and settings."""
        arrays = [t.detach().cpu().numpy() for t in self.module.state_dict().values()]
        if split is not None:
            shell = self.adata_manager.adata
            arrays += [shell.X.data, shell.X.indices, shell.X.indptr, split[0]]
            codes = (LABELS, BATCH, PANEL)
            arrays += [shell.obs[name].to_numpy() for name in codes if name in shell.obs]
        digest = hashlib.sha256(repr(settings).encode())
        for array in arrays:
            flat: Any = np.ascontiguousarray(array).reshape(-1)
            digest.update(flat.view(np.uint8))
        return digest.hexdigest()

    def _finish(self, plan: Any, datamodule: Any) -> None:
        """Complete a training; nothing to do by default."""

    def _cell_digests(self) -> np.ndarray:
        """Return a hash of each cell of the attached reference."""
        shell = self.adata_manager.adata
        return data.name_digests(self.adata.obs_names, shell.X, shell.var_names)

    def _are_among(self, *parts: Any) -> list[np.ndarray]:
        """Return for each set of hashes whether it has each cell of the attached reference."""
        digests = self._cell_digests()
        found = [np.isin(digests, part) for part in parts]
        if not any(own.any() for own in found):  # earlier releases hashed names only
            digests = data.name_digests(self.adata.obs_names)
            found = [np.isin(digests, part) for part in parts]
        return found

    def _find_parts(self) -> None:
        """Find the training, held-out and unused cells in the attached reference."""
        if self.adata is not None and self.held_out_ is not None:
            parts = self.held_out_, () if self.left_out_ is None else self.left_out_
            held_out, left_out = self._are_among(*parts)
            if self.left_out_ is None and (unused := vars(self)["test_indices_"]) is not None:
                # Earlier releases stored the positions of unused cells only.
                left_out = np.isin(np.arange(len(held_out)), unused)
            is_known = held_out.any() or not len(self.held_out_)  # else it is another reference
            self.validation_indices_ = np.flatnonzero(held_out)
            self.test_indices_ = np.flatnonzero(left_out)
            self.train_indices_ = np.flatnonzero(is_known & ~held_out & ~left_out)

    def _groups(self, key: str | None) -> np.ndarray | None:
        """Return a column of the reference as text, or ``None`` without a ``key``."""
        if key is None:
            return None
        obs = self._setup.obs_of(self._resolve_adata(None), kind="batch")
        groups: np.ndarray = batch_column(obs, key).astype(str).to_numpy()
        return groups

    def _held_out(self) -> AnnData | MuData:
        """Return the held-out cells of the attached reference, matched by name."""
        reference = self._resolve_adata(None)
        if self.held_out_ is None or not len(self.held_out_):
            msg = "No cells were held out in training, so there is nothing to evaluate. Pass"
            hint = "labelled cells that were not used in it, or train with a larger validation_size"
            raise ValueError(f"{msg} {hint}.")
        rows = np.flatnonzero(self._are_among(self.held_out_)[0])
        if len(rows) != len(self.held_out_):
            raise ValueError(
                f"Only {len(rows):,} of the {len(self.held_out_):,} cells that were held out in "
                "training are in the attached reference. Attach the reference that the model was "
                "trained on, or pass labelled cells that were not used in training."
            )
        return reference[rows]

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model to a folder.

        Parameters
        ----------
        dir_path
            Folder, created if it does not exist.
        prefix
            Prefix of the file names.
        overwrite
            Replace an existing model. The old one stays complete until the new one is written.
        save_anndata
            Save the reference too, as ``adata.h5ad`` or ``mdata.h5mu``.
        **anndata_write_kwargs
            With ``save_anndata``: passed to :meth:`anndata.AnnData.write_h5ad`, or to
            ``MuData.write_h5mu``.

        Raises
        ------
        FileExistsError
            If the folder holds a model and ``overwrite`` is ``False``.
        OSError
            If the disk is full or not writable.
        ValueError
            If an argument has no effect.

        Examples
        --------
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> import hdeepinsight as hdi
        >>> model = hdi.hub.pull("pbmc")
        >>> with TemporaryDirectory() as folder:
        ...     model.save(Path(folder) / "pbmc")
        ...     loaded = hdi.SCHDeepInsight.load(Path(folder) / "pbmc", adata=False)
        >>> loaded.taxonomy == model.taxonomy
        True

        Notes
        -----
        ``manifest.json`` in the same folder lists sizes and SHA-256 checksums, which :meth:`load`
        verifies before it parses anything. If the process is killed while it saves, the folder
        holds either the old or the new model. After distributed training, only rank 0 writes.
        """
        if not getattr(getattr(self, "trainer", None), "is_global_zero", True):
            return
        folder = ModelFolder(Path(dir_path), prefix or "")
        if folder.holds_model and not overwrite:
            msg = f"A model exists in {folder.path}. Pass overwrite=True to replace it, or another"
            raise FileExistsError(f"{msg} folder.")
        references = {}
        if not save_anndata:
            training.refuse_unused(anndata_write_kwargs, "without save_anndata")
        else:
            reference: Any = self._resolve_adata(None)
            self._check_saving_cells()
            paired = isinstance(reference, MuData)
            name = REFERENCE_FILES[paired]
            write = reference.write_h5mu if paired else reference.write_h5ad
            references[name] = partial(write, **anndata_write_kwargs)
        folder.write(self._payload(), references)

    def _check_saving_cells(self) -> None:
        """Raise an error if the reference must not be saved."""

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
    ) -> Self:
        """Load a model; files that contain code are rejected, and no code in them is run.

        Parameters
        ----------
        dir_path
            Folder written by :meth:`save`.
        adata
            Reference to attach; by default the one saved with the model, if any. ``False`` attaches
            none, which is enough to annotate.
        accelerator, device
            Device of the model, as in scvi-tools.
        prefix
            As in :meth:`save`.
        backup_url, datamodule
            Not supported, present for compatibility with scvi-tools: use
            :func:`hdeepinsight.hub.pull` to download models, and pass a datamodule to
            :meth:`train`.

        Raises
        ------
        ModelFileError
            If the folder holds no model, a damaged one, or one of another package.
        TypeError
            If ``adata`` is anything else, such as a path, or an unsupported argument is given.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> folder = hdi.hub.download("pbmc").folder  # or the folder of a model that you saved
        >>> hdi.SCHDeepInsight.load(folder, adata=False).taxonomy.n_leaves
        8
        """
        if (backup_url, datamodule) != (None, None):
            msg = "load() takes no backup_url and no datamodule. Download models with hdi.hub.pull,"
            raise TypeError(f"{msg} and pass a datamodule to train().")
        model: Self = classes.load_model(dir_path, adata, accelerator, device, prefix, expected=cls)
        return model

    @classmethod
    def _from_payload(cls, payload: dict[str, Any], adata: Any, name: object) -> Self:
        """Build a model from the content of its file."""
        with damaged_if_unfit(name):
            attributes = schema.migrate(payload[SAVE_KEYS.ATTRIBUTES], cls._options_of)
            registry = attributes.pop("registry_")
            options = attributes["init_params_"]["non_kwargs"]
            if adata is None:
                model = cls(None, registry=registry, **options)
        if adata is not None:  # an error is then due to the given data, not to the file
            method = registry["setup_method_name"]
            if method == "setup_datamodule":
                msg = "The model was trained with a datamodule, so no reference can be attached."
                raise ValueError(f"{msg} Load it with adata=False, and pass cells to its methods.")
            if method not in ("setup_anndata", "setup_mudata"):
                raise damaged(name, f"{UNFIT} (set-up method {str(method)[:80]!r})")
            getattr(cls, method)(adata, source_registry=registry, **registry["setup_args"])
            model = cls(adata, **options)
        with damaged_if_unfit(name):
            saved, own = (x["field_registries"] for x in (registry, model.registry_))
            if adata is not None and PANEL_KEY in saved:  # the genes of a panel do not change
                genes = np.asarray(saved[PANEL_KEY]["state_registry"]["measured"], dtype=bool)
                state = own[PANEL_KEY]["state_registry"]
                state["measured"] = np.concatenate([genes, state["measured"][len(genes) :]])
            model._restore(attributes)
            if model.is_trained_ and "labels" in saved and "labels" in own:  # as in training
                labels = saved["labels"]["state_registry"]
                own["labels"]["state_registry"]["n_missing"] = labels.get("n_missing", {})
            model.module.load_state_dict(payload[SAVE_KEYS.WEIGHTS])
        return model

    @classmethod
    def _options_of(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor options for those saved by this or an earlier release."""
        return options

    @classmethod
    def load_registry(cls, dir_path: str | Path, prefix: str | None = None) -> dict[str, Any]:
        """Read the registry of a saved model; as in :meth:`load`, no code in its files is run.

        Parameters
        ----------
        dir_path, prefix
            As in :meth:`save`.

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
        payload = ModelFolder(Path(dir_path), prefix or "").read()
        classes.class_of(payload, dir_path, cls)
        return dict(payload[SAVE_KEYS.ATTRIBUTES]["registry_"])

    def _payload(self) -> dict[str, Any]:
        """Return weights and attributes in plain types, for the model file."""
        names: tuple[str, ...] = ("is_trained_", "train_indices_", "validation_indices_")
        names += ("test_indices_", "history_", "recipe_", "held_out_", "registry_", "init_params_")
        names += self._saved_values
        if self.left_out_ is not None and len(self.left_out_):
            names += ("left_out_",)
        objects = {name: getattr(self, name) for name in self._saved_objects}
        return {
            SAVE_KEYS.WEIGHTS: self.module.state_dict(),
            SAVE_KEYS.GENES: list(self.genes),
            SAVE_KEYS.ATTRIBUTES: {
                "schema_version_": schema.SCHEMA_VERSION,
                **{name: getattr(self, name) for name in names},
                **{name: value and value.to_dict() for name, value in objects.items()},
            },
        }

    def _restore(self, attributes: dict[str, Any]) -> None:
        """Set the attributes that :meth:`_payload` saved, in their original types."""
        self.is_trained_ = attributes["is_trained_"]
        schema.restore_objects(self, attributes)
        for name in ("train_indices_", "validation_indices_", "test_indices_", *HASHES):
            value = attributes.get(name)
            setattr(self, name, value.numpy() if isinstance(value, torch.Tensor) else value)
        history = attributes["history_"]
        self.history_ = history and {key: frame_from_plain(t) for key, t in history.items()}
        self._find_parts()

    def _load_object(self, kind: Any, values: dict[str, Any]) -> Any:
        """Rebuild an object that is saved with the model."""
        return kind.from_dict(values)
