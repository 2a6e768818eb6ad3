"""Which genes a label rests on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from hdeepinsight._errors import check_choice, check_integer
from hdeepinsight.data import InputError, is_paired
from hdeepinsight.explanation import (
    Background,
    Explanation,
    Method,
    TargetKind,
    Targets,
    background_from_cells,
    background_from_profiles,
    explain_cells,
)
from hdeepinsight.models.schdeepinsight._mapping import MappingMixin
from hdeepinsight.models.schdeepinsight._surgery_labels import known_nodes

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from hdeepinsight.data import DataLike, ScaleMode
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.nn import LeafProfiles


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
        target: TargetKind = "conditional",
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
        r"""Attribute the probability of a node to the genes, cell by cell and over all cells.

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
            Gradients per cell, 50 by default. The error falls with it, the time grows. For
            ``"kernel"`` coalitions per cell (by default 2 × genes + 2,048), for ``"permutation"``
            permutations per cell (1).
        method
            ``"expected_gradients"``, or, to check it on a few cells, an explainer of shap:
            ``"shap_gradient"``, ``"kernel"`` or ``"permutation"``. The last two ask the network
            tens of thousands of times per cell.
        keep_values
            Keep the attributions of single cells, 4 bytes per cell, gene and node. Off, only means
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
        Attributions, rankings and signatures of genes, and the error of their sums. Cells without
        counts have nothing to explain and are left out, of which ``note`` tells.

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
        query, so that genes that were not measured get 0. Of an adapted model the network with the
        adapters of each cell's batch is explained, and the background read by the same network;
        the ranks of markers, the other half of its probabilities, have no gradient.

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
        check_choice("method", method, get_args(Method))
        check_integer("n_background", n_background)
        check_integer("n_samples", n_samples, optional=True)
        check_integer("batch_size", batch_size, optional=True)
        targets = Targets.of(self.taxonomy, nodes, against=against, level=level, kind=target)
        given = self._given(query)
        if is_paired(given) and self.proteins:
            raise InputError(
                f"The query has {', '.join(given.mod)}, and the model reads proteins.",
                "Only genes can be explained, and the model annotates the RNA alone, too.",
                "Pass one modality, such as mdata.mod['rna'].",
            )
        opened = self._aligned(
            self._rna(given) if is_paired(given) else given, layer, use_raw, scale, fold_case
        )
        seed = self.seed if seed is None else seed
        batch, note = self._adapted_batches(opened.obs)
        return explain_cells(
            self.module,
            opened,
            targets,
            self._background(background, n_background, seed),
            batch=batch,
            keep_values=keep_values,
            note=note,
            every=nodes is not None,
            method=method,
            n_samples=n_samples,
            seed=seed,
            batch_size=batch_size,
        )

    def _aligned(self, data: Any, *reading: Any) -> Any:
        """Open a query, checked and aligned to the model's genes."""
        source, alignment = self._open(data, *(reading or (None, False, "auto", False)))
        return SimpleNamespace(
            obs=source.obs,
            obs_names=source.obs_names,
            genes=self.layout.genes,
            measured=np.asarray(alignment.measured),
            chunks=lambda: source.chunks(alignment),
        )

    def _adapted_batches(self, obs: pd.DataFrame) -> tuple[np.ndarray | None, str]:
        """Batch of each cell whose adapters take part, and what a reader should know of them."""
        return None, ""

    def _background(self, given: DataLike | None, per_type: int, seed: int) -> Background:
        options = {"per_type": per_type, "seed": seed}
        if given is None and self.adata is None:
            if self.profiles_ is None:
                msg = (
                    "The model has neither its reference nor mean profiles of it to compare with. "
                    "Pass a labelled AnnData as background=."
                )
                raise ValueError(msg)
            return background_from_profiles(self.profiles_, **options)
        opened = self._aligned(self._rna(self.adata) if given is None else given)
        keys = self._label_keys
        if given is None:
            nodes = self._label_nodes(self.adata)
        elif set(keys) <= set(opened.obs):
            unlabeled = self._unlabeled_category
            nodes = known_nodes(opened.obs, self.taxonomy, keys, unlabeled=unlabeled)
        else:
            nodes = self.annotate(given, threshold=None).leaf_nodes
        leaves = np.where(np.isin(nodes, self.taxonomy.leaves), nodes, 0)
        source = "the reference" if given is None else "the given background"
        types = leaves if leaves.any() else nodes
        return background_from_cells(opened, types, source=source, **options)
