"""What a trained classifier says of cells, and what it learns about a query."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
import pandas as pd
import torch
from scipy import sparse

from hdeepinsight._errors import check_keywords, one_column
from hdeepinsight.adaptation import AdaptationOptions, Adapter, QueryCells, reference_sums
from hdeepinsight.annotation import (
    Annotation,
    Calibration,
    Decoder,
    Evaluation,
    QueryJudge,
    ReferenceBank,
    Reject,
    check_decoding,
    evaluate_annotation,
    judgement,
)
from hdeepinsight.data import (
    SAMPLE_CELLS,
    draw_evenly,
    is_paired,
    open_store,
)
from hdeepinsight.models._base._reader import QueryReader, query_cells
from hdeepinsight.models._base._setup import as_label_keys
from hdeepinsight.nn import LeafProfiles, ModelNormalizer, seeded
from hdeepinsight.taxonomy import column_nodes

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.adaptation import AdaptationReport
    from hdeepinsight.data import AlignedQuery, ScaleMode
    from hdeepinsight.models._base._count_model import CountModel as _Base
    from hdeepinsight.pp import StacasResult
    from hdeepinsight.taxonomy import Taxonomy
else:
    _Base = object

#: How a query is read.
READING = "layer", "use_raw", "scale", "fold_case"


class AnnotatingMixin(_Base):
    """Annotate, be evaluated, and adapt to a query; needs a taxonomy and a network with logits.

    The network has ``tree``, ``temperature``, ``normalizer`` and ``predict``. Nothing here takes
    scvi-tools: it is what an :class:`Annotator` and every :class:`HierarchicalClassifierMixin` do.
    """

    _parts: ClassVar[Mapping[str, type]] = {
        "calibration_": Calibration,
        "bank_": ReferenceBank,
        "profiles_": LeafProfiles,
        "adapter_": Adapter,
    }

    _figures: ClassVar[tuple[str, ...]] = ("shift_",)

    taxonomy: Taxonomy
    calibration_: Calibration | None = None
    bank_: ReferenceBank | None = None
    profiles_: LeafProfiles | None = None
    adapter_: Adapter | None = None
    shift_: float | None = None
    _query: _Query | None = None

    @property
    def normalizer(self) -> ModelNormalizer:
        """What turns counts into the model's log values; give it to `hdi.pp.stacas`."""
        return ModelNormalizer(self.genes, self.module.normalizer)

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
        """Return the node of every cell's label, by default of the reference as registered."""
        obs = self.adata_manager.adata.obs if obs is None else obs
        keys = self._setup.labels_keys if keys is None else keys
        keys = [keys] if isinstance(keys, str) else keys
        for key in keys:
            one_column(obs, key, hint=hint)
        unlabeled = unlabeled or self._setup.unlabeled
        return column_nodes(
            self.taxonomy, obs, keys, unlabeled=unlabeled, ignore_unknown=ignore_unknown
        )

    @property
    def calibration(self) -> Calibration | None:
        """Conformal scores of the held-out cells; ``None`` where none were held out."""
        if self.calibration_ is None or not self.is_adapted:
            return self.calibration_
        source = f"{self.calibration_.source} before the adaptation to a query"
        return replace(self.calibration_, source=source)

    @property
    def combined_profiles(self) -> LeafProfiles | None:
        """Return the profiles that are combined with the network, if there are any."""
        profiles = self.profiles_
        return None if profiles is None or profiles.variance is None else profiles

    # ----------------------------------------------------------------------------- annotation

    def annotate(
        self,
        query: Any = None,
        *,
        indices: Sequence[int] | None = None,
        decoder: Decoder = "joint",
        threshold: float | None = 0.5,
        reject: Reject = "auto",
        corrected: StacasResult | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        batch_size: int | None = None,
        keep: list[sparse.csr_matrix] | None = None,
    ) -> Annotation:
        """Label every cell at every level.

        Parameters
        ----------
        query
            AnnData (in memory or backed), MuData, path of an h5ad, zarr or h5mu file, or what
            :meth:`~hdeepinsight.models.CountModel.open` returned. It needs raw counts and gene
            names, and no set-up, labels or batch column; its genes may stand in any order, some may
            be missing and others there too. A model of RNA and proteins also takes either alone.
            The model's own data by default.
        indices
            Cells to annotate, as positions or as a mask; all of them by default.
        decoder
            ``"joint"`` takes the most probable leaf; ``"greedy"`` walks down by the most probable
            child, as published.
        threshold
            A label stops at the deepest node whose probability is at least this; from 0.5 to 1,
            or ``None`` for the leaf of every cell.
        reject
            ``"auto"`` stops cells that no type supports further up, or at the root, whatever their
            probabilities; ``"off"`` leaves that to the threshold, as a correction by
            ``corrected`` does.
        corrected
            Batch correction of this query by :func:`hdeepinsight.pp.stacas` with
            ``normalizer=model.normalizer``; its log values enter before the per-gene scale.
        layer, use_raw, scale, fold_case
            How the query is read, as in :meth:`~hdeepinsight.models.CountModel.open`.
        batch_size
            Cells in one pass through the network; by default what suits it and its device.
        keep
            List to which the counts of all genes of the query are added block by block, for a
            graph of its cells (:meth:`~hdeepinsight.data.AlignedQuery.chunks`).

        Returns
        -------
        The annotation: labels, probabilities, confidence, and reports on the matrix and genes.
        A cell in which nothing of what the model reads was counted stops at the root, whatever the
        threshold: all siblings are equally likely for it.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match, or ``corrected`` was
            made for another model or other cells.

        Examples
        --------
        The demo cells were measured at few of the model's genes, which is warned of:

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
        check_decoding(threshold, decoder, reject)
        opened = self._open_trained(
            query, indices, layer=layer, use_raw=use_raw, scale=scale, fold_case=fold_case
        )
        # Profiles see a corrected query uncorrected.
        reject = "off" if corrected is not None else reject
        how: dict[str, Any] = {"decoder": decoder, "threshold": threshold, "reject": reject}
        reader = QueryReader(self, opened, corrected)
        return self._annotated(reader, batch_size=batch_size, keep=keep, **how)[0]

    def _annotated(
        self,
        reader: QueryReader,
        *,
        counts: list[sparse.csr_matrix] | None = None,
        batch_size: int | None = None,
        keep: list[sparse.csr_matrix] | None = None,
        **how: Any,
    ) -> tuple[Annotation, QueryJudge | None]:
        """Annotate a query in one pass, a small one judged by its cells, a large one by a sample.

        Its counts of the model's genes are appended to ``counts``, as its own to ``keep``.
        """
        judge, by_itself = None, self.bank_ is not None and reader.is_small
        if self.bank_ is not None and not by_itself:
            _, judge = self._annotated(reader.sample(), **how)
        counts = [] if by_itself and counts is None else counts
        found = reader.read(self._wanted, batch_size, counts=counts, keep=keep, judge=judge)
        if by_itself and counts:
            read = sparse.vstack(counts, format="csr"), found["probabilities"]
            judge = reader.judge(*read)
            found |= {} if judge is None else judge.measure(*read)
        return self._annotation(reader.opened, judge, found, **how), judge

    def annotate_blocks(
        self,
        query: Any,
        rows: range | None = None,
        *,
        decoder: Decoder = "joint",
        threshold: float | None = 0.5,
        reject: Reject = "auto",
        **reading: Any,
    ) -> Iterator[Annotation]:
        """Label a query block by block, in memory that does not grow with its number of cells.

        Parameters
        ----------
        query, decoder, threshold, reject
            As in :meth:`annotate`.
        rows
            Cells to label, all by default: from a multiple of 4,096 on, whole blocks are those of
            the whole query to the last bit.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of :meth:`annotate`.

        Yields
        ------
        The annotation of the next 4,096 cells. Their labels are those of :meth:`annotate`, and the
        verdict is that on the whole query.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match; for values that are
            met midway, and were not among those looked at first, only then or after the last block.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> [len(block) for block in model.annotate_blocks(query)]
        [210]
        """
        check_decoding(threshold, decoder, reject)
        how: dict[str, Any] = {"decoder": decoder, "threshold": threshold, "reject": reject}
        reader, judge = QueryReader(self, self._open_trained(query, None, **reading)), None
        if self.bank_ is not None:
            sample, judge = self._annotated(reader.sample(), **how)
            how["said"] = {"verdict": sample.verdict, "gene_report": sample.gene_report}
        reader = reader if rows is None else reader.of(np.arange(rows.start, rows.stop))
        for place, _, part in reader.chunks(self._wanted, judge=judge):
            yield self._annotation(reader.opened.subset(place), judge, part, **how)

    @property
    def _wanted(self) -> tuple[str, ...]:
        several = getattr(self.module, "n_members", 1) > 1
        return ("probabilities", "seen", *(["disagreement"] if several else []))

    def _annotation(
        self,
        opened: AlignedQuery,
        judge: QueryJudge | None,
        found: dict[str, np.ndarray],
        *,
        reject: Reject = "auto",
        said: Mapping[str, Any] | None = None,
        **how: Any,
    ) -> Annotation:
        """Return the annotation of a query, or of a part, from what was found of its cells."""
        probabilities = found.pop("probabilities", np.zeros((0, 0)))
        seen = found.pop("seen", np.ones(0, dtype=bool))
        how |= {"disagreement": found.pop("disagreement", None), "recipe": self.recipe}
        own = judgement(
            judge,
            found,
            probabilities,
            taxonomy=self.taxonomy,
            opened=opened,
            seen=seen,
            reject=reject,
        )
        return Annotation(
            taxonomy=self.taxonomy,
            node_probabilities=probabilities,
            calibration=self.calibration,
            **(how | own | dict(said or {})),
        )

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
        """Return the label of every cell.

        Parameters
        ----------
        adata
            As ``query`` in :meth:`annotate`.
        indices
            Cells to label, as positions or as a mask; all of them by default.
        soft
            Return probabilities instead, as :meth:`predict_proba` does.
        batch_size
            Cells in one pass through the network; by default what suits it and its device.
        level
            Name or depth of a level; by default the label where each cell's path stops.
        **kwargs
            Further keyword arguments of :meth:`annotate`; with ``soft`` of :meth:`predict_proba`.

        Returns
        -------
        Series of labels, indexed by cell, as :meth:`annotate` gives them; with ``soft`` a table.

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
        """Return the probability of every node, or of the nodes of one level.

        The query is not judged for it, as :meth:`annotate` does.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`predict`.
        level
            Name or depth of a level; all nodes by default.
        corrected
            As in :meth:`annotate`.
        **reading
            How the cells are read: ``layer``, ``use_raw``, ``scale``, ``fold_case`` of
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
        result = Annotation(
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
        """Return the features of every cell, shape ``(n_cells, n_latent)``.

        Parameters
        ----------
        adata, indices, batch_size
            As in :meth:`predict`.
        **reading
            How the cells are read: ``layer``, ``use_raw``, ``scale``, ``fold_case`` of
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
        reader = QueryReader(self, self._open_trained(adata, indices, **reading))
        found = reader.read(("latent",), batch_size)
        return found.get("latent", np.zeros((0, 0), dtype=np.float32))

    def label_nodes(
        self,
        adata: Any = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
    ) -> np.ndarray:
        """Return the node of the taxonomy that the known label of every cell means.

        Parameters
        ----------
        adata
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
        keys = as_label_keys(None, labels_keys) if labels_keys else self._setup.labels_keys
        data = self._resolve_adata(adata)
        obs = self._setup.obs_of(data, keys) if is_paired(data) else open_store(data).obs
        hint = "Name columns that hold labels in labels_keys."
        return self._nodes(obs, keys, unlabeled=unlabeled_category, hint=hint)

    def evaluate(
        self,
        adata: Any = None,
        *,
        labels_keys: Sequence[str] | None = None,
        unlabeled_category: str | None = None,
        **kwargs: Any,
    ) -> Evaluation:
        """Score the model where labels are known.

        Parameters
        ----------
        adata
            Labelled AnnData, MuData or path; by default the cells of the reference that were held
            out in training, which are found by name.
        labels_keys, unlabeled_category
            As in :meth:`label_nodes`.
        **kwargs
            Keyword arguments of :meth:`annotate`.

        Returns
        -------
        Accuracy, macro-F1 and calibration error of every level, hierarchical scores, and how many
        cells stop above a type.

        Raises
        ------
        KeyError
            If a column is not there.
        ValueError
            If no cell has a label, a label is not in the taxonomy, or the held-out cells are not
            in the attached reference.

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
        data = self._held_out() if adata is None else adata
        nodes = self.label_nodes(
            data, labels_keys=labels_keys, unlabeled_category=unlabeled_category
        )
        return evaluate_annotation(self.annotate(data, **kwargs), nodes)

    def _open_trained(self, query: Any, indices: Any, **reading: Any) -> AlignedQuery:
        """Open a query of a trained model; its own as it was opened for the adaptation."""
        check_keywords("This call", reading, READING)
        self._check_if_trained(warn=False)
        own = self._query
        if own is not None and (query is None or query is own.data):
            given = {k: v for k, v in reading.items() if v not in (None, False, "auto")}
            if query is None and not given:
                return self.open(own.opened, indices=indices)
            query, reading = own.data, own.reading | given
        return self.open(query, indices=indices, **reading)

    # ----------------------------------------------------------------------------- adaptation

    @property
    def adaptation(self) -> AdaptationReport | None:
        """What fitting the adapter decided, why, and the figures; ``None`` before."""
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
        reference: AnnData | str | Path | None = None,
        labels_key: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        freeze_backbone: bool = True,
        freeze_head: bool = True,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
    ) -> Self:
        """Return a model of a query, made of a model of a reference.

        Until it is trained it annotates exactly as the reference model does, which stays as it is.

        Parameters
        ----------
        adata
            The query, as in :meth:`annotate`. Nothing is written to it.
        reference_model
            A trained model, or the folder of a saved one.
        reference
            The labelled cells that the model was trained on, with the label columns that it was
            registered with. Needed for a model that was saved without the mean profiles of its
            reference, which are then made of these.
        labels_key
            Column, or columns from coarse to fine, with the labels of those query cells that have
            one. Labels that the taxonomy does not know are ignored. By default no label is read,
            even where there are some.
        batch_key
            Column of the query with the batch of every cell; each batch is adapted on its own. By
            default all cells are one batch.
        freeze_backbone, freeze_head
            Keep the weights of the reference bit by bit; only the adapter is trained.
        layer, use_raw, scale, fold_case
            How the query is read, as in :meth:`~hdeepinsight.models.CountModel.open`.

        Returns
        -------
        A model of the same class with an ``adapter_``: ``train()`` it, then ``annotate()``.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match.
        KeyError
            If a column is not there.
        TypeError
            If ``reference_model`` is not a model.
        ValueError
            If the model is adapted already, or was saved without profiles of its reference, and no
            reference is given.

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
        Our decisions: every batch gets normalisation statistics of its own, estimated with its
        classes weighed as in the reference; resemblance to the reference's mean profiles, by ranks
        of markers, is a second opinion; adapters of the normalisations and of the head learn from
        both opinions on thinned and masked views; markers that took no part decide whether that
        helped.
        """
        model = copy.copy(cls._model_of(reference_model))
        model._check_if_trained(warn=False)
        if model.adapter_ is not None:
            msg = "The reference model is a model of a query itself."
            raise ValueError(f"{msg} Pass the model that it was made from.")
        if model.profiles_ is None and reference is None:
            msg = "The reference model was saved without mean profiles of its reference. Pass the"
            raise ValueError(f"{msg} reference as reference=, or train and save the model again.")
        model.module = copy.deepcopy(model.module)
        model._adata = model._adata_manager = None
        reading: Any = {"layer": layer, "use_raw": use_raw, "scale": scale, "fold_case": fold_case}
        opened = model.open(adata, **reading)
        model.adapter_ = Adapter.from_obs(opened.obs, batch_key)
        nodes = model._nodes(opened.obs, labels_key or [], ignore_unknown=True)
        if labels_key and not nodes.any():
            msg = f"No cell of the query has a label of the taxonomy in {labels_key!r}, so"
            warnings.warn(f"{msg} labels_key has no effect.", UserWarning, stacklevel=2)
        freeze = {"freeze_backbone": freeze_backbone, "freeze_head": freeze_head}
        model._query = _Query(adata, reading, opened, nodes, reference, freeze, model.module)
        return model

    def _fit_adapter(self, plan: dict[str, Any], options: dict[str, Any]) -> None:
        """Adapt to the query, and keep that only if it helped."""
        query, adapter = self._query, self.adapter_
        if query is None or adapter is None:
            raise ValueError(
                "This model of a query was loaded from a folder, where its query is not kept. It "
                "annotates any query that is passed; to train, start from load_query_data."
            )
        known = signature(AdaptationOptions).parameters
        check_keywords("train() of an adapter", [*plan, *options], known)
        settings = AdaptationOptions(**plan, **options)
        device: Any = self.module.temperature.device
        network = query.module.to(device)
        opened = query.opened
        batch = adapter.batch_of(opened.obs)
        rng = np.random.default_rng(self.seed)
        rows = draw_evenly(batch, settings.max_cells, rng, first=query.nodes > 0)
        measured = torch.tensor(opened.measured, dtype=torch.float32, device=device)
        cells = query_cells(opened, rows, opened.read(rows), batch[rows], query.nodes[rows])
        profiles: Any = self.profiles_
        if query.reference is not None:
            given = self.open(query.reference)
            nodes = self._nodes(given.obs, ignore_unknown=True)
            if not (labelled := np.flatnonzero(nodes > 0)).size:
                raise ValueError(
                    f"No cell of the reference has a label in {', '.join(self._setup.labels_keys)}."
                    " Pass the cells that the model was trained on, with their labels, or omit "
                    "reference."
                )
            (sums,) = reference_sums(network, given.read(labelled), nodes[labelled])
            known, profiles = profiles, sums.profiles()
            if known is not None:
                within = {"variance": known.variance, "directions": known.directions}
                profiles = replace(profiles, **within)
        self.profiles_ = profiles
        reader = QueryReader(self, opened)
        with seeded(self.seed):
            self.module = adapter.fit(
                network,
                cells,
                measured,
                profiles=profiles,
                ensemble=reader.network.ensemble,
                shift=self.shift_,
                unlike=_unlike(reader, cells),
                options=settings,
                seed=self.seed,
                **query.freeze,
            )
        self.module.eval()
        report: Any = adapter.report
        self.recipe_ = {**self.recipe_, "adaptation": report.to_dict()}

    def _part(self, kind: Any, values: dict[str, Any]) -> Any:
        if kind is Calibration:
            return Calibration.from_dict(values, self.taxonomy)
        if kind is Adapter:
            return Adapter.from_dict(values, self.module, self.profiles_)
        return kind.from_dict(values)


def _unlike(reader: QueryReader, cells: QueryCells) -> float | None:
    """Return the share of some cells of a query that do not look like the reference."""
    few = cells[np.unique(np.linspace(0, len(cells) - 1, SAMPLE_CELLS).astype(int))]
    few = replace(few, batch=np.full(len(few), -1))  # read by the network of the reference
    probabilities = reader.network(few, ("probabilities",))["probabilities"]
    judge = reader.judge(few.counts, probabilities)
    return None if judge is None else judge.foreign_share(few.counts, probabilities)


class _Query(NamedTuple):
    """The query that a model was made for; it is not saved with it."""

    data: Any
    reading: dict[str, Any]
    opened: AlignedQuery
    nodes: np.ndarray
    reference: Any
    freeze: dict[str, bool]
    module: torch.nn.Module
