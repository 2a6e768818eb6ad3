"""Settings of the correction, and the values that others used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["StacasConfig"]

LabelMode = Literal["weight", "sample"]
Linkage = Literal["single", "average", "complete"]
WeightSpaceName = Literal["query", "merged"]
GenesToCorrect = Literal["shared", "features"]

_CHOICES = {
    "label_mode": LabelMode,
    "weight_space": WeightSpaceName,
    "linkage": Linkage,
    "genes_to_correct": GenesToCorrect,
}
_POSITIVE = ("n_dims", "k_anchor", "k_score", "k_weight", "min_cells", "max_seed_datasets")
_SHARES = ("alpha", "anchor_coverage", "label_confidence")


@dataclass(frozen=True, kw_only=True)
class StacasConfig:
    """How anchors are found, trusted and used by `stacas`.

    Parameters
    ----------
    n_dims
        Dimensions of the embeddings.
    k_anchor
        Two cells are an anchor when each is among this many nearest of the other.
    k_score
        Neighbours whose overlap says how well the surroundings of an anchor agree.
    k_weight
        Anchor cells that a cell takes its correction from.
    sd_weight
        Width of the kernel of these weights.
    alpha
        Share of closeness in an anchor's score; the rest is the agreement of its surroundings.
    anchor_coverage
        Quantile of anchor distances at which closeness is one half.
    correction_scale
        How steeply closeness falls, in standard deviations of anchor distances.
    label_confidence
        Trust in labels, from 0 (not used) to 1 (anchors between different labels are dropped).
    label_mode
        ``"weight"`` lowers the score of an anchor whose labels differ; ``"sample"`` drops it at
        random with the same expectation, as published.
    center
        Subtract each dataset's mean before its embedding. Off as published: with it, differences
        in composition look like batch effects.
    scale
        Divide genes by their standard deviation before the embedding.
    weight_space
        Where distances between query cells are taken: principal components of the query alone, or
        of both sides, as published.
    linkage
        How the guide tree joins datasets.
    pool_anchors
        Take the scale of anchor distances over all pairs of datasets, as published; then one
        query changes another's result.
    truncate_anchors
        Stop after ``k_weight`` anchors instead of anchor cells, as published; then the order of
        the reference cells matters.
    attenuate
        Correct cells that are far from every anchor less.
    min_cells
        Queries with fewer cells are left as they are.
    max_seed_datasets
        Datasets that the guide tree is built on; the others are mapped onto the result.
    genes_to_correct
        ``"shared"``: all genes that every dataset has; ``"features"``: those used for anchors.
    blocked_genes
        Genes never used for anchors, besides mitochondrial, ribosomal, haemoglobin and
        antigen-receptor genes.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Notes
    -----
    Defaults are those of STACAS 2.3.0 {cite:p}`andreatta2021,andreatta2024`, but for the genes to
    correct, the weight space, the truncation, the pooling and the label mode, where `upstream`
    goes back to its choices.

    Examples
    --------
    >>> from hdeepinsight.pp import StacasConfig
    >>> StacasConfig().k_anchor, StacasConfig.schdeepinsight().k_anchor
    (5, 40)
    """

    n_dims: int = 30
    k_anchor: int = 5
    k_score: int = 30
    k_weight: int = 100
    sd_weight: float = 1.0
    alpha: float = 0.8
    anchor_coverage: float = 0.5
    correction_scale: float = 2.0
    label_confidence: float = 1.0
    label_mode: LabelMode = "weight"
    center: bool = False
    scale: bool = False
    weight_space: WeightSpaceName = "query"
    linkage: Linkage = "single"
    pool_anchors: bool = False
    truncate_anchors: bool = False
    attenuate: bool = False
    min_cells: int = 100
    max_seed_datasets: int = 10
    genes_to_correct: GenesToCorrect = "shared"
    blocked_genes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            value = getattr(self, name)
            self._require(name, value >= 1 and value == int(value), "a whole number from 1 up")
        for name in _SHARES:
            self._require(name, 0 <= getattr(self, name) <= 1, "a number from 0 to 1")
        for name in ("sd_weight", "correction_scale"):
            self._require(name, getattr(self, name) > 0, "a positive number")
        for name, mode in _CHOICES.items():
            valid = get_args(mode)
            self._require(name, getattr(self, name) in valid, " or ".join(map(repr, valid)))
        # The letters of a text would be taken for genes, and nothing blocked.
        several = not isinstance(self.blocked_genes, str)
        self._require("blocked_genes", several, "a tuple of names, also for one gene")

    def _require(self, name: str, holds: bool, valid: str) -> None:
        if not holds:
            raise ValueError(
                f"Found {name}={getattr(self, name)!r}. Valid is {valid}. Change it, or leave it "
                "out for the default."
            )

    @classmethod
    def schdeepinsight(cls) -> StacasConfig:
        """Values of the published scHDeepInsight query step.

        It left ``alpha``, ``anchor_coverage`` and ``correction_scale`` at the defaults of an
        unknown version; those of STACAS 2.3.0 are assumed. It used all shared genes as anchor
        features: pass them as ``features``.

        Examples
        --------
        >>> from hdeepinsight.pp import StacasConfig
        >>> StacasConfig.schdeepinsight().n_dims
        20
        """
        return cls(n_dims=20, k_anchor=40, k_score=60, k_weight=30)

    @classmethod
    def upstream(cls) -> StacasConfig:
        """Choices of STACAS 2.3.0 where ours differ, for comparison.

        Examples
        --------
        >>> from hdeepinsight.pp import StacasConfig
        >>> StacasConfig.upstream().genes_to_correct
        'features'
        """
        return cls(
            label_mode="sample",
            weight_space="merged",
            pool_anchors=True,
            truncate_anchors=True,
            genes_to_correct="features",
        )
