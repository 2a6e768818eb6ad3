"""Settings of the correction, and the values that others used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hdeepinsight._errors import check_choice, check_integer, check_number, invalid
from hdeepinsight.graph import Exact
from hdeepinsight.taxonomy import Taxonomy

GenesToCorrect = Literal["shared", "features"]
NeighborSearch = Literal["auto", "exact", "approximate"]

_COUNTS = ("n_dims", "k_anchor", "k_score", "k_weight", "min_cells", "max_seed_datasets")


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
    alpha
        Share of closeness in an anchor's score; the rest is the agreement of its surroundings.
    label_confidence
        Trust in labels, from 0 (not used) to 1 (anchors between different labels are dropped).
    center
        Subtract each dataset's mean before its embedding. Off as published: with it, differences
        in composition look like batch effects.
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
    as_published
        Choose as STACAS 2.3.0 does where we decided otherwise, for comparison: anchors whose labels
        differ are dropped at random; weights are taken in principal components of both sides;
        anchor distances are scaled over all pairs of datasets, so that one query changes another's
        result; and weights stop after ``k_weight`` anchors instead of anchor cells, so that the
        order of the reference cells matters.

    Raises
    ------
    ValueError
        If a value is out of its range.

    Notes
    -----
    Defaults are those of STACAS 2.3.0 {cite:p}`andreatta2021,andreatta2024`, but for the genes to
    correct and the choices that `upstream` goes back to.

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
    alpha: float = 0.8
    label_confidence: float = 1.0
    center: bool = False
    attenuate: bool = False
    min_cells: int = 100
    max_seed_datasets: int = 10
    genes_to_correct: GenesToCorrect = "shared"
    blocked_genes: tuple[str, ...] = ()
    as_published: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            check_integer(name, getattr(self, name), hint="Omit it to use the default.")
        for name in ("alpha", "label_confidence"):
            check_number(name, getattr(self, name), 0, 1, hint="Omit it to use the default.")
        check_choice("genes_to_correct", self.genes_to_correct, get_args(GenesToCorrect))
        if isinstance(self.blocked_genes, str):  # its letters would be taken for genes
            hint = "Pass a tuple, even for one gene."
            raise invalid("blocked_genes", self.blocked_genes, "a tuple of names", hint)

    @classmethod
    def schdeepinsight(cls) -> StacasConfig:
        """Return the values of the published scHDeepInsight query step.

        It left ``alpha`` at the default of an unknown version; that of STACAS 2.3.0 is assumed. It
        used all shared genes as anchor features: pass them as ``features``.

        Examples
        --------
        >>> from hdeepinsight.pp import StacasConfig
        >>> StacasConfig.schdeepinsight().n_dims
        20
        """
        return cls(n_dims=20, k_anchor=40, k_score=60, k_weight=30)

    @classmethod
    def upstream(cls) -> StacasConfig:
        """Return the choices of STACAS 2.3.0 where ours differ, for comparison.

        Examples
        --------
        >>> from hdeepinsight.pp import StacasConfig
        >>> StacasConfig.upstream().genes_to_correct
        'features'
        """
        return cls(genes_to_correct="features", as_published=True)


@dataclass(frozen=True)
class RunSettings:
    """What every part of one correction needs to know."""

    config: StacasConfig
    neighbors: NeighborSearch = "auto"
    seed: int = 0
    taxonomy: Taxonomy | None = None

    @property
    def exact(self) -> Exact:
        """Return the kind of search as `hdeepinsight.graph.nearest_neighbors` calls it."""
        return "auto" if self.neighbors == "auto" else self.neighbors == "exact"
