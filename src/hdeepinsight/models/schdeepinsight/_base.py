"""What every capability of the model stands on: a registered reference and its registry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import rich.pretty  # noqa: F401 - scvi-tools uses it without importing it
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.data import Modalities, is_paired, open_counts, open_paired, open_store
from hdeepinsight.data._fields import ColumnField, CountsField
from hdeepinsight.models.schdeepinsight._reference import label_keys, label_nodes

if TYPE_CHECKING:
    from mudata import MuData

    from hdeepinsight.data import CountSource, DataLike
    from hdeepinsight.image import GeneLayout
    from hdeepinsight.models.schdeepinsight._module import GeneImageClassifier
    from hdeepinsight.nn import CountThinning
    from hdeepinsight.taxonomy import Taxonomy

    Query: TypeAlias = DataLike | MuData


class ReferenceModel(BaseModelClass):  # type: ignore[misc]
    """A model of a labelled reference; the capabilities are mixins on top of it."""

    module: GeneImageClassifier
    taxonomy: Taxonomy
    layout: GeneLayout
    protein_layout: GeneLayout | None
    thinning: CountThinning
    seed: int
    recipe_: dict[str, Any]
    init_params_: dict[str, Any]

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
        """Register a labelled reference.

        Nothing but two identifiers in ``uns`` is written to it.

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
            Instead of ``labels_key``: one column a level, from coarse to fine.
        batch_key
            Column of ``obs`` with the batch (donor, study) of every cell. How far batches differ
            from each other tells later whether a query has to be adapted to.
        unlabeled_category
            Label that means "not known"; missing values mean the same.
        source_registry
            Registry of a saved model, whose set-up is repeated on this object.

        Raises
        ------
        InputError
            If the matrix does not hold counts, and they cannot be recovered.
        KeyError
            If a column is not there.
        TypeError
            If ``adata`` is no AnnData.
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
        setup_args = cls._get_setup_method_args(**locals())
        setup_args["setup_args"].pop("source_registry")
        keys = label_keys(labels_key, labels_keys)
        _check_reference(adata)
        fields = [
            CountsField(REGISTRY_KEYS.X_KEY, layer),
            *(ColumnField(f"{FIELD_KEYS.LABELS}_{i}", key) for i, key in enumerate(keys, start=1)),
            ColumnField(FIELD_KEYS.BATCH, batch_key),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_args)
        manager.register_fields(adata, source_registry=source_registry)
        cls.register_manager(manager)

    @property
    def recipe(self) -> dict[str, Any]:
        """Data summary, settings and versions of the training, in plain types."""
        return dict(self.recipe_)

    @property
    def backbone_name(self) -> str:
        """Name of the network that reads the image."""
        return str(self.init_params_["non_kwargs"]["backbone"])

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """Print what was registered."""
        if self.adata_manager is not None:
            self.adata_manager.view_registry(hide_state_registries=hide_state_registries)
        else:
            self.view_setup_method_args()

    def view_anndata_setup(
        self, adata: AnnData | MuData | None = None, hide_state_registries: bool = False
    ) -> None:
        """Print what was registered, as :meth:`view_registry` does, or what of another object."""
        if adata is None:
            self.view_registry(hide_state_registries)
        else:
            super().view_anndata_setup(adata, hide_state_registries)

    @property
    def _setup_args(self) -> dict[str, Any]:
        return dict(self.registry_["setup_args"])

    @property
    def _label_keys(self) -> list[str]:
        return label_keys(self._setup_args["labels_key"], self._setup_args["labels_keys"])

    @property
    def _n_missing_labels(self) -> dict[str, int]:
        """Cells of the reference without a value, by the label columns that have such cells."""
        fields = self.registry_["field_registries"]
        counts = {
            key: fields[f"{FIELD_KEYS.LABELS}_{i}"]["state_registry"].get(ColumnField.N_MISSING, 0)
            for i, key in enumerate(self._label_keys, start=1)
        }
        return {key: n for key, n in counts.items() if n}

    @property
    def _unlabeled_category(self) -> str:
        return str(self._setup_args["unlabeled_category"])

    @property
    def _counts_layer(self) -> str | None:
        args = self._setup_args
        layer: str | None = args["rna_layer"] if "rna_layer" in args else args["layer"]
        return layer

    @property
    def _modalities(self) -> Modalities:
        """Which modalities of a MuData are read: those of the reference, or the usual ones."""
        return Modalities.from_setup(self._setup_args.get("modalities"))

    def _rna(self, data: Query | None) -> Any:
        """RNA of a MuData; anything else as it is."""
        return self._modalities.rna_of(data) if is_paired(data) else data

    def _counts(self, reference: AnnData | MuData) -> CountSource:
        """Open the counts of a reference, which reads its matrix through once."""
        return open_counts(self._rna(reference), layer=self._counts_layer)

    def label_nodes(
        self,
        data: Query | None = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
    ) -> np.ndarray:
        """Find the node of the taxonomy that the known label of every cell means.

        Parameters
        ----------
        data
            Labelled AnnData, MuData or path; by default the registered reference.
        labels_keys
            Columns of ``obs`` with the labels, from coarse to fine; by default those of the
            reference.
        unlabeled_category
            Label that means "not known"; by default that of the reference.

        Returns
        -------
        Node of every cell, shape ``(n_cells,)``; 0, the root, where the label is not known.

        Raises
        ------
        KeyError
            If a column is not there.
        ValueError
            If a label is not in the taxonomy.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:10].copy()
        >>> query.obs["known"] = ["T"] * 4 + ["B"] * 4 + ["Unknown"] * 2
        >>> nodes = model.label_nodes(query, labels_keys=["known"])
        >>> [model.taxonomy.label(int(node)) for node in nodes[[0, 4, 9]]]
        ['T', 'B', 'root']
        """
        keys = label_keys(None, labels_keys) if labels_keys else self._label_keys
        obs = open_store(self._cells(self._given(data), keys)).obs
        missing = [key for key in keys if key not in obs]
        if missing:
            raise KeyError(
                f"obs has no column {', '.join(map(repr, missing))} with labels. Valid are its "
                f"columns: {', '.join(map(str, obs)) or 'none'}. Name some of them in labels_keys."
            )
        unlabeled = unlabeled_category or self._unlabeled_category
        return label_nodes(obs, self.taxonomy, keys, unlabeled=unlabeled)

    def _cells(self, data: AnnData | MuData | None, keys: Sequence[str] | None = None) -> Any:
        """Labels of a MuData in an AnnData; anything else as it is."""
        keys = keys or self._label_keys
        return self._modalities.columns_of(data, keys) if is_paired(data) else data

    def _label_nodes(self, adata: AnnData | MuData) -> np.ndarray:
        """As :meth:`label_nodes`; no cell is labelled where a column is missing."""
        obs = self._cells(adata).obs
        return label_nodes(obs, self.taxonomy, self._label_keys, unlabeled=self._unlabeled_category)

    def _given(self, data: Query | None) -> Any:
        """Return the registered reference where nothing was given; a MuData file is read."""
        if data is None:
            return self._own_adata()
        return open_paired(data) if is_paired(data) else data

    def _own_adata(self) -> AnnData:
        """Return the registered reference; raises ``ValueError`` where there is none."""
        if self.adata is None:
            msg = (
                "The model was loaded without an AnnData, and none was given. Valid is an AnnData "
                "or the path of a file: pass it to the method, or load the model with adata=..."
            )
            raise ValueError(msg)
        return self.adata


def _check_reference(adata: object) -> None:
    """Refuse what cannot be registered; raises ``TypeError``, or ``ValueError`` for a view."""
    if not isinstance(adata, AnnData):
        msg = (
            f"The reference is a {type(adata).__name__}. Valid is an AnnData. Read a file with "
            "anndata first; a MuData goes to setup_mudata."
        )
        raise TypeError(msg)
    if adata.is_view:
        msg = (
            "The reference is a view of another AnnData. Valid is one of its own, because two "
            "identifiers are written to its uns. Pass adata.copy()."
        )
        raise ValueError(msg)
