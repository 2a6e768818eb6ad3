"""A model of a query: the reference model, adapters around it, and a second opinion."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight.data import is_paired, open_paired
from hdeepinsight.models._adapt import (
    AdaptationOptions,
    AdaptationReport,
    Adapter,
    QueryCells,
    draw_cells,
    reference_sums,
)
from hdeepinsight.models._base._io import to_plain
from hdeepinsight.models._base._registry import register
from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight
from hdeepinsight.models.schdeepinsight._surgery_labels import known_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData
    from torch import Tensor

    from hdeepinsight.annotation import Calibration
    from hdeepinsight.data import CountSource, GeneAlignment, ScaleMode
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.models.schdeepinsight._multimodal import FurtherInputs
    from hdeepinsight.models.schdeepinsight._surgery import SurgeryMixin


@dataclass(frozen=True, kw_only=True)
class QueryData:
    """The query that a model was made for, and how it is read."""

    query: Query
    reading: dict[str, Any]
    reference: AnnData | str | Path | None
    labels_key: str | Sequence[str] | None
    batch_key: str | None
    frozen: tuple[bool, bool]


@register
class AdaptedSCHDeepInsight(SCHDeepInsight):
    """A model of a query, made by :meth:`~hdeepinsight.models.SCHDeepInsight.load_query_data`.

    Until :meth:`train` was called, and wherever that decided for ``"zero-shot"``, it annotates
    exactly as the reference model does. Methods that take a query use its own by default.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> query = hdi.datasets.demo().query
    >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
    >>> mapped.is_adapted, mapped.adaptation is None
    (False, True)
    >>> mapped.train(max_steps=0)
    >>> mapped.adaptation.decision in ("adapted", "zero-shot")
    True

    Notes
    -----
    The reference model is never changed. Our decisions: every batch gets normalisation statistics
    of its own, estimated with its classes weighed as in the reference; resemblance to the
    reference's mean profiles, by ranks of markers, is a second opinion; adapters of the
    normalisations and of the head learn from both opinions on thinned and masked views; markers
    that took no part decide whether that helped.
    """

    adapter_: Adapter = Adapter()
    data_: QueryData | None = None

    @classmethod
    def from_reference(
        cls,
        query: Query,
        reference_model: SurgeryMixin,
        *,
        reference: AnnData | str | Path | None,
        labels_key: str | Sequence[str] | None,
        batch_key: str | None,
        frozen: tuple[bool, bool],
        reading: dict[str, Any],
    ) -> Self:
        """Make the model; see :meth:`~hdeepinsight.models.SCHDeepInsight.load_query_data`."""
        if isinstance(reference_model, AdaptedSCHDeepInsight):
            msg = (
                "The reference model is a model of a query itself. Valid is the model that it was "
                "made from. Load that one."
            )
            raise TypeError(msg)
        registry = {**copy.deepcopy(reference_model.registry_), "model_name": cls.__name__}
        options = copy.deepcopy(reference_model.init_params_["non_kwargs"])
        model = cls(None, registry=registry, **options)
        model._restore(to_plain(reference_model._payload()[SAVE_KEYS.ATTR_DICT_KEY]))
        model.module.load_state_dict(reference_model.module.state_dict())
        model.to_device(reference_model.device)
        model.module.eval()
        model.data_ = QueryData(
            query=open_paired(query) if is_paired(query) else query,
            reading=reading,
            reference=reference,
            labels_key=labels_key,
            batch_key=batch_key,
            frozen=frozen,
        )
        model._check_profiles()
        model._open_own()
        return model

    @property
    def adaptation(self) -> AdaptationReport | None:
        """What :meth:`train` decided, why, and the figures; ``None`` before."""
        return self.adapter_.report

    @property
    def is_adapted(self) -> bool:
        """Whether the model differs from the reference model."""
        return self.adapter_.is_applied

    @property
    def calibration(self) -> Calibration | None:
        """Conformal scores of the reference; after an adaptation their promise no longer holds."""
        scores = super().calibration
        if scores is None or not self.is_adapted:
            return scores
        return replace(scores, source=f"{scores.source} before the adaptation to a query")

    def train(  # type: ignore[override]
        self, max_steps: int = 200, *, guard: bool = True, **options: Any
    ) -> None:
        """Adapt to the query, and keep that only if it helped.

        Parameters
        ----------
        max_steps
            Steps of the optimiser. With 0 the normalisation adapts and the second opinion is
            heard, and nothing is trained.
        guard
            Fall back to the reference model where the figures speak against the adaptation. Off,
            the adaptation is kept whatever they say; they are still in :attr:`adaptation`.
        **options
            Further fields of ``AdaptationOptions``: ``batch_size``, ``statistics``,
            ``adapter_lr``, ``network_lr``, ``weight_decay``, ``refresh``, ``threshold``,
            ``max_mask_rate`` and ``max_cells``.

        Raises
        ------
        ValueError
            If the model was loaded from a folder, and has no query to train on, or a setting is
            out of its range.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> mapped.train(max_steps=0)
        >>> mapped.is_adapted == (mapped.adaptation.decision == "adapted")
        True
        """
        settings = AdaptationOptions(max_steps=max_steps, guard=guard, **options)
        cells, measured = self._query_cells(settings.max_cells)
        reference, data = self._reference_cells(), self._data()
        self.profiles_ = self._check_profiles(reference)
        self.module = self.adapter_.fit(
            self.module,
            cells,
            measured,
            profiles=self.profiles_,
            agreement=self.agreement_,
            shift=self.shift_,
            thinning=self.thinning,
            reference=reference,
            options=settings,
            freeze_backbone=data.frozen[0],
            freeze_head=data.frozen[1],
            seed=self.seed,
        )
        report = self.adapter_.report
        self.recipe_ = {**self.recipe_, "adaptation": report and report.to_dict()}

    def _data(self) -> QueryData:
        if self.data_ is None:
            msg = (
                "This model of a query was loaded from a folder, where its query is not kept. It "
                "annotates any query that is passed; to train, start from load_query_data."
            )
            raise ValueError(msg)
        return self.data_

    def _own_adata(self) -> AnnData:
        query: Any = self._data().query
        return query

    def _open(
        self,
        query: Query | None,
        layer: str | None,
        use_raw: bool,
        scale: ScaleMode,
        fold_case: bool,
    ) -> tuple[CountSource, GeneAlignment]:
        """Read the own query as it was read for training, unless told otherwise."""
        own = self.data_
        if own is not None and query is own.query and layer is None and not use_raw:
            given = {"scale": scale, "fold_case": fold_case}
            defaults = {"scale": "auto", "fold_case": False}
            changed = {name: value for name, value in given.items() if value != defaults[name]}
            return super()._open(query, **(own.reading | changed))
        return super()._open(query, layer, use_raw, scale, fold_case)

    def _open_own(self) -> tuple[CountSource, GeneAlignment, FurtherInputs, np.ndarray]:
        """Open the query and find the nodes of its labels; checks genes, batches and labels."""
        data = self._data()
        query = self._given(data.query)
        source, alignment = super()._open(query, **data.reading)
        if not self.is_adapted:  # else it knows the network that it started from
            self.adapter_ = Adapter.from_obs(source.obs, data.batch_key)
        nodes = known_nodes(
            source.obs, self.taxonomy, data.labels_key, unlabeled=self._unlabeled_category
        )
        return source, alignment, self._further_inputs(query), nodes

    def _query_cells(self, most: int) -> tuple[QueryCells, Tensor]:
        """Read the query into memory, sparse, or a draw of so many of its cells."""
        source, alignment, beside, nodes = self._open_own()
        batch = self.adapter_.batch_of(source.obs)
        rows = draw_cells(batch, nodes > 0, most, self.seed)
        measured = torch.tensor(alignment.measured, dtype=torch.float32, device=self.device)
        extra = beside.tensors(rows, measured)
        extra.pop("measured")
        has_rna = None if beside.has_rna is None else beside.has_rna[rows]
        counts = source.read(alignment, rows)
        return QueryCells(counts, batch[rows], nodes[rows], extra, has_rna), measured

    def _reference_cells(self) -> QueryCells | None:
        reference = self._data().reference
        if reference is None:
            return None
        given = self._given(reference)
        source, alignment = SCHDeepInsight._open(
            self, given, layer=None, use_raw=False, scale="auto", fold_case=False
        )
        labels = self._label_keys
        nodes = known_nodes(source.obs, self.taxonomy, labels, unlabeled=self._unlabeled_category)
        if not (nodes > 0).any():
            msg = (
                f"No cell of the reference has a label in {', '.join(labels)}. Valid are the cells "
                "that the model was trained on, with their labels. Pass them, or leave it out."
            )
            raise ValueError(msg)
        keep = np.flatnonzero(nodes > 0)
        batch = np.full(len(keep), -1)
        return QueryCells(source.read(alignment)[keep], batch, nodes[keep])

    def _check_profiles(self, reference: QueryCells | None = None) -> Any:
        if reference is not None:
            (sums,) = reference_sums(self.module, reference.counts, reference.nodes)
            return sums.profiles()
        if self.profiles_ is None and self._data().reference is None:
            msg = (
                "The reference model was saved without mean profiles of its reference. Valid are "
                "models that hold them, or the reference itself: pass reference=, or train and "
                "save the model again."
            )
            raise ValueError(msg)
        return self.profiles_

    def _read_cells(
        self, source: CountSource, cells: slice, counts: Tensor, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        batch = self.adapter_.batch_of(source.obs.iloc[cells])
        return self.adapter_.predict(self.module, counts, batch=batch, **inputs)

    def _adapted_batches(self, obs: pd.DataFrame) -> tuple[np.ndarray | None, str]:
        if not self.is_adapted:
            return None, ""
        return self.adapter_.batch_of(obs), (
            "The adapted network is explained; the ranks of markers, which are half of what the "
            "model says, have no gradient."
        )

    def _payload(self) -> dict[str, Any]:
        payload = super()._payload()
        payload[SAVE_KEYS.ATTR_DICT_KEY] |= {
            "adapter_": self.adapter_.to_dict(),
        }
        return payload

    def _restore(self, attributes: dict[str, Any]) -> None:
        super()._restore(attributes)
        old = {name: attributes.get(f"{name}_") for name in ("batches", "batch_key", "trust")}
        values = attributes.get("adapter_") or {"report": attributes.get("adaptation_"), **old}
        self.adapter_ = Adapter.from_dict(values, self.module, self.profiles_)
