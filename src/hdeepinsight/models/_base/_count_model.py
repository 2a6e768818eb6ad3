"""The base of every model of counts: set-up, loaders, training, saving."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401 - scvi-tools uses it without importing it
import torch
from anndata import AnnData
from mudata import MuData
from scvi import settings
from scvi.data import AnnDataManager
from scvi.dataloaders import DataSplitter
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass
from scvi.train import TrainRunner

from hdeepinsight._archive import UNFIT, damaged, damaged_if_unfit, frame_from_plain
from hdeepinsight._errors import batch_column, check_integer, check_keywords
from hdeepinsight._keys import SAVE_KEYS
from hdeepinsight._model_folder import REFERENCE_FILES, ModelFolder
from hdeepinsight._progress import quiet_trainer
from hdeepinsight.data import (
    AlignedQuery,
    align_genes,
    given_split,
    is_paired,
    name_digests,
    open_counts,
    open_query,
    pad,
    split_three,
)
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base import _registry as classes
from hdeepinsight.models._base import _schema as schema
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._plan import OneCyclePlan, Prepared
from hdeepinsight.models._base._registration import BATCH, LABELS, Setup, as_label_keys
from hdeepinsight.models._base._setup import resolve_cells

if TYPE_CHECKING:
    from scvi.dataloaders import AnnDataLoader

    from hdeepinsight.data import ScaleMode

#: Arguments of :meth:`CountModel.train` that say which cells train, and which are read together.
SPLITTING = "train_size", "validation_size", "shuffle_set_split", "split_key"
LOADING = *SPLITTING, "batch_size", "datasplitter_kwargs"
#: Arguments of the splitter that :meth:`CountModel.train` sets itself.
SET_HERE = {*LOADING, "distributed_sampler", "shuffle"}
#: Of scvi-tools' base class, and without a meaning here.
NOT_SUPPORTED = {
    *("convert_legacy_save", "register_manager", "transfer_fields"),
    *("differential_abundance", "get_normalized_expression", "get_normalized_function_name"),
    *("setup_annbatch", "setup_datamodule", "update_setup_method_args"),
}
RECORDED_PACKAGES = ("hdeepinsight", "scvi-tools", "torch", "lightning", "anndata", "numpy")


class CountModel(BaseModelClass):  # type: ignore[misc]
    """A model of raw counts on scvi-tools' own loaders, splitters and training plans.

    A subclass names its module and builds it in ``__init__`` after ``_read_genes``; set-up,
    training, saving and loading are here. The user's object is never written to: scvi-tools
    registers a shell that shares its matrix.

    Parameters
    ----------
    adata
        Reference that was registered by :meth:`setup_anndata`.
    registry
        Registry of a saved model or of a datamodule, where there is no reference.
    seed
        Seed of weights, split and training; by default ``scvi.settings.seed``, or 0.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import CountModel
    >>> model = hdi.hub.pull("pbmc")
    >>> isinstance(model, CountModel), len(model.genes)
    (True, 2048)
    """

    _training_plan_cls: ClassVar[type] = OneCyclePlan
    #: Objects that travel with the model: attribute and class, which has to_dict and from_dict.
    _parts: ClassVar[Mapping[str, type]] = {}
    #: Attributes of plain types that travel with it too.
    _figures: ClassVar[tuple[str, ...]] = ()
    #: Metric that early stopping watches.
    _monitor: ClassVar[str] = "validation_loss"
    module: Any
    adapter_: Any = None
    recipe_: dict[str, Any]
    held_out_: np.ndarray | None = None
    #: What this model cannot do since an older release saved it; mostly nothing.
    missing_capabilities: tuple[str, ...] = ()
    _labels_required: ClassVar[bool] = False
    #: Arguments of :meth:`train` that only some classes take, and hand on to ``_prepare``.
    _train_options: ClassVar[tuple[str, ...]] = ()
    #: Steps of a training of default length, and bounds of its epochs and of the cells of a step.
    _default_steps: ClassVar[int] = 1200
    _epoch_bounds: ClassVar[tuple[int, int]] = (5, 400)
    _batch_size_bounds: ClassVar[tuple[int, int]] = (16, 128)
    #: Share of the cells that train where nothing is said; ``None`` holds a tenth out.
    _default_train_size: ClassVar[float | None] = None
    #: Options that an earlier release had, with the value that is now the only one.
    _former_options: ClassVar[Mapping[str, Any]] = {}

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
        unlabeled_category: str = "Unknown",
        source_registry: dict[str, Any] | None = None,
    ) -> None:
        """Register a reference; nothing is written to it.

        Parameters
        ----------
        adata
            Reference with raw counts, shape ``(n_obs, n_vars)``.
        layer
            Layer with the counts; ``X`` by default.
        labels_key
            Column of ``obs`` with labels: types, or a mixture of depths of the taxonomy. A cell
            labelled at an inner node takes part in training down to that node.
        labels_keys
            Instead of ``labels_key``: one column per level, from coarse to fine.
        batch_key
            Column of ``obs`` with the batch (donor, study) of every cell. How far batches differ
            from each other tells later whether a query needs an adaptation.
        unlabeled_category
            Label that means "not known"; missing values and words such as "unassigned" mean the
            same.
        source_registry
            Registry of a saved model, whose set-up is repeated on this object.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column is not there.
        TypeError
            If ``adata`` is not an AnnData.
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
        setup = Setup(**cls._get_setup_method_args(**locals()))
        as_label_keys(labels_key, labels_keys, required=cls._labels_required)
        registration.check_reference(adata, AnnData, "setup_mudata")
        source = open_counts(adata, layer=layer, arguments={"layer": "layer"})
        registration.register(cls, adata, source, adata.obs, setup)

    @classmethod
    def _get_most_recent_anndata_manager(cls, adata: Any, required: bool = False) -> AnnDataManager:
        return registration.registration_of(cls, adata).manager

    @property
    def adata(self) -> Any:
        """The attached reference; ``None`` where there is none."""
        return self._adata

    @adata.setter
    def adata(self, adata: Any) -> None:
        if adata is None:
            raise ValueError("adata must be an AnnData or MuData, got None. Load the model again.")
        manager = self._manager_of(adata)
        self._adata, self._adata_manager = adata, manager

    def view_anndata_setup(self, adata: Any = None, hide_state_registries: bool = False) -> None:
        """Print what was registered, of the model itself or of another object."""
        manager = self.get_anndata_manager(adata)
        if manager is not None:
            manager.view_registry(hide_state_registries=hide_state_registries)
        else:
            self.view_setup_method_args()

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what was registered."""
        self.view_anndata_setup(None, hide_state_registries)

    def deregister_manager(self, adata: Any = None) -> None:
        """Do nothing: no manager is kept beside the model, so there is none to give up."""

    @classmethod
    def view_setup_args(cls, dir_path: str | Path, prefix: str | None = None) -> None:
        """Print the set-up arguments of a saved model, read as safely as by :meth:`load`."""
        AnnDataManager.view_setup_method_args(cls.load_registry(dir_path, prefix))

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        """Keep nothing beside the model: its manager is an attribute."""

    def _registration(self) -> registration.Registration:
        return registration.registration_of(type(self), self.adata)

    def _read_genes(
        self, genes: Sequence[str], obsm: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Make the loaders read these genes of the reference, in this order."""
        manager = registration.narrowed(self._registration(), genes, self._setup, obsm)
        self._adata_manager, self.registry_ = manager, dict(manager.registry)
        self.summary_stats = manager.summary_stats

    @property
    def recipe(self) -> dict[str, Any]:
        """Data summary, settings and versions of the training, in plain types."""
        return dict(self.recipe_)

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that the model reads, in order."""
        fields = self.registry_["field_registries"]
        return tuple(map(str, fields["X"]["state_registry"]["column_names"]))

    @property
    def _model_summary_string(self) -> str:
        """What scvi-tools shows; made anew whenever it is asked for."""
        return repr(self)

    @_model_summary_string.setter
    def _model_summary_string(self, _: str) -> None:
        """Take what the base class sets."""

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in NOT_SUPPORTED]

    def __repr__(self) -> str:
        return f"{type(self).__name__} of {len(self.genes):,} genes\n{self._training_state()}"

    def _training_state(self) -> str:
        """Say on how many cells the model was trained, and whether any were held out."""
        if not self.is_trained_:
            return f"not trained, on {self.summary_stats.n_cells:,} cells"
        trained = self.recipe_.get("n_cells", 0) - self.recipe_.get("n_held_out", 0)
        held_out = self.recipe_.get("n_held_out") or "no"
        text = f"trained on {trained:,} cells, {held_out} cells held out"
        if student := self.recipe_.get("student"):
            text += f"; a student on a query of {student['n_cells']:,} cells"
        if self.adapter_ is not None and (report := self.adapter_.report) is not None:
            is_applied = "adapted" if self.adapter_.is_applied else "not adapted"
            text += f"; {is_applied} to a query of {report.n_cells:,} cells"
        return text

    @property
    def _setup(self) -> Setup:
        return Setup.of(self.registry_)

    def _resolve_adata(self, data: Any) -> Any:
        """Return the registered reference where nothing was given; a MuData file is read."""
        return resolve_cells(data, self.adata)

    def open(
        self,
        query: Any = None,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        indices: Sequence[int] | None = None,
    ) -> AlignedQuery:
        """Open, check and align a query once, for any number of calls that take it.

        Parameters
        ----------
        query
            AnnData (in memory or backed), MuData, or path of an h5ad, zarr or h5mu file. It needs
            raw counts and gene names, and no set-up. The registered reference by default.
        layer
            Layer with the counts. By default the layer that the reference was registered with, if
            the query has it, else ``X``.
        use_raw
            Read the counts from ``raw``.
        scale
            What the values are: ``"auto"`` finds out; see :func:`hdeepinsight.data.open_counts`.
        fold_case
            Match genes regardless of case. A mouse gene is not the human gene of the same name,
            so this is never done unless asked for.
        indices
            Cells to read, as positions or as a mask; all of them by default.

        Returns
        -------
        The query, which this model's methods take in place of an AnnData.

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
        opened = open_query(
            self._resolve_adata(query),
            self.genes,
            layer=layer,
            preferred_layer=self._setup.layer,
            use_raw=use_raw,
            scale=scale,
            fold_case=fold_case,
            modalities=self._setup.modalities,
            **self._opening(),
        )
        return opened if indices is None else opened.subset(indices)

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: Any,
        *,
        return_reference_var_names: bool = False,
        inplace: bool = False,
    ) -> AnnData | pd.Index:
        """Return a copy of a query with exactly the genes of a model, in its order.

        :meth:`open` and ``load_query_data`` need no such step; it is here for tools that expect
        equal genes. Genes that the query lacks are 0 in the copy; ``var["measured"]`` tells which
        of them are real. ``obs``, ``obsm``, ``obsp``, ``uns`` and ``raw`` come along, as do all
        layers.

        Parameters
        ----------
        adata
            Query; it is never changed.
        reference_model
            A trained model, or the folder of a saved one.
        return_reference_var_names
            Return the names of the model's genes instead, as scvi-tools does.
        inplace
            scvi-tools pads the given object; we do not, and refuse ``True``.

        Returns
        -------
        The copy, or the names.

        Raises
        ------
        GeneMatchError
            If too few genes match.
        ValueError
            If ``inplace`` is asked for.

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
            msg = "prepare_query_anndata got inplace=True, which would pad your object with genes"
            raise ValueError(f"{msg} that it does not have. Omit it, and use the returned copy.")
        model = cls._model_of(reference_model)
        if return_reference_var_names:
            return pd.Index(model.genes)
        alignment = align_genes(adata.var, model.genes, weights=model._opening().get("weights"))
        return pad(adata, alignment, model.genes)

    @classmethod
    def _model_of(cls, given: Any) -> Self:
        """Return a model, or load the folder of a saved one."""
        is_folder = isinstance(given, str | Path)
        model = classes.load_model(given, expected=cls) if is_folder else given
        if isinstance(model, cls):
            return model
        expected = f"a trained {cls.__name__} or the folder of a saved one"
        raise TypeError(f"The reference model must be {expected}, got a {type(given).__name__}.")

    def _opening(self) -> dict[str, Any]:
        """Return further arguments of ``open_query``: gene weights, proteins."""
        return {}

    def get_anndata_manager(self, adata: Any, required: bool = False) -> AnnDataManager | None:
        """Return scvi-tools' manager of the shell of an object.

        Parameters
        ----------
        adata
            The registered reference, a shell, or any AnnData, which is then opened and aligned.
        required
            Unused; a manager is always found or an error raised.
        """
        if adata is None or adata is self.adata:
            return self.adata_manager
        return getattr(adata, "_hdi_manager", None) or self._manager_of(adata)

    def _validate_anndata(self, adata: Any = None, copy_if_view: bool = True) -> AnnData:
        """Return the shell that loaders read in place of an object."""
        manager: Any = self.get_anndata_manager(self._resolve_adata(adata))
        shell: AnnData = manager.adata
        shell._hdi_manager = manager
        return shell

    def _make_data_loader(self, adata: Any = None, *args: Any, **kwargs: Any) -> AnnDataLoader:
        """Return a stock loader of an object's cells, with the genes of the model."""
        return super()._make_data_loader(self._validate_anndata(adata), *args, **kwargs)

    def _manager_of(self, data: Any) -> AnnDataManager:
        """Align cells that were never registered, and register a shell of them."""
        opened = self.open(data)
        obs = registration.shell_obs(opened.obs, self._setup)
        var = pd.DataFrame(index=pd.Index(self.genes, dtype=object))
        extra = self._extra_arrays(opened.obs)
        shell = AnnData(opened.read(), obs=obs, var=var, obsm=extra)
        return registration.manage(shell, self._setup)

    def _extra_arrays(self, obs: pd.DataFrame) -> dict[str, np.ndarray]:
        """Return what the loaders give beside the counts, from the table of the cells."""
        return {}

    @training.one_at_a_time()
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
        """Train the network on the reference; on a model of a query, fit its adapter.

        Parameters
        ----------
        max_epochs
            Passes over the training cells; by default as many as make about 1,200 steps of the
            optimiser, at least 5 and at most 400.
        accelerator, devices
            As in Lightning. On several devices each process trains on its share of the cells. An
            adapter is fitted on one device, by default where the model is.
        train_size
            Share of cells to train on; by default all that are not held out. What neither this nor
            ``validation_size`` takes is left out (``test_indices``).
        validation_size
            Share of cells held out for the metrics in ``history`` and for calibration, 0.1 by
            default; 0 holds none out.
        shuffle_set_split
            Draw the held-out cells; otherwise the first ones (of every label) are held out.
        batch_size
            Cells per mini-batch; by default an eighth of the cells, at least 16 and at most 128.
        early_stopping
            Stop when the held-out loss has not fallen ``early_stopping_patience`` (12) times in a
            row, and keep the best epoch. Off by default: the learning rate falls to zero over
            ``max_epochs``, and the last epoch was the best one in our measurements.
        datasplitter_kwargs
            Passed to :class:`scvi.dataloaders.DataSplitter`, such as ``num_workers``, or
            ``external_indexing``: a list of the positions of the cells that train, and of those
            that are held out; the others are left out (``test_indices``).
        plan_kwargs
            Passed to the training plan: ``lr`` (peak of the one-cycle learning rate, 2e-3),
            ``weight_decay`` (1e-4). For an adapter: fields of
            :class:`~hdeepinsight.adaptation.AdaptationOptions`.
        datamodule
            Loaders of your own, such as scvi-tools' ``AnnbatchDataModule``, for a model that was
            made from their registry.
        split_key
            Column of ``obs`` whose groups (donors, studies) are held out whole. By default cells
            are held out within every label.
        checkpoint
            Folder for a checkpoint, which is written after epochs, and removed at the end. Where
            there is one, of the same training, it goes on from there to the same result. By
            default there is none, and a training that is interrupted leaves the model as it was.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`: ``precision``, ``callbacks``, ``logger``,
            ``enable_progress_bar``, ``early_stopping_patience``, ... A hierarchical classifier also
            takes ``audit``: whether to audit the labels first
            (:func:`hdeepinsight.tl.audit_labels`), or an audit of these cells. Training cells with
            a suspicious label are then taken as labelled only down to where the audit agrees;
            held-out cells keep their labels. Off by default: it helps where labels are impure, and
            changes little elsewhere.

        Raises
        ------
        KeyError
            If ``split_key`` is not a column, or a label column is gone.
        ValueError
            If a setting is out of its range or has no effect, no cell has a label, the reference
            was changed since it was registered, or no group of ``split_key`` can be held out.
        TypeError
            If the trainer does not take an argument.

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
        given, plan_kwargs = dict(locals()), dict(plan_kwargs or {})
        if self.adapter_ is not None:
            names = *LOADING, "max_epochs", "early_stopping", "datamodule", "checkpoint"
            training.refuse_without_effect(given, names, "where an adapter is fitted")
            if training.is_distributed({}, devices):
                raise ValueError(
                    f"devices must be a single device, got {devices!r}: an adapter "
                    "is fitted in one process. Omit it to stay where the model is."
                )
            if (accelerator, devices) != ("auto", "auto"):
                self.to_device(parse_device_args(accelerator, devices, "torch")[-1])
            self._fit_adapter(plan_kwargs, trainer_kwargs)
            return
        further = {name: trainer_kwargs.pop(name, None) for name in self._train_options}
        further = {name: value for name, value in further.items() if value is not None}
        training.check_names(trainer_kwargs)
        patience = trainer_kwargs.get("early_stopping_patience")
        for name in ("max_epochs", "batch_size", "early_stopping_patience"):
            check_integer(name, (given | trainer_kwargs).get(name), optional=True)
        loading = dict(datasplitter_kwargs or {})
        if ours := sorted(SET_HERE & set(loading)):
            msg = f"datasplitter_kwargs must not hold {', '.join(ours)}, which train() sets."
            raise ValueError(f"{msg} Pass sizes to train(), and devices for several processes.")
        if split_key is not None and not shuffle_set_split:
            raise ValueError("shuffle_set_split=False has no effect with split_key. Omit one.")
        split, share = None, 0.0
        if datamodule is not None:
            training.refuse_without_effect(given, LOADING, "with a datamodule, which loads")
            if self.adata is not None:
                msg = "train(datamodule=...) needs a model without a reference. Make one of its"
                raise ValueError(f"{msg} registry: {type(self).__name__}(registry=...).")
            n_train, n_val = training.sizes_of(datamodule)
        else:
            if self.adata is None:
                msg = "train() needs cells, and the model has no reference attached. Load it with"
                raise ValueError(f"{msg} adata=..., or pass datamodule=... with its loaders.")
            self._check_reference()
            if (parts := loading.pop("external_indexing", None)) is not None:
                training.refuse_without_effect(given, SPLITTING, "with external_indexing")
                split = given_split(parts, self.summary_stats.n_cells)
            else:
                sizes = train_size, validation_size
                split = self._split(*sizes, shuffle_set_split, split_key)
                rest = 0.1 if train_size is None else 1 - train_size
                share = rest if validation_size is None else validation_size
            n_train, n_val = len(split[0]), len(split[1])
            batch_size = int(batch_size or np.clip(n_train // 8, *self._batch_size_bounds))
        usual = getattr(datamodule, "batch_size", None) or self._batch_size_bounds[1]
        size = int(batch_size or usual)
        steps = max(1, -(-n_train // size))
        epochs = int(max_epochs or np.clip(round(self._default_steps / steps), *self._epoch_bounds))
        plan_args, found = self._prepare(split, datamodule, held_out_share=share, **further)
        plan = self._training_plan_cls(self.module, *plan_args, **plan_kwargs)
        monitor = self._monitor if early_stopping else None
        options = training.trainer_options(trainer_kwargs, epochs, n_val, devices, monitor=monitor)
        settings = {"max_epochs": epochs, "batch_size": batch_size, "split_key": split_key, **found}
        settings |= {"lr": plan.lr, "weight_decay": plan.weight_decay}
        loaders = datamodule
        if datamodule is None:
            # A rest of one or two cells has no statistics of its own.
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
        self._fit(plan, loaders, options, settings, sizes=(n_train, n_val))
        self._finish(plan, datamodule)
        if checkpoints is not None:
            checkpoints.path.unlink(missing_ok=True)

    def _fit(
        self,
        plan: Any,
        loaders: Any,
        options: Mapping[str, Any],
        settings: Mapping[str, Any],
        *,
        sizes: tuple[int, int],
    ) -> None:
        """Run a training plan, and keep its recipe."""
        self._run(plan, loaders, options)
        self.recipe_ = {
            "n_cells": sum(sizes),
            "n_held_out": sizes[1],
            "n_genes": len(self.genes),
            "seed": self.seed,
            **settings,
            "python": platform.python_version(),
            **{name: version(name) for name in RECORDED_PACKAGES},
        }

    def _run(self, plan: Any, loaders: Any, options: Mapping[str, Any]) -> None:
        """Run a training plan, which leaves the model as it was if it fails."""
        unchanged = training.unchanged_if_interrupted(self)
        with quiet_trainer(), unchanged, training.seeded(self.seed):
            runner = TrainRunner(self, plan, loaders, **options)
            self.module.train()
            runner()
            if not runner.trainer.global_step:
                msg = "The training took no step, so nothing was learned. Raise max_epochs, or omit"
                raise ValueError(f"{msg} settings of the trainer that end it at once.")
            training.check_finite(self.module)

    def _check_reference(self) -> None:
        """Refuse to train where there is no reference, or another one than was registered."""
        data, keys = self._resolve_adata(None), self._setup.labels_keys
        layer = self._setup.layer
        x = None if is_paired(data) else data.layers.get(layer, data.X)
        registration.check_unchanged(self.adata_manager, self._setup.obs_of(data, keys), x, keys)

    def _split(
        self,
        train_size: float | None,
        validation_size: float | None,
        shuffle: bool,
        split_key: str | None,
    ) -> list[np.ndarray]:
        """Return the cells that train, that are held out of every label, and that do neither."""
        groups, rng = self._groups(split_key), np.random.default_rng(self.seed)
        obs = self.adata_manager.adata.obs
        labels = obs.get(LABELS, pd.Series(1, index=obs.index)).to_numpy()
        if (train_size, validation_size, split_key) == (None, None, None):
            train_size = self._default_train_size
        sizes = train_size, validation_size
        return split_three(labels, *sizes, rng, groups=groups, shuffle=shuffle)

    def _splitter(self, settings: Mapping[str, Any], **loading: Any) -> DataSplitter:
        """Return the loaders of a training, whose recipe has these settings."""
        return DataSplitter(self.adata_manager, **loading)

    def _prepare(self, split: list[np.ndarray] | None, datamodule: Any, **options: Any) -> Prepared:
        """Return further arguments of the training plan, and settings to write down."""
        return (), {}

    def _fingerprint(self, settings: object, split: list[np.ndarray] | None) -> str:
        """Compute the SHA-256 of all that a training starts from."""
        arrays = [t.detach().cpu().numpy() for t in self.module.state_dict().values()]
        if split is not None:
            shell = self.adata_manager.adata
            arrays += [shell.X.data, shell.X.indices, shell.X.indptr, split[0]]
            codes = (LABELS, BATCH)
            arrays += [shell.obs[name].to_numpy() for name in codes if name in shell.obs]
        digest = hashlib.sha256(repr(settings).encode())
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def _finish(self, plan: Any, datamodule: Any) -> None:
        """Remember the held-out cells by name."""
        if datamodule is None:
            self.held_out_ = name_digests(self.adata.obs_names)[self.validation_indices_]

    def _groups(self, key: str | None) -> np.ndarray | None:
        """Return the group of every cell of the reference by a column, where one is named."""
        if key is None:
            return None
        obs = self._setup.obs_of(self._resolve_adata(None), [key], kind="batch")
        groups: np.ndarray = batch_column(obs, key).astype(str).to_numpy()
        return groups

    def _held_out(self) -> AnnData | MuData:
        """Return the held-out cells of the attached reference, which are found by name."""
        reference = self._resolve_adata(None)
        if self.held_out_ is None or not len(self.held_out_):
            msg = "No cells were held out in training, so there is nothing to evaluate. Pass"
            hint = "labelled cells that took no part in it, or train with a larger validation_size."
            raise ValueError(f"{msg} {hint}")
        rows = np.flatnonzero(np.isin(name_digests(self.adata.obs_names), self.held_out_))
        if len(rows) != len(self.held_out_):
            raise ValueError(
                f"Only {len(rows):,} of the {len(self.held_out_):,} cells that were held out in "
                "training are in the attached reference, which is another one than the model was "
                "trained on. Attach that one, or pass labelled cells that took no part in training."
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
            Folder, made where it does not exist.
        prefix
            Put before the names of the files.
        overwrite
            Replace a model that is there already. The old one stays whole until the new one is
            completely written.
        save_anndata
            Save the reference too, as ``adata.h5ad`` or ``mdata.h5mu``.
        **anndata_write_kwargs
            With ``save_anndata``: passed to :meth:`anndata.AnnData.write_h5ad`, or its equal for a
            MuData.

        Raises
        ------
        FileExistsError
            If there is a model and ``overwrite`` is off.
        OSError
            If the disk is full or cannot be written.
        TypeError
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
        ``manifest.json`` beside the model lists sizes and SHA-256 checksums, which :meth:`load`
        compares before it parses anything. A process that is killed while it saves leaves the old
        model or the new one. After a training in several processes the first one writes.
        """
        folder = ModelFolder(Path(dir_path), prefix or "")
        if not getattr(getattr(self, "trainer", None), "is_global_zero", True):
            return
        if folder.holds_model and not overwrite:
            msg = f"A model exists in {folder.path}. Pass overwrite=True to replace it, or give"
            raise FileExistsError(f"{msg} another folder.")
        references = {}
        given = [name for name, value in anndata_write_kwargs.items() if value]
        if not save_anndata:
            known = ("dir_path", "prefix", "overwrite", "save_anndata")
            check_keywords("save() without save_anndata", given, known)
        else:
            if self.adata is None:
                msg = "save_anndata=True saves the reference, and the model has none attached."
                raise ValueError(f"{msg} Leave it out, or load the model with adata=...")
            reference: Any = self._resolve_adata(None)
            paired = isinstance(reference, MuData)
            name = REFERENCE_FILES[paired]
            write = reference.write_h5mu if paired else reference.write_h5ad
            references[name] = partial(write, **anndata_write_kwargs)
        folder.write(self._payload(), references)

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
        backup_url, datamodule
            Of scvi-tools, and refused: :func:`hdeepinsight.hub.pull` fetches models, and
            :meth:`train` takes a datamodule.

        Raises
        ------
        ModelFileError
            If the folder holds no model, or a damaged or foreign one.
        TypeError
            If ``adata`` is something else, such as the path of a file, or an argument is refused.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> folder = hdi.hub.download("pbmc").folder  # or that of a model that you saved
        >>> hdi.SCHDeepInsight.load(folder, adata=False).taxonomy.n_leaves
        8
        """
        if (backup_url, datamodule) != (None, None):
            msg = "load() takes no backup_url and no datamodule. Fetch a model by hdi.hub.pull, and"
            raise TypeError(f"{msg} pass a datamodule to train().")
        model: Self = classes.load_model(dir_path, adata, accelerator, device, prefix, expected=cls)
        return model

    @classmethod
    def _from_payload(cls, payload: dict[str, Any], adata: Any, name: object) -> Self:
        """Build the model that a payload describes, with its weights."""
        attributes = payload[SAVE_KEYS.ATTRIBUTES]
        with damaged_if_unfit(name):
            attributes = schema.migrate(attributes, cls._options_of)
            registry = attributes.pop("registry_")
            options = attributes["init_params_"]["non_kwargs"]
            for option, only in cls._former_options.items():
                if (given := options.pop(option, only)) != only:
                    msg = f"{option} is always {only!r} in this release, and was {given!r}"
                    raise ValueError(f"{msg}: load it with the release that saved it")
            if adata is None:
                model = cls(None, registry=registry, **options)
        if adata is not None:  # what is wrong is then more likely with the data that was passed
            method = registry["setup_method_name"]
            if method == "setup_datamodule":
                msg = "The model was trained with a datamodule, so no reference can be attached."
                raise ValueError(f"{msg} Load it with adata=False, and pass cells to its methods.")
            if method not in ("setup_anndata", "setup_mudata"):
                raise damaged(name, f"{UNFIT} (set-up method {str(method)[:80]!r})")
            getattr(cls, method)(adata, source_registry=registry, **registry["setup_args"])
            model = cls(adata, **options)
        with damaged_if_unfit(name):
            model._restore(attributes)
            model.module.load_state_dict(payload[SAVE_KEYS.WEIGHTS])
        given = payload[SAVE_KEYS.ATTRIBUTES]
        model.missing_capabilities = schema.missing_capabilities(given, cls._parts)
        return model

    @classmethod
    def _options_of(cls, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of the class from those in a file, which may be an older one's."""
        return options

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
        payload = ModelFolder(Path(dir_path), prefix or "").read()
        classes.class_of(payload, dir_path, cls)
        return dict(payload[SAVE_KEYS.ATTRIBUTES]["registry_"])

    def _payload(self) -> dict[str, Any]:
        """Return weights and attributes in plain types, for the model file."""
        names: tuple[str, ...] = ("is_trained_", "train_indices_", "validation_indices_")
        names += ("test_indices_", "history_", "recipe_", "held_out_", "registry_", "init_params_")
        names += self._figures
        parts = {name: getattr(self, name) for name in self._parts}
        return {
            SAVE_KEYS.WEIGHTS: self.module.state_dict(),
            SAVE_KEYS.GENES: list(self.genes),
            SAVE_KEYS.ATTRIBUTES: {
                "schema_version_": schema.SCHEMA_VERSION,
                **{name: getattr(self, name) for name in names},
                **{name: part and part.to_dict() for name, part in parts.items()},
            },
        }

    def _restore(self, attributes: dict[str, Any]) -> None:
        """Set what :meth:`_payload` stored, in its original types."""
        self.is_trained_ = attributes["is_trained_"]
        schema.restore_parts(self, attributes)
        for name in ("train_indices_", "validation_indices_", "test_indices_", "held_out_"):
            value = attributes.get(name)
            setattr(self, name, value.numpy() if isinstance(value, torch.Tensor) else value)
        history = attributes["history_"]
        self.history_ = history and {key: frame_from_plain(t) for key, t in history.items()}
        if self.adata is not None and self.held_out_ is not None:
            held_out = np.isin(name_digests(self.adata.obs_names), self.held_out_)
            self.validation_indices_ = np.flatnonzero(held_out)
            self.train_indices_ = np.flatnonzero(~held_out)

    def _part(self, kind: Any, values: dict[str, Any]) -> Any:
        """Rebuild an object that travels with the model."""
        return kind.from_dict(values)
