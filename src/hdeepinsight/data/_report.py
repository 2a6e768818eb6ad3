"""What an input matrix turned out to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from hdeepinsight.data._names import IdentifierKind, Species

__all__ = ["InputReport", "Scale"]

Scale: TypeAlias = Literal[
    "counts",
    "binary",
    "log1p_counts",
    "log1p",
    "normalized",
    "fractional_counts",
    "scaled",
    "empty",
]


@dataclass(frozen=True)
class InputReport:
    """What `inspect_input` found in a matrix of shape ``(n_obs, n_vars)``.

    Parameters
    ----------
    n_obs
        Number of cells.
    n_vars
        Number of genes.
    layer
        Matrix that was read: ``"X"``, ``".raw"`` or ``"layers['name']"``.
    storage
        How it is stored, for example ``"csr_matrix"``, ``"dense"``, ``"h5ad csr"``, ``"dask"``.
    scale
        ``"counts"``; ``"binary"`` (only 0 and 1); ``"log1p_counts"`` (log1p-normalised, counts can
        be recovered); ``"log1p"`` (they cannot); ``"normalized"`` (library-size normalised, not
        logged); ``"fractional_counts"`` (ambient-corrected or model-based float counts);
        ``"scaled"`` (negative values); ``"empty"``.
    evidence
        Why, in a sentence.
    n_nan
        Number of NaN.
    n_inf
        Number of infinite values.
    n_negative
        Number of negative values.
    n_empty_cells
        Number of cells with zeros only.
    duplicated_genes
        Names that more than one column carries.
    identifiers
        Symbols, Ensembl ids, both, or neither.
    versioned
        Whether Ensembl ids carry versions.
    species
        Guess from prefixes and case.
    looks_transposed
        Whether the columns are named like cells and the rows like genes.
    rounding
        Distance of the decimals that the values are rounded to; 0.0 if they are not.
    problems
        Sentences about what stands in the way or needs care: found, valid, do next.
    repairs
        Sentences about what is repaired when the counts are read.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import numpy as np
    >>> counts = np.random.default_rng(0).poisson(1.0, (20, 5)).astype("float32")
    >>> report = hdi.pp.inspect_input(ad.AnnData(counts))
    >>> report.scale, report.n_obs, report.n_vars
    ('counts', 20, 5)
    """

    n_obs: int
    n_vars: int
    layer: str
    storage: str
    scale: Scale
    evidence: str
    n_nan: int = 0
    n_inf: int = 0
    n_negative: int = 0
    n_empty_cells: int = 0
    duplicated_genes: tuple[str, ...] = ()
    identifiers: IdentifierKind = "unknown"
    versioned: bool = False
    species: Species = "unknown"
    looks_transposed: bool = False
    rounding: float = 0.0
    problems: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = f"{self.identifiers}{' with versions' if self.versioned else ''}, {self.species}"
        lines = [
            f"{self.n_obs:,} cells × {self.n_vars:,} genes in {self.layer} ({self.storage})",
            f"  scale     {self.scale}: {self.evidence}",
            f"  genes     {names}",
        ]
        lines += [f"  repaired  {text}" for text in self.repairs]
        lines += [f"  problem   {text}" for text in self.problems]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Plain types only (numbers, strings, lists), as JSON takes them.

        Examples
        --------
        >>> import anndata as ad
        >>> import hdeepinsight as hdi
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(1.0, (20, 5)).astype("float32")
        >>> hdi.pp.inspect_input(ad.AnnData(counts)).to_dict()["scale"]
        'counts'
        """
        plain = asdict(self)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in plain.items()}
