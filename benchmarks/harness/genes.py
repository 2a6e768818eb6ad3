"""Genes of the controls: chosen on the reference alone, the same ones for each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import anndata as ad

#: Named in the record of the prepared files, which are made again when it changes.
RULE = "hdeepinsight.data.select_genes"


def select_genes(reference: ad.AnnData, n_genes: int) -> list[str]:
    """Names of up to `n_genes` variable genes of the reference: those that our model would take."""
    from hdeepinsight.data import open_counts
    from hdeepinsight.data import select_genes as select

    return [str(gene) for gene in select(open_counts(reference), n_genes)]
