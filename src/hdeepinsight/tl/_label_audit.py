"""The result of an audit: a frozen record that writes nowhere unless asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hdeepinsight._keys import AUDIT_KEYS
from hdeepinsight._palette import MISSING, tree_colors
from hdeepinsight.annotation import Additions, check_cells, depth_of_level, storable
from hdeepinsight.tl._confident_learning import LEAST_RECOGNISED, class_names

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LabelAudit:
    """Which labels the rest of a reference contradicts; made by `audit_labels`.

    Parameters
    ----------
    taxonomy
        The tree.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    nodes
        Node of every cell's label, shape ``(n_cells,)``; 0 where there is none.
    suggested_nodes
        Node that the out-of-fold probabilities put in its place, as fine as labels go; the label
        itself where it is not contradicted. Shape ``(n_cells,)``.
    agreed_nodes
        Deepest node of the label's path that is not contradicted: the parent of where label and
        suggestion part for suspicious cells, the label for all others. Shape ``(n_cells,)``.
    probability
        Out-of-fold probability of the label, shape ``(n_cells,)``; NaN where it was not judged.
    margin
        Smallest lead of the label's nodes over their siblings, a probability from -1 to 1, shape
        ``(n_cells,)``; NaN where it was not judged. Ordered by it, the most doubtful cells come
        first.
    judged
        Cells that took part, shape ``(n_cells,)``: those with a label that is not too rare.
    suspicious
        Cells whose label is contradicted, within ``max_share`` of each label; ``(n_cells,)``.
    weight
        1, and for suspicious cells the ratio of the probabilities of the label's node and of its
        rival where the two part; shape ``(n_cells,)``.
    classes
        One row a class at any depth, indexed by ``level`` and ``class``, with the cells labelled
        at or under it. ``n_cells``, ``n_judged`` and ``n_suspicious`` count them;
        ``estimated_noise`` is the share of wrong labels according to the confident joint;
        ``recognised`` the share of judged cells for which the class is more probable than its
        siblings, or the smallest such share of what is above it; ``purity`` the share of judged
        cells whose most probable path goes through it; ``probability`` their mean probability of
        it. Where batches are known: ``n_batches``, ``largest_batch``, ``largest_batch_share``,
        ``batch_overlap`` (largest Jaccard index with a batch) and ``confounding``.
    transitions
        The confident joint in long form, a row a pair of siblings: ``level``, ``given``,
        ``likely``, ``n_confident`` (cells with the first label that are confidently of the second
        class) and ``rate`` (their share, summing to 1 over ``likely``).
    batch_nmi
        Normalised mutual information of labels and batches at every level; NaN without batches.
    settings
        How the audit was made, in plain types.

    Examples
    --------
    Given probabilities of every node from models that have not seen the cells, one label of twenty
    is contradicted:

    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
    >>> labels = pd.Series(["T"] * 10 + ["B"] * 10, index=list("abcdefghijklmnopqrst"))
    >>> cells = ad.AnnData(obs=labels.to_frame("cell_type"))
    >>> p_t = np.array([0.95] * 9 + [0.02] + [0.05] * 10)
    >>> p = np.column_stack([np.ones(20), p_t, 1 - p_t])
    >>> audit = hdi.tl.audit_labels(cells, taxonomy=tree, labels_key="cell_type", probabilities=p)
    >>> audit
    LabelAudit of 20 cells (20 judged): 1 suspicious labels, 1 of them at level_1; 0 notes
    >>> audit.cells.loc[audit.suspicious, "suggested"].tolist()
    ['B']
    """

    taxonomy: Taxonomy
    obs_names: pd.Index
    nodes: np.ndarray
    suggested_nodes: np.ndarray
    agreed_nodes: np.ndarray
    probability: np.ndarray
    margin: np.ndarray
    judged: np.ndarray
    suspicious: np.ndarray
    weight: np.ndarray
    classes: pd.DataFrame
    transitions: pd.DataFrame
    batch_nmi: pd.Series[float]
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def divergence(self) -> np.ndarray:
        """Depth at which label and suggestion part, shape ``(n_cells,)``.

        1 is another lineage, more is a sibling further down; 0 where the label is not contradicted.
        """
        given = self.taxonomy.node_at_level[self.nodes]
        suggested = self.taxonomy.node_at_level[self.suggested_nodes]
        differs = (given != suggested) & (given >= 0) & (suggested >= 0)
        return np.where(differs.any(axis=1), differs.argmax(axis=1) + 1, 0)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell.

        ``given``, ``suggested`` (labels), ``probability``, ``margin``, ``divergence``, ``judged``,
        ``suspicious`` and ``weight``.
        """
        columns = {
            AUDIT_KEYS.GIVEN: self._labels(self.nodes),
            AUDIT_KEYS.SUGGESTED: self._labels(self.suggested_nodes),
            AUDIT_KEYS.PROBABILITY: self.probability,
            AUDIT_KEYS.MARGIN: self.margin,
            AUDIT_KEYS.DIVERGENCE: self.divergence,
            AUDIT_KEYS.JUDGED: self.judged,
            AUDIT_KEYS.SUSPICIOUS: self.suspicious,
            AUDIT_KEYS.WEIGHT: self.weight,
        }
        return pd.DataFrame(columns, index=self.obs_names)

    def summary(self) -> pd.DataFrame:
        """Count the suspicious cells by label, suggestion and depth where the two part.

        Returns
        -------
        Table with ``given``, ``suggested``, ``divergence``, ``n_cells`` and ``share`` (of the cells
        with that label), the most frequent first.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> labels = pd.Series(["T"] * 10 + ["B"] * 10, index=list("abcdefghijklmnopqrst"))
        >>> cells = ad.AnnData(obs=labels.to_frame("cell_type"))
        >>> p_t = np.array([0.95] * 9 + [0.02] + [0.05] * 10)
        >>> p = np.column_stack([np.ones(20), p_t, 1 - p_t])
        >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
        >>> audit = hdi.tl.audit_labels(
        ...     cells, taxonomy=tree, labels_key="cell_type", probabilities=p
        ... )
        >>> audit.summary()
          given suggested  divergence  n_cells  share
        0     T         B           1        1    0.1
        """
        keys = [AUDIT_KEYS.GIVEN, AUDIT_KEYS.SUGGESTED, AUDIT_KEYS.DIVERGENCE]
        sizes = self.cells[AUDIT_KEYS.GIVEN].value_counts()
        counts = self.cells[self.suspicious].groupby(keys, observed=True).size()
        table = counts.reset_index(name="n_cells")
        table["share"] = table["n_cells"] / table[AUDIT_KEYS.GIVEN].map(sizes).astype(float)
        return table.sort_values("n_cells", ascending=False, kind="stable", ignore_index=True)

    def transition_matrix(self, level: int | str) -> pd.DataFrame:
        """Return the confident joint's rates at a level: labels in rows, likely classes beside.

        Parameters
        ----------
        level
            Depth (1 is below the root) or name of a level.

        Returns
        -------
        Square table whose rows sum to 1; 0 between classes that are not siblings, which are only
        compared further up.

        Raises
        ------
        ValueError
            If there is no such level.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> labels = pd.Series(["T"] * 10 + ["B"] * 10, index=list("abcdefghijklmnopqrst"))
        >>> cells = ad.AnnData(obs=labels.to_frame("cell_type"))
        >>> p_t = np.array([0.95] * 9 + [0.02] + [0.05] * 10)
        >>> p = np.column_stack([np.ones(20), p_t, 1 - p_t])
        >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
        >>> audit = hdi.tl.audit_labels(
        ...     cells, taxonomy=tree, labels_key="cell_type", probabilities=p
        ... )
        >>> audit.transition_matrix(1).loc["T"].to_dict()
        {'T': 0.9, 'B': 0.1}
        """
        name = self.taxonomy.level_names[depth_of_level(self.taxonomy, level) - 1]
        rows = self.transitions[self.transitions["level"] == name]
        names = list(dict.fromkeys(rows["given"]))
        matrix = rows.pivot_table(index="given", columns="likely", values="rate", fill_value=0.0)
        return matrix.reindex(index=names, columns=names, fill_value=0.0)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader has to know about single classes, a sentence each."""
        rows = self._rows_of_labels()
        unsaid = (self.suggested_nodes != self.nodes) & ~self.suspicious
        beyond, n_beyond = np.unique(self.nodes[unsaid], return_counts=True)
        notes = [
            f"{name}: left alone, {int(row.n_cells)} cells are too few for "
            f"{self.settings['n_folds']} folds"
            for name, row in rows[rows["n_judged"] == 0].iterrows()
        ]
        notes += [
            f"{name}: left alone, its siblings are more probable for {1 - row.purity:.0%} of its "
            "cells; look at the class as a whole"
            for name, row in rows[rows["recognised"] < LEAST_RECOGNISED].iterrows()
        ]
        notes += [
            f"{self._names[node]}: {n_more} more cells are contradicted than its share of "
            f"{self.settings['max_share']:.0%} allows; look at the class as a whole"
            for node, n_more in zip(beyond.tolist(), n_beyond.tolist(), strict=True)
        ]
        if "confounding" in rows:
            notes += [
                f"{name}: {row.confounding} ({row.largest_batch})"
                for name, row in rows[rows["confounding"] != ""].iterrows()
            ]
        return tuple(notes)

    def to_adata(
        self, adata: AnnData, *, key_added: str = "audit", overwrite: bool = False
    ) -> None:
        """Write the result into an AnnData of the same cells.

        Parameters
        ----------
        adata
            Object whose ``obs_names`` are those of this audit, in the same order.
        key_added
            Prefix of what is added: a column ``obs["<key>_<column>"]`` for every column of
            :attr:`cells`, colours of the labels, and ``uns["<key>"]`` with ``classes``,
            ``transitions`` and ``settings``.
        overwrite
            Replace what stands under these names. What an earlier audit wrote under the same key
            is replaced in any case.

        Raises
        ------
        ValueError
            If the cells are not the same, or a name is taken.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> import pandas as pd
        >>> labels = pd.Series(["T"] * 10 + ["B"] * 10, index=list("abcdefghijklmnopqrst"))
        >>> cells = ad.AnnData(obs=labels.to_frame("cell_type"))
        >>> p_t = np.array([0.95] * 9 + [0.02] + [0.05] * 10)
        >>> p = np.column_stack([np.ones(20), p_t, 1 - p_t])
        >>> tree = hdi.Taxonomy.from_nested({"T": [], "B": []})
        >>> audit = hdi.tl.audit_labels(
        ...     cells, taxonomy=tree, labels_key="cell_type", probabilities=p
        ... )
        >>> audit.to_adata(cells)
        >>> int(cells.obs["audit_suspicious"].sum())
        1
        """
        self.check_cells(adata)
        advised = self.suggested_nodes
        added = Additions(
            obs={
                storable(f"{key_added}_{name}"): column.array for name, column in self.cells.items()
            },
            obsm={},
            uns={
                storable(f"{key_added}_{AUDIT_KEYS.GIVEN}_colors"): self._colors(self.nodes),
                storable(f"{key_added}_{AUDIT_KEYS.SUGGESTED}_colors"): self._colors(advised),
            },
        )
        notes = {
            "classes": self.classes.reset_index().set_axis(_row_names(self.classes), axis=0),
            "transitions": self.transitions.set_axis(_row_names(self.transitions), axis=0),
            "settings": dict(self.settings),
        }
        added.write(adata, key_added, notes, overwrite=overwrite)

    def check_cells(self, adata: AnnData) -> None:
        """Raise ``ValueError`` unless an AnnData has the cells of this audit, in this order."""
        check_cells(self.obs_names, adata, "audit", "audited")

    def check_taxonomy(self, taxonomy: Taxonomy) -> None:
        """Raise ``ValueError`` unless a taxonomy is the one of this audit."""
        if taxonomy != self.taxonomy:
            raise ValueError(
                f"The audit is over {self.taxonomy!r}, not over {taxonomy!r}. It must be the same "
                "tree. Pass taxonomy=model.taxonomy to audit_labels."
            )

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        n_lineage = int((self.suspicious & (self.divergence == 1)).sum())
        n_judged = int(self.judged.sum())
        return (
            f"LabelAudit of {len(self)} cells ({n_judged} judged): "
            f"{int(self.suspicious.sum())} suspicious labels, {n_lineage} of them at "
            f"{self.taxonomy.level_names[0]}; {len(self.notes)} notes"
        )

    def __str__(self) -> str:
        parts = [repr(self), *(f"- {note}" for note in self.notes)]
        if self.suspicious.any():
            parts.append(self.summary().to_string(index=False))
        return "\n".join(parts)

    def _rows_of_labels(self) -> pd.DataFrame:
        """Return the rows of the table of classes for the nodes that label cells, by name."""
        nodes = np.unique(self.nodes[self.nodes > 0]).tolist()
        levels = [self.taxonomy.level_names[self.taxonomy.depth[node] - 1] for node in nodes]
        names = [self._names[node] for node in nodes]
        return self.classes.loc[list(zip(levels, names, strict=True))].droplevel("level")

    def _labels(self, nodes: np.ndarray) -> pd.Categorical:
        used, codes = np.unique(nodes, return_inverse=True)
        return pd.Categorical.from_codes(codes, [self._names[node] for node in used.tolist()])

    def _colors(self, nodes: np.ndarray) -> list[str]:
        """Return the colours of the categories of :meth:`_labels`, those of any annotation."""
        colors = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
        colors[self.taxonomy.label(0)] = MISSING
        return [colors[self.taxonomy.label(node)] for node in np.unique(nodes).tolist()]

    @cached_property
    def _names(self) -> list[str]:
        return class_names(self.taxonomy)


def _row_names(table: pd.DataFrame) -> pd.Index:
    """Give row numbers as text, the only names of rows that files hold."""
    return pd.Index([str(row) for row in range(len(table))])
