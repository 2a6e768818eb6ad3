"""Audit reference labels by out-of-fold predictions (confident learning along a taxonomy)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import ArrayLike

from hdeepinsight import annotation
from hdeepinsight._errors import (
    check_integer,
    check_number,
    counted,
    one_column,
    refuse_path,
    refuse_unused,
)
from hdeepinsight._keys import AUDIT_KEYS
from hdeepinsight._palette import MISSING, tree_colors
from hdeepinsight.data import AlignedQuery
from hdeepinsight.taxonomy import Taxonomy, check_labels, column_nodes, shared_depth
from hdeepinsight.tl import _confident_learning as learning
from hdeepinsight.tl._inputs import batches_of
from hdeepinsight.tl._representation import counts_of


def audit_labels(
    adata: AnnData | AlignedQuery,
    *,
    taxonomy: Taxonomy | None = None,
    labels_key: str | None = None,
    labels_keys: Sequence[str] | None = None,
    nodes: np.ndarray | None = None,
    layer: str | None = None,
    batch_key: str | np.ndarray | None = None,
    unlabeled: str = "Unknown",
    n_folds: int = 5,
    probabilities: ArrayLike | None = None,
    least_margin: float = 0.7,
    max_share: float = 0.2,
    seed: int = 0,
) -> LabelAudit:
    r"""Find suspicious reference labels, and classes that need inspection.

    A label is suspicious if a classifier that was trained on other cells of the reference strongly
    favours another type. ``adata`` is not modified.

    Parameters
    ----------
    adata
        Labelled reference with raw counts, shape ``(n_obs, n_vars)``, as an AnnData or as an opened
        query.
    taxonomy
        Taxonomy of the cell types; by default it is built from the label columns.
    labels_key
        Column of ``obs`` with labels at any depth of the taxonomy.
    labels_keys
        Instead of ``labels_key``: one column per level, from coarse to fine.
    nodes
        Instead of columns: the node of each label, shape ``(n_obs,)``; 0 for unlabelled cells.
    layer
        Layer with the counts; ``X`` by default.
    batch_key
        Column of ``obs`` with the batch (donor, study) of each cell, or the batches as an array of
        shape ``(n_obs,)``. For labels that occur in enough batches, folds then consist of whole
        batches. The confounding of labels with batches is reported.
    unlabeled
        Label that means "not labelled". So do missing values and the words of
        `hdeepinsight.taxonomy.MISSING_LABELS`. Such cells are not audited.
    n_folds
        Number of folds. Each fold is predicted by a classifier trained on the others. Labels with
        fewer cells are not audited, and are listed in the result's notes.
    probabilities
        Your own out-of-fold node probabilities, shape ``(n_obs, n_nodes)``, such as
        ``Annotation.node_probabilities`` of models that were not trained on these cells.
        ``adata.X`` is then not read.
    least_margin
        Smallest lead of a sibling, as a difference of probabilities, for which a label is
        contradicted. Higher values find fewer labels, with fewer false positives.
    max_share
        Largest fraction of the cells of a label that may be suspicious.
    seed
        Random seed of folds and principal components.

    Returns
    -------
    LabelAudit
        Tables of cells and classes.

    Raises
    ------
    KeyError
        If a column does not exist.
    ValueError
        If not exactly one source of labels is given, a setting is out of range, the probabilities
        do not fit, or fewer than two labels have ``n_folds`` cells.

    Warns
    -----
    LabelWarning
        If words are treated as "not labelled", or labels look alike.

    Examples
    --------
    Fifty cells of each of two types, one of which has the wrong label:

    >>> import anndata as ad
    >>> import numpy as np
    >>> import pandas as pd
    >>> rates = np.repeat([[9, 9, 1, 1], [1, 1, 9, 9]], 50, axis=0)
    >>> reference = ad.AnnData(
    ...     np.random.default_rng(0).poisson(rates).astype("float32"),
    ...     obs=pd.DataFrame(
    ...         {"cell_type": ["B"] * 49 + ["T"] * 51}, index=np.arange(100).astype(str)
    ...     ),
    ...     var=pd.DataFrame(index=["CD79A", "MS4A1", "CD3D", "CD3E"]),
    ... )
    >>> audit = audit_labels(reference, labels_key="cell_type")
    >>> audit.summary()[["given", "suggested", "n_cells"]].to_numpy().tolist()
    [['T', 'B', 1]]

    Notes
    -----
    Based on confident learning (Northcutt, Jiang and Chuang 2021, doi:10.1613/jair.1.12125) within
    each sibling group from the root down, but more cautious: a sibling must lead by
    ``least_margin``, the classifier must recognise the class in at least half of its cells, and a
    label is not examined below the level at which it is first contradicted. The classifier is
    multinomial logistic regression on 50 principal components of the 2,000 most variable genes,
    without class weights. Node probabilities are sums over the classes at or below a node.
    """
    keys = [labels_key] if labels_key is not None else list(labels_keys or ())
    n_given = sum(source is not None for source in (labels_key, labels_keys or None, nodes))
    if n_given != 1:
        hint = "Pass labels_key for a single column, or labels_keys for one column per level."
        raise ValueError(f"Pass one of labels_key, labels_keys and nodes, got {n_given}. {hint}")
    if nodes is not None:
        if taxonomy is None:
            raise ValueError("nodes must be nodes of a taxonomy, got none. Pass it as taxonomy.")
        refuse_unused({"unlabeled": unlabeled != "Unknown"}, "with nodes")
    if probabilities is not None:
        refuse_unused({"layer": layer is not None, "seed": seed != 0}, "with probabilities")
    refuse_path(adata)
    obs = adata.obs
    for key in keys:
        check_labels(one_column(obs, key), f"obs[{key!r}]", unlabeled=unlabeled)
    if taxonomy is None:
        taxonomy = Taxonomy.from_obs(obs, keys, unlabeled=unlabeled)
    if nodes is None:
        nodes = column_nodes(taxonomy, obs, keys, unlabeled=unlabeled)
    batches = batches_of(adata, batch_key) if isinstance(batch_key, str) else batch_key
    table = probabilities if isinstance(probabilities, pd.DataFrame) else None
    for name, given in (("nodes", nodes), ("batch_key", batches), ("probabilities", table)):
        if given is not None:
            annotation.check_same_cells(pd.Index(adata.obs_names), given, name)
    check_integer("n_folds", n_folds, 2, hint="Omit it to use 5.")
    check_number("least_margin", least_margin, 0, 1, hint="Omit it to use 0.7.")
    check_number("max_share", max_share, 0, 1, hint="Omit it to use 0.2.")
    if batches is not None and len(np.unique(batches)) < 2:
        batches = None
    sizes = taxonomy.roll_up(np.bincount(nodes, minlength=taxonomy.n_nodes))
    judged = (nodes > 0) & (sizes[nodes] >= n_folds)
    audited = [taxonomy.label(int(node)) for node in np.unique(nodes[judged])]
    if len(audited) < 2:
        hint = "Check the label columns, or lower n_folds."
        expected = f"At least two labels must have n_folds={n_folds} cells"
        raise ValueError(f"{expected}, got {audited}. {hint}")
    if probabilities is None:
        features = learning.expression_features(counts_of(adata, layer), seed=seed)
        kept = np.where(judged, nodes, 0)
        folds = learning.assign_folds(kept, batches, n_folds, np.random.default_rng(seed))
        probabilities = learning.out_of_fold_probabilities(features, taxonomy, kept, folds)
    p = np.asarray(probabilities, dtype=np.float64)
    shape = (adata.n_obs, taxonomy.n_nodes)
    if p.shape != shape or not ((p >= 0) & (p <= 1 + annotation.PROBABILITY_TOLERANCE)).all():
        given = f"{p.min(initial=np.inf):g} to {p.max(initial=-np.inf):g} of shape {p.shape}"
        raise ValueError(
            f"probabilities must be numbers from 0 to 1 of shape (n_obs, n_nodes) = {shape}, got "
            f"{given}. Pass one column per node, in the order of the taxonomy."
        )
    rival, margin, weight, recognised = learning.find_contradictions(
        taxonomy, nodes, p, judged, least_margin
    )
    contradicted, rival = rival >= 0, rival.clip(0)
    suspicious = learning.within_share(margin, nodes, contradicted, max_share)
    suggested = learning.most_probable_below(taxonomy, p, rival)
    return LabelAudit(
        taxonomy=taxonomy,
        obs_names=pd.Index(adata.obs_names),
        nodes=nodes,
        suggested_nodes=np.where(contradicted, suggested, nodes),
        agreed_nodes=np.where(suspicious, taxonomy.parent[rival], nodes),
        probability=np.where(judged, p[np.arange(len(nodes)), nodes], np.nan),
        margin=margin,
        judged=judged,
        suspicious=suspicious,
        weight=np.where(suspicious, weight, 1.0),
        classes=learning.class_table(taxonomy, nodes, judged, suspicious, recognised, batches),
        settings={"n_folds": n_folds, "least_margin": least_margin, "max_share": max_share},
    )


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class LabelAudit:
    """Result of `audit_labels`: suspicious labels, and statistics per class.

    Parameters
    ----------
    taxonomy
        Taxonomy of the labels.
    obs_names
        Names of the cells, shape ``(n_cells,)``.
    nodes
        Node of each cell's label, shape ``(n_cells,)``; 0 for unlabelled cells.
    suggested_nodes
        Node that the out-of-fold probabilities suggest, as fine as the labels; the label itself if
        it is not contradicted. Shape ``(n_cells,)``.
    agreed_nodes
        Deepest node on the path of the label that is not contradicted: for suspicious cells, the
        lowest common ancestor of label and suggestion; for other cells, the label. Shape
        ``(n_cells,)``.
    probability
        Out-of-fold probability of the label, shape ``(n_cells,)``; NaN for cells not audited.
    margin
        Smallest lead of a node on the label's path over its siblings, as a difference of
        probabilities from -1 to 1, shape ``(n_cells,)``; NaN for cells not audited. The lowest
        values are the most doubtful labels.
    judged
        Cells that were audited, bool, shape ``(n_cells,)``: those with a label that is not rare.
    suspicious
        Cells with a contradicted label, at most ``max_share`` of each label; ``(n_cells,)``.
    weight
        For suspicious cells, the ratio of the probabilities of the label and of its rival at the
        level at which they diverge; 1 for other cells. Shape ``(n_cells,)``.
    classes
        One row per class at any depth, indexed by ``level`` and ``class``, about the cells labelled
        at or below it. ``n_cells``, ``n_judged`` and ``n_suspicious`` are numbers of cells;
        ``recognised`` is the fraction of audited cells for which the class is more probable than
        its siblings, or the smallest such fraction among its ancestors. With batches:
        ``largest_batch`` and ``confounding``.
    settings
        Settings of the audit, as plain types.

    Examples
    --------
    With node probabilities of models that were not trained on the cells, one of twenty labels is
    suspicious:

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
    LabelAudit of 20 cells (20 audited): 1 suspicious labels, 1 of them at level_1; 0 notes
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
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def divergence(self) -> np.ndarray:
        """Depth at which label and suggestion diverge, shape ``(n_cells,)``.

        1 means a different lineage, a larger depth a sibling further down, and 0 that the label is
        not contradicted.
        """
        shared = shared_depth(self.taxonomy, self.nodes, self.suggested_nodes)
        least = np.minimum(*(self.taxonomy.depth[x] for x in (self.nodes, self.suggested_nodes)))
        return np.where(shared < least, shared + 1, 0)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """Table with one row per cell.

        Columns are ``given``, ``suggested`` (labels), ``probability``, ``margin``, ``divergence``,
        ``judged``, ``suspicious`` and ``weight``.
        """
        given, suggested, *others = AUDIT_KEYS
        nodes = {given: self.nodes, suggested: self.suggested_nodes}
        columns = {key: annotation.node_categories(self._names, own) for key, own in nodes.items()}
        columns |= {key: getattr(self, key) for key in others}
        return pd.DataFrame(columns, index=self.obs_names)

    def summary(self) -> pd.DataFrame:
        """Count the suspicious cells by label, suggestion and depth of divergence.

        Returns
        -------
        pandas.DataFrame
            Columns ``given``, ``suggested``, ``divergence``, ``n_cells`` and ``share`` (of the
            cells with that label), sorted by decreasing ``n_cells``.

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

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Remarks about individual classes, one sentence each."""
        used = np.unique(self.nodes[self.nodes > 0])
        levels = [self.taxonomy.level_names[depth - 1] for depth in self.taxonomy.depth[used]]
        index = list(zip(levels, [self._names[node] for node in used], strict=True))
        rows = self.classes.loc[index].droplevel("level")
        unlisted = (self.suggested_nodes != self.nodes) & ~self.suspicious
        beyond, n_beyond = np.unique(self.nodes[unlisted], return_counts=True)
        notes = [
            f"{name}: not audited, {int(row.n_cells)} cells are too few for "
            f"{self.settings['n_folds']} folds"
            for name, row in rows[rows["n_judged"] == 0].iterrows()
        ]
        notes += [
            f"{name}: not audited, its siblings are more probable for {1 - row.recognised:.0%} of "
            "its cells; inspect the class as a whole"
            for name, row in rows[rows["recognised"] < learning.LEAST_RECOGNISED].iterrows()
        ]
        notes += [
            f"{self._names[node]}: {counted(n_more, 'contradicted cell')} beyond the limit of "
            f"{self.settings['max_share']:.0%}; inspect the class as a whole"
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
        """Write the result to an AnnData with the same cells.

        Parameters
        ----------
        adata
            Object whose ``obs_names`` are those of this audit, in the same order.
        key_added
            Prefix of the added keys: a column ``obs["<key>_<column>"]`` for each column of
            :attr:`cells`, colours of the labels, and ``uns["<key>"]`` with ``classes``
            and ``settings``.
        overwrite
            Replace existing keys. Keys that an earlier audit wrote with the same prefix are always
            replaced.

        Raises
        ------
        ValueError
            If the cells are not the same, or a key exists.

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
        colors = tree_colors(self.taxonomy.labels, self.taxonomy.parent)
        colors[self.taxonomy.label(0)] = MISSING
        color_of = dict(zip(self._names, map(colors.get, self.taxonomy.labels), strict=True))
        labels = self.cells[[AUDIT_KEYS.GIVEN, AUDIT_KEYS.SUGGESTED]]
        added = annotation.Additions(
            obs={name: each.array for name, each in self.cells.items()},
            uns={
                f"{name}_colors": list(map(color_of.get, each.cat.categories))
                for name, each in labels.items()
            },
        )
        classes = self.classes.reset_index()  # files require text as index
        stored = {"classes": classes.set_axis(classes.index.astype(str), axis=0)}
        added.write(adata, key_added, {"settings": self.settings, **stored}, overwrite=overwrite)

    def check_cells(self, adata: AnnData) -> None:
        """Raise ``ValueError`` unless an AnnData has the cells of this audit in the same order."""
        annotation.check_cells(self.obs_names, adata, "audit", "audited")

    def check_taxonomy(self, taxonomy: Taxonomy) -> None:
        """Raise ``ValueError`` unless a taxonomy is that of this audit."""
        if taxonomy != self.taxonomy:
            raise ValueError(
                f"The audit must use the taxonomy {taxonomy!r}, got {self.taxonomy!r}. Pass "
                "taxonomy=model.taxonomy to audit_labels."
            )

    def __len__(self) -> int:
        return len(self.obs_names)

    def __repr__(self) -> str:
        n_lineage = (self.suspicious & (self.divergence == 1)).sum()
        return (
            f"LabelAudit of {len(self)} cells ({self.judged.sum()} audited): "
            f"{self.suspicious.sum()} suspicious labels, {n_lineage} of them at "
            f"{self.taxonomy.level_names[0]}; {len(self.notes)} notes"
        )

    def __str__(self) -> str:
        parts = [repr(self), *(f"- {note}" for note in self.notes)]
        if self.suspicious.any():
            parts.append(self.summary().to_string(index=False))
        return "\n".join(parts)

    @cached_property
    def _names(self) -> list[str]:
        return learning.class_names(self.taxonomy)
