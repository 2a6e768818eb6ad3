"""Annotation of queries with a trained classifier, evaluation, and adaptation to a query."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hdeepinsight import annotation
from hdeepinsight._errors import check_keywords, counted, invalid, one_column
from hdeepinsight.adaptation import AdaptationOptions, AdaptationReport, Adapter, QueryCells
from hdeepinsight.data import SAMPLE_CELLS, cell_positions, draw_evenly, open_store
from hdeepinsight.models._base._reader import QueryReader
from hdeepinsight.models._base._setup import PANEL_KEY, as_label_keys
from hdeepinsight.nn import GenePanels, LeafProfiles, ModelNormalizer, seeded
from hdeepinsight.taxonomy import column_nodes, find_unlabeled

if TYPE_CHECKING:
    from hdeepinsight.data import AlignedQuery, ScaleMode
    from hdeepinsight.models._base._count_model import CountModel as _Base
    from hdeepinsight.pp import StacasResult
else:
    _Base = object

NO_HEAD = (
    "This model is an encoder without a head. Create a model of labelled cells with "
    "SCLabelNet.from_encoder(encoder, adata), or use get_latent_representation()."
)
#: Arguments that define how a query is read.
READING = "layer", "use_raw", "scale", "fold_case"
PROFILES_NOTE = "The network is explained, without the profiles that it is combined with."
ADAPTED_NOTE = (
    "The adapted network is explained; the ranks of markers, which have half of the weight in the "
    "probabilities, have no gradient."
)


class AnnotatingMixin(_Base):
    """Mixin of annotation, evaluation and adaptation, for :class:`Annotator` and all classifiers.

    It requires a ``taxonomy`` and a ``module`` with ``tree``, ``temperature``, ``normalizer`` and
    ``predict``, but not scvi-tools.
    """

    _saved_objects: ClassVar[Mapping[str, type]] = {
        "calibration_": annotation.Calibration,
        "bank_": annotation.ReferenceBank,
        "profiles_": LeafProfiles,
        "adapter_": Adapter,
    }

    _saved_values: ClassVar[tuple[str, ...]] = ("shift_",)

    taxonomy: Any  # a Taxonomy, or None for an encoder without a head
    calibration_: annotation.Calibration | None = None
    bank_: annotation.ReferenceBank | None = None
    profiles_: LeafProfiles | None = None
    adapter_: Adapter | None = None
    shift_: float | None = None
    _query: _Query | None = None

    @property
    def normalizer(self) -> ModelNormalizer:
        """Normaliser from counts to the model's log values; pass it to `hdi.pp.stacas`."""
        return ModelNormalizer(self.genes, self.module.normalizer)

    @property
    def _panel_table(self) -> np.ndarray:
        """Whether each gene panel of the reference has each gene, ``(n_panels, n_genes)``."""
        found = self.registry_["field_registries"].get(PANEL_KEY)
        if found is None:
            return np.ones((1, len(self.genes)), dtype=bool)
        return np.asarray(found["state_registry"]["measured"], dtype=bool)

    def known_panels(self, obs: pd.DataFrame) -> GenePanels | None:
        """Return the gene panels of cells of the reference; ``None`` for other cells.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> hdi.hub.pull("pbmc").known_panels(hdi.datasets.demo().query.obs)  # it has one panel
        """
        key = self._setup.panel_key
        if key is None or key not in obs:
            return None
        names = self.registry_["field_registries"][PANEL_KEY]["state_registry"]
        codes = pd.Index(names["categorical_mapping"]).get_indexer(obs[key].astype(str))
        return None if (codes < 0).any() else GenePanels(codes, self._panel_table)

    def _opening(self) -> dict[str, Any]:
        return {
            "weights": self.module.normalizer.mean_share.cpu().numpy(),
            "proteins": getattr(self.module, "protein_names", ()),
            "protein_layer": self._setup.setup_args.get("protein_layer"),
        }

    def _nodes(
        self,
        obs: pd.DataFrame | None = None,
        keys: str | Sequence[str] | None = None,
        *,
        unlabeled: str | None = None,
        ignore_unknown: bool = False,
        hint: str = "",
    ) -> np.ndarray:
        """Return the node of each cell's label, by default for the registered reference."""
        obs = self.adata_manager.adata.obs if obs is None else obs
        if self.taxonomy is None:  # of an encoder without a head
            return np.zeros(len(obs), dtype=np.int64)
        keys = self._setup.labels_keys if keys is None else keys
        keys = [keys] if isinstance(keys, str) else keys
        for key in keys:
            one_column(obs, key, hint=hint)
        unlabeled = unlabeled or self._setup.unlabeled
        return column_nodes(
            self.taxonomy, obs, keys, unlabeled=unlabeled, ignore_unknown=ignore_unknown
        )

    @property
    def calibration(self) -> annotation.Calibration | None:
        """Conformal scores of the held-out cells; ``None`` if none were held out."""
        if self.calibration_ is None or not self.is_adapted:
            return self.calibration_
        source = f"{self.calibration_.source} before the adaptation to a query"
        return replace(self.calibration_, source=source)

    @property
    def combined_profiles(self) -> LeafProfiles | None:
        """Profiles that are combined with the network, or ``None``."""
        profiles = self.profiles_
        return None if profiles is None or profiles.variance is None else profiles

    def _explained(self, opened: AlignedQuery) -> dict[str, Any]:
        """Return batch and predicted leaf of each cell, and a note on what is explained."""
        found = QueryReader(self, opened).read(("probabilities",))
        nodes = found.get("probabilities", np.zeros((0, self.taxonomy.n_nodes)))
        note = PROFILES_NOTE if self.combined_profiles else ADAPTED_NOTE if self.is_adapted else ""
        batch = self.adapter_.batch_of(opened.obs) if self.adapter_ and self.is_adapted else None
        leaves = nodes[:, self.taxonomy.leaves].argmax(axis=1)
        return {"batch": batch, "leaves": leaves, "note": note}

    # ----------------------------------------------------------------------------- annotation

    def annotate(
        self,
        query: Any = None,
        *,
        indices: Sequence[int] | None = None,
        decoder: annotation.Decoder = "joint",
        threshold: float | None = 0.5,
        reject: annotation.Reject = "auto",
        corrected: StacasResult | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        batch_size: int | None = None,
        keep: list[sparse.csr_matrix] | None = None,
    ) -> annotation.Annotation:
        """Annotate each cell at each level of the taxonomy.

        Parameters
        ----------
        query
            AnnData (in memory or backed), MuData, path of an h5ad, zarr or h5mu file, or the result
            of :meth:`~hdeepinsight.models.CountModel.open`, with raw counts and gene names. No
            set-up, labels or batch column are needed; genes may be missing, additional or in
            another order. A model of RNA and proteins also accepts one of the modalities. The
            model's own data by default.
        indices
            Cells to annotate, as positions or a Boolean mask; all cells by default.
        decoder
            ``"joint"`` selects the most probable leaf; ``"greedy"`` selects the most probable child
            at each level, as published.
        threshold
            Minimum probability of a label, from 0.5 to 1: each cell gets the deepest node that
            reaches it. ``None`` labels each cell with a leaf.
        reject
            ``"auto"`` assigns cells that no type supports to an inner node or the root, regardless
            of their probabilities; ``"off"`` applies only the threshold, as ``corrected`` does.
        corrected
            Batch correction of this query by :func:`hdeepinsight.pp.stacas` with
            ``normalizer=model.normalizer``; the corrected log values are used before scaling.
        layer, use_raw, scale, fold_case
            How to read the query, as in :meth:`~hdeepinsight.models.CountModel.open`.
        batch_size
            Cells per forward pass; chosen for the network and its device by default.
        keep
            List to which the counts of all genes of the query are appended block by block, for a
            graph of its cells (:meth:`~hdeepinsight.data.AlignedQuery.chunks`).

        Returns
        -------
        The annotation: labels, probabilities, confidence, and reports on the matrix and genes.
        Cells without counts of the model's genes are assigned to the root regardless of the
        threshold, because all siblings are equally likely for them.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match, or ``corrected``
            belongs to another model or other cells.

        Examples
        --------
        Only 263 of the model's genes were measured in the demo cells, which raises a warning:

        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> result = model.annotate(query)
        >>> len(result), result.labels.columns.tolist()
        (210, ['lineage', 'cell_type', 'subtype', 'stop_label'])
        >>> result.gene_report.n_measured
        263
        """
        annotation.check_decoding(threshold, decoder, reject)
        opened = self._open_trained(
            query, indices, layer=layer, use_raw=use_raw, scale=scale, fold_case=fold_case
        )
        # Rejection uses mean profiles, which are compared with uncorrected counts.
        reject = "off" if corrected is not None else reject
        how: dict[str, Any] = {"decoder": decoder, "threshold": threshold, "reject": reject}
        return QueryReader(self, opened, corrected, **how).annotate(batch_size, keep=keep)

    def annotate_blocks(
        self,
        query: Any,
        rows: range | None = None,
        *,
        decoder: annotation.Decoder = "joint",
        threshold: float | None = 0.5,
        reject: annotation.Reject = "auto",
        **reading: Any,
    ) -> Iterator[annotation.Annotation]:
        """Annotate a query block by block; memory does not grow with its number of cells.

        Parameters
        ----------
        query, decoder, threshold, reject
            As in :meth:`annotate`.
        rows
            Cells to annotate, all by default. If the range starts at a multiple of 4,096, complete
            blocks are bit-identical to those of the whole query.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of :meth:`annotate`.

        Yields
        ------
        The annotation of the next 4,096 cells, with the same labels as :meth:`annotate` and the
        verdict on the whole query.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match. Invalid values that
            the initial sample does not contain raise it later, after the last block at the latest.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> [len(block) for block in model.annotate_blocks(query)]
        [210]
        """
        annotation.check_decoding(threshold, decoder, reject)
        if not isinstance(rows, range | None):
            raise invalid("rows", rows, "a range of cells")
        how: dict[str, Any] = {"decoder": decoder, "threshold": threshold, "reject": reject}
        return self.blocks(self._open_trained(query, None, **reading), **how).annotations(rows)

    def blocks(self, opened: AlignedQuery, **how: Any) -> QueryReader:
        """Prepare a query for annotation in blocks, in any order or in other processes.

        Parameters
        ----------
        opened
            Query, as :meth:`~hdeepinsight.models.CountModel.open` returned it.
        **how
            ``decoder``, ``threshold`` and ``reject`` of :meth:`annotate`.

        Returns
        -------
        An object whose ``annotations(rows)`` yields one annotation per 4,096 cells. ``rows`` is a
        ``range`` that starts at a multiple of 4,096; by default all cells.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> blocks = model.blocks(model.open(query))
        >>> [len(block) for block in blocks.annotations()]
        [210]
        """
        return QueryReader(self, opened, **how).compare_sample()

    def predict(
        self,
        adata: Any = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        *,
        level: int | str | None = None,
        **kwargs: Any,
    ) -> pd.Series | pd.DataFrame:
        """Return the label of each cell.

        Parameters
        ----------
        adata
            As ``query`` in :meth:`annotate`.
        indices
            Cells to label, as positions or a Boolean mask; all cells by default.
        soft
            Return probabilities instead, as :meth:`predict_proba`.
        batch_size
            Cells per forward pass; chosen for the network and its device by default.
        level
            Name or depth of a level; by default the deepest confident label of each cell.
        **kwargs
            Further keyword arguments of :meth:`annotate`; with ``soft`` of :meth:`predict_proba`.

        Returns
        -------
        Series of the labels of :meth:`annotate`, indexed by cell; with ``soft`` a table.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> labels = model.predict(query, level="lineage")
        >>> labels.index.equals(query.obs_names)
        True
        """
        if soft:
            return self.predict_proba(adata, indices, batch_size, level=level, **kwargs)
        check_keywords("predict()", kwargs, signature(self.annotate).parameters)
        result = self.annotate(adata, indices=indices, batch_size=batch_size, **kwargs)
        return result.label_column(level)

    def predict_proba(
        self,
        adata: Any = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        *,
        level: int | str | None = None,
        corrected: StacasResult | None = None,
        **reading: Any,
    ) -> pd.DataFrame:
        """Return the probability of each node, or of the nodes of one level.

        Unlike :meth:`annotate`, this does not compare the query with the reference.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`predict`.
        level
            Name or depth of a level; all nodes by default.
        corrected
            As in :meth:`annotate`.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of
            :meth:`~hdeepinsight.models.CountModel.open`.

        Returns
        -------
        Table of shape ``(n_cells, n_nodes - 1)``, or one column per node of the level.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> table = model.predict_proba(query, level="lineage")
        >>> table.shape, table.columns.tolist()
        ((210, 5), ['T', 'NK', 'B', 'Myeloid', 'Platelet'])
        """
        reader = QueryReader(self, self._open_trained(adata, indices, **reading), corrected)
        found = reader.read(("probabilities",), batch_size)
        result = annotation.Annotation(
            taxonomy=self.taxonomy,
            obs_names=reader.opened.obs_names,
            node_probabilities=found.get("probabilities", np.zeros((0, 0))),
        )
        return result.probabilities(level)

    def get_latent_representation(
        self,
        adata: Any = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **reading: Any,
    ) -> np.ndarray:
        """Return the latent representation of each cell, shape ``(n_cells, n_latent)``.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`predict`.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of
            :meth:`~hdeepinsight.models.CountModel.open`.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> len(model.get_latent_representation(query)) == query.n_obs
        True
        """
        opened = self._open_trained(adata, indices, needs_head=False, **reading)
        found = QueryReader(self, opened).read(("latent",), batch_size)
        return found.get("latent", np.zeros((0, 0), dtype=np.float32))

    def label_nodes(
        self,
        adata: Any = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
    ) -> np.ndarray:
        """Return the taxonomy node of the known label of each cell.

        Parameters
        ----------
        adata
            Labelled AnnData, MuData or path; the registered reference by default.
        labels_keys
            Columns of ``obs`` with the labels, from coarse to fine; by default those of the
            reference.
        unlabeled_category
            Label of unlabelled cells; by default that of the reference.

        Returns
        -------
        Node of each cell, shape ``(n_cells,)``; 0, the root, for unlabelled cells.

        Raises
        ------
        KeyError
            If a column is missing.
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
        if not isinstance(unlabeled_category, str | None):
            raise invalid("unlabeled_category", unlabeled_category, "a single label, as text")
        keys = self._setup.labels_keys if labels_keys is None else as_label_keys(None, labels_keys)
        obs = self._setup.obs_of(self._with_obs(adata))
        hint = "Pass the label columns as labels_keys."
        return self._nodes(obs, keys, unlabeled=unlabeled_category, hint=hint)

    def evaluate(
        self,
        adata: Any = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        **kwargs: Any,
    ) -> annotation.Evaluation:
        """Evaluate the annotation against known labels.

        Parameters
        ----------
        adata
            Labelled AnnData, MuData or path; by default the held-out cells of the reference, which
            are matched by name.
        labels_keys, unlabeled_category
            As in :meth:`label_nodes`.
        **kwargs
            Keyword arguments of :meth:`annotate`.

        Returns
        -------
        Accuracy, macro-F1 and calibration error of each level, hierarchical scores, and the number
        of cells labelled above the leaves.

        Raises
        ------
        KeyError
            If a column is missing.
        ValueError
            If no cell has a label, a label is not in the taxonomy, or the attached reference lacks
            held-out cells.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> names = {"T cell": "T", "NK cell": "NK", "B cell": "B", "Myeloid cell": "Myeloid"}
        >>> query.obs["known"] = query.obs["lineage"].astype(str).map(names)
        >>> scores = model.evaluate(query, labels_keys=["known"])
        >>> scores.n_cells, bool(scores.levels.loc["lineage", "accuracy"] > 0.75)
        (206, True)
        """
        known = dict.fromkeys(["labels_keys", "unlabeled_category"])
        check_keywords("evaluate()", kwargs, known | signature(self.annotate).parameters)
        self._check_if_trained(warn=False)
        data = self._held_out() if adata is None else adata
        is_own = self._query is not None and data is self._query.data  # which is open already
        cells = self._with_obs(data)
        nodes = self.label_nodes(
            cells, labels_keys=labels_keys, unlabeled_category=unlabeled_category
        )
        if (indices := kwargs.get("indices")) is not None:
            nodes = nodes[cell_positions(indices, cells.obs.index)]
        return annotation.evaluate_annotation(
            self.annotate(data if is_own else cells, **kwargs), nodes
        )

    def _with_obs(self, adata: Any) -> Any:
        """Return the given cells, opened if they are a file; ours by default."""
        data = self._resolve_adata(adata)
        return data if hasattr(data, "obs") else open_store(data)

    def _open_trained(
        self, query: Any, indices: Any, *, needs_head: bool = True, **reading: Any
    ) -> AlignedQuery:
        """Open a query of a trained model; reuse the opened query of a query model."""
        if needs_head and self.taxonomy is None:
            raise ValueError(NO_HEAD)
        check_keywords("This call", reading, READING)
        self._check_if_trained(warn=False)
        own = self._query
        if own is not None and (query is None or query is own.data):
            given = {k: v for k, v in reading.items() if v not in (None, False, "auto")}
            if query is None and not given:
                return self.open(own.opened, indices=indices)
            query, reading = own.data, own.reading | given
        opened = self.open(query, indices=indices, **reading)
        if self.adapter_ is not None and self.is_adapted:
            n_new = int((self.adapter_.batch_of(opened.obs) < 0).sum())
            if n_new:
                msg = f"{n_new:,} of {counted(opened.n_obs, 'cell')} are read without adaptation:"
                key = f"they have none of the adapted batches of {self.adapter_.batch_key!r}."
                hint = "Adapt the reference model to them."
                warnings.warn(f"{msg} {key} {hint}", UserWarning, stacklevel=3)
        return opened

    # ----------------------------------------------------------------------------- adaptation

    @property
    def adaptation(self) -> AdaptationReport | None:
        """Decision, reason and measurements of the adaptation; ``None`` before training."""
        return None if self.adapter_ is None else self.adapter_.report

    @property
    def is_adapted(self) -> bool:
        """Whether the model differs from the reference model."""
        return self.adapter_ is not None and self.adapter_.is_applied

    @classmethod
    def load_query_data(
        cls,
        adata: Any,
        reference_model: Any,
        *,
        labels_key: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        **reading: Any,
    ) -> Self:
        """Create a query model from a reference model.

        Before training it annotates exactly as the reference model, which is not changed.

        Parameters
        ----------
        adata
            The query, as in :meth:`annotate`. It is not modified.
        reference_model
            Trained model, the folder of one, or the name of a bundled one.
        labels_key
            Column, or columns from coarse to fine, with known labels of query cells. Labels that
            are not in the taxonomy are ignored, with a warning. By default no labels are used.
        batch_key
            Column of the query with the batch of each cell; each batch is adapted separately. By
            default all cells are one batch.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of
            :meth:`~hdeepinsight.models.CountModel.open`.

        Returns
        -------
        A model of the same class with an ``adapter_``; call ``train()``, then ``annotate()``.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match.
        KeyError
            If a column is missing.
        TypeError
            If ``reference_model`` is not a model.
        ValueError
            If the model is a query model, or was saved without mean profiles of its reference.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> adapted = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> adapted.train(max_steps=0)
        >>> len(adapted.annotate()), adapted.adaptation.n_cells
        (210, 210)

        Notes
        -----
        The method is our own. Class means of the discriminant are recomputed with the cells of the
        query. For a query of another study, each batch also gets its own normalisation statistics,
        estimated with cells weighted to the class proportions of the reference. A second classifier
        compares ranks of marker genes with the mean profiles of the reference. Adapters of the
        normalisation layers and of the head are trained on the predictions of both, with thinned
        and masked counts. Markers that were not used in this decide whether the adapter is kept.
        """
        model = copy.copy(cls._model_of(reference_model))
        model._check_if_trained(warn=False)
        if model.adapter_ is not None:
            msg = "reference_model must be a reference model, got a query model."
            raise ValueError(f"{msg} Pass the model that it was created from.")
        if model.profiles_ is None:
            msg = "The reference model was saved without mean profiles of its reference."
            raise ValueError(f"{msg} Train and save the model again.")
        model.module = copy.deepcopy(model.module)
        model._adata = model._adata_manager = None
        check_keywords("load_query_data()", reading, ("labels_key", "batch_key", *READING))
        opened = model.open(adata, **reading)
        model.adapter_ = Adapter.from_obs(opened.obs, batch_key)
        keys = [] if labels_key is None else as_label_keys(None, labels_key)
        nodes = model._nodes(opened.obs, keys, ignore_unknown=True)
        named = [~find_unlabeled(opened.obs[key], model._setup.unlabeled) for key in keys]
        n_lost = int((np.any(named, axis=0) & (nodes == 0)).sum())
        if keys and (n_lost or not nodes.any()):
            n_known, n_cells = np.count_nonzero(nodes), counted(len(nodes), "cell")
            msg = f"{n_known:,} of {n_cells} have a label of the taxonomy in {labels_key!r}"
            msg += (
                f", {n_lost:,} another one, which is ignored. Rename these labels, or add synonyms."
            )
            warnings.warn(msg, UserWarning, stacklevel=2)
        model._query = _Query(adata, reading, opened, nodes, model.module)
        return model

    def _fit_adapter(self, plan: dict[str, Any], options: dict[str, Any]) -> None:
        """Fit the adapter on the query; it is applied only if the check supports it."""
        query, former = self._query, self.adapter_
        if query is None or former is None:
            raise ValueError(
                "This query model was loaded from a folder, which does not contain its query. Pass "
                "a query to annotate it; to train, start from load_query_data."
            )
        known = signature(AdaptationOptions).parameters
        check_keywords("train() of an adapter", [*plan, *options], known)
        settings = AdaptationOptions(**plan, **options)
        self.adapter_ = adapter = Adapter(former.batches, former.batch_key)
        device: Any = self.module.temperature.device
        network = query.module.to(device)
        opened = query.opened
        batch = adapter.batch_of(opened.obs)
        rng = np.random.default_rng(self.seed)
        rows = draw_evenly(batch, settings.max_cells, rng, first=query.nodes > 0)
        measured = torch.tensor(opened.measured, dtype=torch.float32, device=device)
        extra, labelled = opened.extra[rows], (batch[rows], query.nodes[rows])
        cells = QueryCells(opened.read(rows), *labelled, extra.arrays, extra.has_rna)
        profiles: Any = self.profiles_
        reader = QueryReader(self, opened)
        some = cells.spread(SAMPLE_CELLS)
        some = replace(some, batch=np.full(len(some), -1))  # no adapter is applied
        read = some.counts, reader.network(some, ("probabilities",))["probabilities"]
        comparison = reader.compare(*read)
        with seeded(self.seed):
            self.module = adapter.fit(
                network,
                cells,
                measured,
                profiles=profiles,
                ensemble=reader.network.ensembles[0],
                shift=self.shift_,
                unlike=None if comparison is None else comparison.foreign_share(*read),
                options=settings,
                seed=self.seed,
            )
        self.module.eval()
        report: Any = adapter.report
        self.recipe_ = {**self.recipe_, "adaptation": report.to_dict()}

    def _load_object(self, kind: Any, values: dict[str, Any]) -> Any:
        if kind is annotation.Calibration:
            return annotation.Calibration.from_dict(values, self.taxonomy)
        if kind is Adapter:
            return Adapter.from_dict(values, self.module, self.profiles_)
        return kind.from_dict(values)


class _Query(NamedTuple):
    """Query of a query model; it is not saved with the model."""

    data: Any
    reading: dict[str, Any]
    opened: AlignedQuery
    nodes: np.ndarray
    module: torch.nn.Module
