"""Where each gene lives on the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hdeepinsight.image._fit import (
    Equalize,
    LayoutMethod,
    Report,
    default_side,
    fit_pixels,
    random_pixels,
)
from hdeepinsight.image._validate import check_pixels, check_side, checked_genes, checked_integers


@dataclass(frozen=True, eq=False, repr=False)
class GeneLayout:
    """A pixel of its own for every gene of a model.

    Frozen and validated. Build one from expression with :meth:`fit`, as a control with
    :meth:`random`, or from pixels that you chose yourself.

    Parameters
    ----------
    genes
        Unique gene names; their order is the column order of every matrix that is drawn.
    pixel
        Row-major pixel of each gene (``row * side + column``), ``(n_genes,)``, all different and
        in ``[0, side * side)``. Stored as a read-only int64 array.
    side
        Pixels along one side of the square image.
    method
        How the layout was made.
    report
        Plain numbers about the fit. Distances are in pixels: ``displacement_mean``,
        ``displacement_p95`` and ``displacement_max`` (absent for ``"random"``); ``occupancy`` is
        the share of filled pixels; ``silent_genes`` counts genes without expression;
        ``neighbors_kept`` is the share of each gene's 10 nearest genes (cosine of profiles) found
        among its 10 nearest on the image, and ``neighbors_kept_random`` the same for random pixels.

    Raises
    ------
    TypeError
        If a gene name is not a string or a pixel is not an integer.
    ValueError
        If names or pixels repeat, a pixel lies outside the image, or lengths differ.

    Examples
    --------
    >>> from hdeepinsight.image import GeneLayout
    >>> layout = GeneLayout(genes=("CD3E", "MS4A1", "LYZ"), pixel=[0, 3, 8], side=3)
    >>> layout
    GeneLayout(3 genes on 3 × 3 pixels, method='custom', occupancy 33%)
    >>> layout.coordinates.tolist()
    [[0, 0], [1, 0], [2, 2]]
    >>> GeneLayout.from_dict(layout.to_dict()) == layout
    True

    Notes
    -----
    Source: DeepInsight's image transformation as used by scHDeepInsight
    (doi:10.1101/2025.06.23.661045); the singular value decomposition of the profiles, the rank
    equalisation and the report are our decisions.
    """

    genes: tuple[str, ...]
    pixel: npt.NDArray[np.int64]
    side: int
    method: str = "custom"
    report: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        genes, pixel = checked_genes(self.genes), checked_integers(self.pixel)
        check_side(self.side, len(genes))
        check_pixels(pixel, len(genes), self.side)
        pixel.setflags(write=False)
        normal = {"genes": genes, "pixel": pixel, "side": int(self.side), "method": self.method}
        for name, value in {**normal, "report": dict(self.report)}.items():
            object.__setattr__(self, name, value)

    @classmethod
    def fit(
        cls,
        x: Any,
        genes: Sequence[str],
        *,
        method: LayoutMethod = "tsne",
        side: int | None = None,
        equalize: Equalize = "auto",
        seed: int = 0,
    ) -> GeneLayout:
        """Fit a layout in which co-varying genes are neighbours.

        Parameters
        ----------
        x
            Log-normalised expression, ``(n_cells, n_genes)``, dense or scipy sparse; not changed.
            Pass a label-stratified sample of at most 20,000 training cells.
        genes
            Names of the columns of `x`.
        method
            ``"tsne"`` with the published settings (cosine, perplexity 70, early exaggeration 8,
            PCA start, 1,000 iterations), ``"umap"``, ``"mde"`` (pymde) or ``"random"`` (control).
        side
            Pixels along one side; by default the smallest multiple of 8 that holds all genes.
        equalize
            Replace each axis by its ranks: ``"auto"`` does so when genes fill more than half of
            the pixels.
        seed
            Same data and seed, same layout, whatever the number of cores.

        Returns
        -------
        The layout, with its report.

        Raises
        ------
        ValueError
            If `x` does not have one column a gene, holds NaN or infinite values, or is all zero;
            if names repeat; if `side` is too small; if a mode is not known.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.image import GeneLayout
        >>> x = np.random.default_rng(0).gamma(0.5, size=(200, 30))
        >>> GeneLayout.fit(x, [f"gene_{i}" for i in range(30)])
        GeneLayout(30 genes on 8 × 8 pixels, method='tsne', occupancy 47%)

        Notes
        -----
        t-SNE runs on 50 singular vectors of the unit-length profiles; published: on all cells
        without reduction. Panels with few genes lower the perplexity to a third of them.
        """
        names = checked_genes(genes)
        if getattr(x, "ndim", 2) != 2 or np.shape(x)[1] != len(names):
            raise ValueError(
                f"The expression has the shape {np.shape(x)}, and {len(names)} genes are named. "
                "It must be (n_cells, n_genes), one column a name. Subset or transpose it."
            )
        side = default_side(len(names)) if side is None else check_side(side, len(names))
        pixel, report = fit_pixels(x, side, method=method, equalize=equalize, seed=seed)
        return cls(names, pixel, side, method, report)

    @classmethod
    def random(cls, genes: Sequence[str], side: int | None = None, seed: int = 0) -> GeneLayout:
        """Place genes at random: the control for every claim about a learned layout.

        Parameters
        ----------
        genes
            Unique gene names.
        side
            Pixels along one side; by default the smallest multiple of 8 that holds all genes.
        seed
            Seed of the draw.

        Returns
        -------
        A layout with ``method="random"``, the same as ``fit(..., method="random")`` gives.

        Examples
        --------
        >>> from hdeepinsight.image import GeneLayout
        >>> GeneLayout.random(["CD3E", "MS4A1", "LYZ"])
        GeneLayout(3 genes on 8 × 8 pixels, method='random', occupancy 5%)
        """
        names = checked_genes(genes)
        side = default_side(len(names)) if side is None else check_side(side, len(names))
        report: Report = {"occupancy": len(names) / side**2}
        return cls(names, random_pixels(len(names), side, seed), side, "random", report)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def coordinates(self) -> npt.NDArray[np.int64]:
        """(row, column) of each gene, int64 ``(n_genes, 2)``."""
        return np.stack(np.divmod(self.pixel, self.side), axis=1)

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as plain Python types, fit for JSON and for safe model files.

        Examples
        --------
        >>> from hdeepinsight.image import GeneLayout
        >>> GeneLayout(genes=("CD3E", "MS4A1"), pixel=[0, 3], side=2).to_dict()["pixel"]
        [0, 3]
        """
        return {
            "genes": list(self.genes),
            "pixel": self.pixel.tolist(),
            "side": self.side,
            "method": self.method,
            "report": dict(self.report),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> GeneLayout:
        """Rebuild a layout from :meth:`to_dict`, with every check of the constructor.

        Raises
        ------
        ValueError
            If an entry is missing.

        Examples
        --------
        >>> from hdeepinsight.image import GeneLayout
        >>> GeneLayout.from_dict({"genes": ["CD3E", "MS4A1"], "pixel": [0, 3], "side": 2})
        GeneLayout(2 genes on 2 × 2 pixels, method='custom', occupancy 50%)
        """
        missing = [key for key in ("genes", "pixel", "side") if key not in data]
        if missing:
            raise ValueError(
                f"The stored layout lacks {missing}. It must hold 'genes', 'pixel' and 'side'. "
                "Write it again with GeneLayout.to_dict()."
            )
        return cls(
            data["genes"],
            data["pixel"],
            data["side"],
            data.get("method", "custom"),
            data.get("report", {}),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GeneLayout) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.genes, self.pixel.tobytes(), self.side, self.method))

    def __repr__(self) -> str:
        return (
            f"GeneLayout({self.n_genes} genes on {self.side} × {self.side} pixels, "
            f"method={self.method!r}, occupancy {self.n_genes / self.side**2:.0%})"
        )
