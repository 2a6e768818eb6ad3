"""From a query that was never set up to labels, in a stream of chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from hdeepinsight.annotation import (
    Annotation,
    Decoder,
    FeatureCells,
    check_decoder,
    check_threshold,
)
from hdeepinsight.data import align_genes, has_layer, is_paired, open_counts, without_genes
from hdeepinsight.models.schdeepinsight._calibration import CalibrationMixin, as_array
from hdeepinsight.models.schdeepinsight._correction import (
    CorrectedInputs,
    ModelNormalizer,
    corrected_inputs,
)
from hdeepinsight.models.schdeepinsight._multimodal import FurtherInputs, MultimodalMixin
from hdeepinsight.models.schdeepinsight._reference import check_numbers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from hdeepinsight.data import CountSource, GeneAlignment, GeneReport, ScaleMode
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.pp import StacasResult


class MappingMixin(CalibrationMixin, MultimodalMixin):
    """Annotate any AnnData, h5ad or zarr of raw counts; nothing is written to it."""

    def annotate(
        self,
        query: Query | None = None,
        *,
        decoder: Decoder = "joint",
        threshold: float | None = 0.5,
        corrected: StacasResult | None = None,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        batch_size: int = 1024,
    ) -> Annotation:
        """Label every cell at every level.

        Parameters
        ----------
        query
            AnnData (in memory or backed), MuData, or path of an h5ad, zarr or h5mu file. It needs
            raw counts and gene names, and no set-up, labels or batch column; its genes may stand
            in any order, some may be missing and others there too. A model of RNA and proteins
            also takes either alone. The model's own data by default.
        decoder
            ``"joint"`` takes the most probable leaf; ``"greedy"`` walks down by the most probable
            child, as published.
        threshold
            A label stops at the deepest node whose probability is at least this; from 0.5 to 1,
            or ``None`` for the leaf of every cell.
        corrected
            Batch correction of this query by :func:`hdeepinsight.pp.stacas` with
            ``normalizer=model.normalizer``; its log values enter before the per-gene scale.
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
        batch_size
            Cells in one pass through the network.

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
        check_threshold(threshold)
        check_decoder(decoder)
        query = self._given(query)
        source, alignment = self._open(query, layer, use_raw, scale, fold_case)
        own = self._further_inputs(query)
        further: FurtherInputs | CorrectedInputs = own
        if corrected is not None:
            further = corrected_inputs(corrected, self.normalizer, source, own)
        obs_names = pd.Index(source.obs_names)
        found = self._collect(source, alignment, batch_size, further, self._judge)
        seen = found.pop("seen", np.ones(0, dtype=bool))
        return Annotation(
            taxonomy=self.taxonomy,
            obs_names=obs_names,
            node_probabilities=found.pop("probabilities", np.zeros((0, 0))),
            threshold=threshold,
            decoder=decoder,
            input_report=source.report,
            gene_report=_note_unseen(further.note(alignment.report), seen),
            recipe=self.recipe,
            calibration=self.calibration,
            novelty=pd.DataFrame(found, index=obs_names) if found else None,
            max_stop_depth=None if seen.all() else np.where(seen, self.taxonomy.max_depth, 0),
        )

    @property
    def normalizer(self) -> ModelNormalizer:
        """What turns counts into the model's log values; give it to `hdi.pp.stacas`."""
        return ModelNormalizer(self.layout.genes, self.module.normalizer)

    def predict(
        self,
        query: Query | None = None,
        *,
        level: int | str | None = None,
        **kwargs: Any,
    ) -> pd.Series:
        """Label of every cell.

        Parameters
        ----------
        query
            As in :meth:`annotate`.
        level
            Name or depth of a level; by default the label where each cell's path stops.
        **kwargs
            Further keyword arguments of :meth:`annotate`.

        Returns
        -------
        Series of labels, indexed by cell.

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
        return self.annotate(query, **kwargs).label_column(level)

    def predict_proba(
        self,
        query: Query | None = None,
        *,
        level: int | str | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Probability of every node, or of the nodes of one level.

        Parameters
        ----------
        query
            As in :meth:`annotate`.
        level
            Name or depth of a level; all nodes by default.
        **kwargs
            Further keyword arguments of :meth:`annotate`.

        Returns
        -------
        Table of shape ``(n_cells, n_nodes - 1)``, or one column a node of the level.

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
        return self.annotate(query, **kwargs).probabilities(level)

    def get_latent_representation(
        self,
        query: Query | None = None,
        *,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        batch_size: int = 1024,
    ) -> np.ndarray:
        """Features of every cell, shape ``(n_cells, n_latent)``; arguments as :meth:`annotate`.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> len(model.get_latent_representation(query)) == query.n_obs
        True
        """
        query = self._given(query)
        source, alignment = self._open(query, layer, use_raw, scale, fold_case)
        further = self._further_inputs(query)
        found = self._collect(
            source,
            alignment,
            batch_size,
            further,
            lambda part: {"latent": as_array(part["latent"])},
        )
        return found.get("latent", np.zeros((0, 0), dtype=np.float32))

    def _open(
        self,
        query: Query | None,
        layer: str | None,
        use_raw: bool,
        scale: ScaleMode,
        fold_case: bool,
    ) -> tuple[CountSource, GeneAlignment]:
        self._check_if_trained(warn=False)
        given = self._given(query)
        data = self._rna(given)
        if data is None:
            return without_genes(self._modalities.obs_of(given), self.layout.genes)
        own = self._counts_layer
        if layer is None and not use_raw and own is not None and has_layer(data, own):
            layer = own
        source = open_counts(data, layer=layer, use_raw=use_raw, scale=scale)
        if is_paired(given):
            source = replace(source, obs=self._modalities.obs_of(given))
        weights = self.module.normalizer.mean_share.cpu().numpy()
        return source, align_genes(
            source.var, self.layout.genes, weights=weights, fold_case=fold_case
        )

    def _collect(
        self,
        source: CountSource,
        alignment: GeneAlignment,
        batch_size: int,
        further: FurtherInputs | CorrectedInputs,
        read: Callable[[dict[str, Tensor]], dict[str, np.ndarray]],
    ) -> dict[str, np.ndarray]:
        """Read arrays off the outputs for all cells, shapes ``(n_cells, ...)``, kept once."""
        collected: dict[str, np.ndarray] = {}
        for rows, part in self._stream(source, alignment, batch_size, further):
            for name, values in read(part).items():
                if name not in collected:
                    shape = (source.n_obs, *values.shape[1:])
                    collected[name] = np.empty(shape, dtype=values.dtype)
                collected[name][rows] = values
        return collected

    def _judge(self, part: dict[str, Tensor]) -> dict[str, np.ndarray]:
        """Probabilities and, where the model has a detector, novelty of a mini-batch."""
        seen, probabilities = part["seen"], part["probabilities"]
        if not seen.all():
            tree, logits = self.module.tree, probabilities.new_zeros(1, self.taxonomy.n_edges)
            ignorant = tree.node_log_probs(tree.conditional_log_probs(logits)).exp()
            probabilities = torch.where(seen.unsqueeze(1), probabilities, ignorant)
        judged = {"probabilities": as_array(probabilities), "seen": as_array(seen) > 0}
        if self.novelty_detector is not None:
            cells = FeatureCells(as_array(part["latent"]), as_array(part["depth"]))
            judged |= self.novelty_detector.measure(cells)
        return judged

    def _stream(
        self,
        source: CountSource,
        alignment: GeneAlignment,
        batch_size: int,
        further: FurtherInputs | CorrectedInputs,
    ) -> Iterator[tuple[slice, dict[str, Tensor]]]:
        """Mini-batches through the network, with the rows that they are."""
        check_numbers(batch_size=batch_size)
        self.module.eval()
        measured = torch.tensor(alignment.measured, dtype=torch.float32, device=self.device)
        for rows, chunk in source.chunks(alignment):
            for start in range(0, chunk.shape[0], batch_size):
                block = chunk[start : start + batch_size].toarray()
                counts = torch.from_numpy(block).to(self.device)
                first = rows.start + start
                cells = slice(first, first + len(counts))
                inputs = further.tensors(cells, measured)
                part = self._read_cells(source, cells, counts, inputs)
                seen = counts.any(1)
                if "proteins_measured" in inputs:
                    seen |= inputs["proteins_measured"].any(1)
                yield cells, {**part, "seen": seen}

    def _read_cells(
        self, source: CountSource, cells: slice, counts: Tensor, inputs: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """Read a mini-batch through the network; a model of a query does so in its own way."""
        part: dict[str, Tensor] = self.module.predict(counts, **inputs)
        return part


def _note_unseen(report: GeneReport, seen: np.ndarray) -> GeneReport:
    """Say in how many cells there was nothing to read."""
    n_unseen = int((~seen).sum())
    if not n_unseen:
        return report
    text = f"{n_unseen:,} cells have no counts of what the model reads: they stay Unknown."
    return replace(report, messages=(*report.messages, text))
