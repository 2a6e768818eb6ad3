"""What an annotation can promise: sets with a coverage, and cells that are stopped earlier."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

import numpy as np

from hdeepinsight.annotation._label_sets import LabelSets, label_sets
from hdeepinsight.annotation._novelty import NoveltyLevel, stop_depth_limit

if TYPE_CHECKING:
    import pandas as pd

    from hdeepinsight.annotation._annotation import Annotation
    from hdeepinsight.annotation._conformal import Calibration, SetKind
    from hdeepinsight.taxonomy import Taxonomy


class ConfidenceMixin:
    """Methods of an annotation that stand on calibration cells."""

    taxonomy: Taxonomy
    calibration: Calibration | None
    novelty: pd.DataFrame | None
    max_stop_depth: np.ndarray | None

    def label_sets(
        self,
        alpha: float = 0.1,
        *,
        kind: SetKind = "nodes",
        groups: int | str | None = None,
        calibration: Calibration | None = None,
    ) -> LabelSets:
        r"""Give every cell a set of types that holds the true one with probability 1 − alpha.

        Parameters
        ----------
        alpha
            Share of sets that may miss the truth, between 0 and 1.
        kind
            ``"nodes"``: all types under one node, the guess or an ancestor of it. ``"leaves"``:
            the most probable types, wherever they are in the tree.
        groups
            Level (depth, name, or ``"level1"``) within whose predicted labels the promise is to
            hold; by default it holds for all cells together. Labels with fewer than
            :math:`1/\alpha - 1` calibration cells share one threshold.
        calibration
            Labelled cells scored by :func:`calibrate`; by default those of the model.

        Raises
        ------
        ValueError
            If there is no calibration, or it is of another taxonomy, or ``alpha``, ``kind`` or
            ``groups`` is not valid.

        Examples
        --------
        Probabilities that cannot tell CD4 from CD8, and nine cells that show it:

        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> from hdeepinsight.annotation import calibrate
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> table = pd.DataFrame({"CD4": [0.6] * 9, "CD8": [0.3] * 9, "B": [0.1] * 9})
        >>> result = hdi.Annotation.from_probabilities(table, tree)
        >>> calibration = calibrate(result, tree.encode(["CD4"] * 5 + ["CD8"] * 4))
        >>> result.label_sets(alpha=0.2, calibration=calibration).sets[0]
        ('T',)

        Notes
        -----
        The promise holds for cells that are exchangeable with the calibration cells: another
        donor, protocol or disease breaks it, and cells of a type that the reference lacks are in
        no set. Score a few labelled cells of the query's own kind with :func:`calibrate` to have
        it back.

        References
        ----------
        Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world. The scores on
        the tree are our decision.
        """
        calibration = calibration or self.calibration
        if calibration is None:
            msg = (
                "This annotation carries no calibration, without which nothing can be promised. "
                "Valid are annotations of a model that held cells out in training, or "
                "calibration=hdi.annotation.calibrate(annotation_of_labelled_cells, true_nodes)."
            )
            raise ValueError(msg)
        return label_sets(
            cast("Annotation", self), calibration, alpha=alpha, kind=kind, groups=groups
        )

    def rejected(self, alpha: float = 0.05, *, unknown: NoveltyLevel = "lineage") -> Annotation:
        """Stop cells earlier that are strange to the reference.

        Parameters
        ----------
        alpha
            Share of cells like the held-out reference cells that may be stopped in error.
        unknown
            ``"lineage"``: cells that no lineage recognises stop at the root. ``"type"``: cells
            that are also far from all types stop at their lineage, as candidates for new types;
            use this within a study only, because another protocol alone makes cells far.

        Returns
        -------
        The same annotation with these cells stopped; labels only move up.

        Raises
        ------
        ValueError
            If the annotation has no novelty, or ``alpha`` or ``unknown`` is not valid.

        Examples
        --------
        >>> from dataclasses import replace
        >>> import hdeepinsight as hdi
        >>> import pandas as pd
        >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
        >>> result = hdi.Annotation.from_labels(pd.Series(["CD4", "CD8"], index=["a", "b"]), tree)
        >>> p_values = {"score": [0.0, 9.0], "p_value": [0.6, 0.001], "lineage_p_value": [0.5, 0.4]}
        >>> result = replace(result, novelty=pd.DataFrame(p_values, index=["a", "b"]))
        >>> result.rejected(unknown="type").labels["stop_label"].tolist()
        ['CD4', 'T']
        """
        novelty = _checked_rejection(self.novelty, alpha, unknown)
        limit = stop_depth_limit(novelty, alpha, unknown, self.taxonomy.max_depth)
        if self.max_stop_depth is not None:
            limit = np.minimum(limit, self.max_stop_depth)
        return replace(cast("Annotation", self), max_stop_depth=limit)


def _checked_rejection(novelty: pd.DataFrame | None, alpha: float, unknown: str) -> pd.DataFrame:
    if novelty is None:
        msg = (
            "This annotation knows nothing about novelty. Valid are annotations of a model that "
            "held cells out in training (validation_size > 0). Train it so, or stop cells by "
            "their probability with a higher threshold."
        )
        raise ValueError(msg)
    if not 0.0 <= alpha <= 1.0 or unknown not in get_args(NoveltyLevel):
        msg = (
            f"alpha={alpha}, unknown={unknown!r}; valid are a share from 0 to 1 and "
            f"{get_args(NoveltyLevel)}. Use 0.05 and 'lineage' to begin with."
        )
        raise ValueError(msg)
    return novelty
