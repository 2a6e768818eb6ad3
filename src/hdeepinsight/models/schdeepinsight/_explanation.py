"""Which genes a label rests on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
import torch

from hdeepinsight.data import InputError, is_paired
from hdeepinsight.explanation import Explanation, Method, Questions
from hdeepinsight.explanation._collect import Collector
from hdeepinsight.models.schdeepinsight._explanation_background import (
    Background,
    background_from_cells,
    background_from_profiles,
)
from hdeepinsight.models.schdeepinsight._explanation_run import ExplanationRun
from hdeepinsight.models.schdeepinsight._mapping import MappingMixin
from hdeepinsight.models.schdeepinsight._reference import check_numbers
from hdeepinsight.models.schdeepinsight._surgery_labels import known_nodes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hdeepinsight.data import CountSource, DataLike, GeneAlignment, ScaleMode
    from hdeepinsight.explanation import Target
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.nn import LeafProfiles

CELLS = 128
"""Cells between two additions to the result, each held once for every question."""


class ExplanationMixin(MappingMixin):
    """Explain the probabilities of any node by the genes that they rest on."""

    profiles_: LeafProfiles | None

    def explain(
        self,
        query: Query | None = None,
        nodes: str | Sequence[str] | None = None,
        *,
        against: str | None = None,
        level: int | str | None = None,
        target: Target = "conditional",
        background: DataLike | None = None,
        n_background: int = 10,
        n_samples: int | None = None,
        method: Method = "expected_gradients",
        keep_values: bool = True,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
        batch_size: int | None = None,
        seed: int | None = None,
    ) -> Explanation:
        r"""Say which genes speak for a node, cell by cell and over all cells.

        Parameters
        ----------
        query
            As in :meth:`annotate`; explain the cells of interest, not more. The model's own data
            by default.
        nodes
            Nodes that every cell is explained for: names, synonyms or paths. By default each cell
            is explained for its own node, the one that the model puts it at.
        against
            Another node: the difference of the log-probabilities of the two ("why Treg and not
            naive CD4 T"). They need not be siblings.
        level
            Without ``nodes``: level of each cell's own node, by depth or name; leaves by default.
        target
            ``"conditional"``: log-probability of the node given its parent, so what tells it from
            its siblings. ``"joint"``: log-probability of the node, so what tells it from
            everything; the sum of the conditional ones along its path. ``"logit"``: its score
            before it is compared with its siblings.
        background
            Cells to compare with: an AnnData or a file, which has every gene of the query. As many
            are taken of every type, by the label columns of the reference where it has them, else
            by the model's labels. By default the registered reference; a model without its data
            draws cells from the mean profiles that it carries.
        n_background
            Cells of every type in the background.
        n_samples
            Gradients a cell, 50 by default. The error falls with it, the time grows. For
            ``"kernel"`` coalitions a cell (by default 2 × genes + 2,048), for ``"permutation"``
            permutations a cell (1).
        method
            ``"expected_gradients"``, or, to check it on a few cells, an explainer of shap:
            ``"shap_gradient"``, ``"kernel"`` or ``"permutation"``. The last two ask the network
            tens of thousands of times a cell.
        keep_values
            Keep the attributions of single cells, 4 bytes a cell, gene and node. Off, only means
            and spread over cells are kept, and memory does not grow with the number of cells.
        layer, use_raw, scale, fold_case
            How the query is read, as in :meth:`annotate`.
        batch_size
            Gradients in one pass through the network; by default 256 on a CPU, whose caches hold
            them, and 8,192 elsewhere.
        seed
            Seed of background and draws; the model's by default.

        Returns
        -------
        Attributions, rankings and signatures of genes, and the error of their sums.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts, the genes do not match, or the cells have
            proteins that the model would read too.
        ValueError
            If a node is unknown, a number out of its range, or there is nothing to compare with.

        Notes
        -----
        Expected gradients (doi:10.1038/s42256-021-00343-w) of the calibrated output in the space
        of scaled expression, through the gene image:
        :math:`\varphi_g = \mathrm{E}_{s',t}[(s_g - s'_g)\,\partial F/\partial s_g]` at
        :math:`s' + t(s - s')`. Background cells are read as if they had only the genes of the
        query, so that genes that were not measured get 0.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:10]
        >>> found = model.explain(query, "B", against="Myeloid")
        >>> found.against, found.values.shape
        ('Myeloid', (10, 2048))
        >>> found.ranking().head(10).shape
        (10, 7)
        """
        if method not in get_args(Method):
            msg = f"method={method!r}; valid are {', '.join(get_args(Method))}. Choose one."
            raise ValueError(msg)
        check_numbers(n_background=n_background, n_samples=n_samples, batch_size=batch_size)
        self._check_explainable()
        questions = self._questions(nodes, against, level, target)
        seed = self.seed if seed is None else seed
        source, alignment = self._open(self._genes_only(query), layer, use_raw, scale, fold_case)
        cells = self._background(background, n_background, seed)
        cells.check_genes(alignment.measured, self.layout.genes)
        run = ExplanationRun(
            self.module,
            torch.tensor(alignment.measured, dtype=torch.float32, device=self.device),
            questions,
            cells,
            every=nodes is not None,
            method=method,
            n_samples=n_samples,
            seed=seed,
            batch_size=batch_size or (256 if self.device.type == "cpu" else 8192),
        )
        collector = Collector(
            questions,
            pd.Index(source.obs_names),
            pd.Index(self.layout.genes),
            every=nodes is not None,
            keep_values=keep_values,
        )
        for start, counts in _dense(source, alignment):
            collector.add(start, run.explain(counts))
        return collector.finish(
            base_values=run.base_values,
            background_expression=run.background.mean(0).cpu().numpy(),
            background=str(cells),
            method=method,
        )

    def _check_explainable(self) -> None:
        """Raise ``ValueError`` where an output has no gradient; that of the network has one."""

    def _questions(
        self,
        nodes: str | Sequence[str] | None,
        against: str | None,
        level: int | str | None,
        target: Target,
    ) -> Questions:
        if nodes is None and against is None:
            return Questions.at_level(self.taxonomy, level, target=target)
        if nodes is None or level is not None:
            given = "against" if nodes is None else "nodes and level"
            msg = (
                f"{given} was given. Valid are nodes, with or without against, or level alone. "
                "Name the nodes, or leave both out."
            )
            raise ValueError(msg)
        return Questions.of(self.taxonomy, nodes, against=against, target=target)

    def _genes_only(self, query: Query | None) -> Any:
        """RNA of a query; raises ``InputError`` where proteins would take part."""
        given = self._given(query)
        if not is_paired(given):
            return given
        if self.proteins:
            raise InputError(
                f"The query has {', '.join(given.mod)}, and the model reads proteins.",
                "Explained are genes: valid is the RNA alone, which the model also annotates.",
                "Pass one modality, such as mdata.mod['rna'].",
            )
        return self._rna(given)

    def _background(self, given: DataLike | None, per_type: int, seed: int) -> Background:
        if given is None and self.adata is None:
            if self.profiles_ is None:
                msg = (
                    "The model has neither its reference nor mean profiles of it. Valid is a "
                    "labelled AnnData to compare with. Pass it as background=."
                )
                raise ValueError(msg)
            return background_from_profiles(self.profiles_, per_type=per_type, seed=seed)
        name = "the reference" if given is None else "the given background"
        data = self._rna(self.adata) if given is None else given
        source, alignment = self._open(data, None, False, "auto", False)
        nodes = self._background_nodes(source, data, registered=given is None)
        return background_from_cells(
            source, alignment, nodes, per_type=per_type, seed=seed, name=name
        )

    def _background_nodes(self, source: CountSource, data: Any, *, registered: bool) -> np.ndarray:
        """Types of the background's cells: their labels, or what the model takes them for."""
        if registered:
            nodes = self._label_nodes(self.adata)
        elif set(self._label_keys) <= set(source.obs):
            nodes = known_nodes(
                source.obs, self.taxonomy, self._label_keys, unlabeled=self._unlabeled_category
            )
        else:
            nodes = self.annotate(data, threshold=None).leaf_nodes
        leaves = np.where(np.isin(nodes, self.taxonomy.leaves), nodes, 0)
        return leaves if leaves.any() else nodes


def _dense(source: CountSource, alignment: GeneAlignment) -> Iterator[tuple[int, np.ndarray]]:
    """Read counts of some cells at a time, ``(n_cells, n_genes)``, and where they start."""
    for rows, chunk in source.chunks(alignment):
        for start in range(0, chunk.shape[0], CELLS):
            yield rows.start + start, chunk[start : start + CELLS].toarray()
