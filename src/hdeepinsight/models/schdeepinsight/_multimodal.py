"""RNA and surface proteins of the same cells: registration, and queries that lack some of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.data import (
    Modalities,
    errors_of,
    is_paired,
    open_counts,
    protein_genes,
    protein_names,
)
from hdeepinsight.image import GeneLayout, protein_layout
from hdeepinsight.models._base._registration import check_reference, register
from hdeepinsight.models._base._setup import Setup, as_label_keys

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.models._base._count_model import CountModel as _Base
else:
    _Base = object


class MultimodalMixin(_Base):
    """Learn from, and annotate, a MuData of RNA and surface proteins."""

    protein_layout: GeneLayout | None = None

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        labels_key: str | None = None,
        labels_keys: Sequence[str] | None = None,
        batch_key: str | None = None,
        unlabeled_category: str = "Unknown",
        modalities: Mapping[str, str] | None = None,
        source_registry: dict[str, Any] | None = None,
    ) -> None:
        """Register a labelled reference of RNA and surface proteins; nothing is written to it.

        Parameters
        ----------
        mdata
            Reference with raw counts of both modalities. Some cells may lack proteins, none RNA.
        rna_layer, protein_layer
            Layers with the counts; ``X`` by default.
        labels_key, labels_keys, batch_key, unlabeled_category
            As in :meth:`setup_anndata`. The columns are looked for in ``mdata.obs``, then in the
            ``obs`` of the RNA modality.
        modalities
            Modality of each argument, as in scvi-tools: ``{"rna_layer": "rna", "protein_layer":
            "protein"}``, and ``"labels_key"`` or ``"batch_key"`` where the columns are in another
            modality. By default the usual names are tried.
        source_registry
            Registry of a saved model, whose set-up is repeated on this object.

        Raises
        ------
        InputError
            If a modality is missing, empty or does not hold counts, or cells lack RNA.
        KeyError
            If a column is not there.
        ValueError
            If not exactly one of ``labels_key`` and ``labels_keys`` is given.

        Examples
        --------
        >>> SCHDeepInsight.setup_mudata(
        ...     mdata,
        ...     labels_key="cell_type",
        ...     modalities={"rna_layer": "rna", "protein_layer": "prot"},
        ... )  # doctest: +SKIP
        """
        setup = Setup(**cls._get_setup_method_args(**locals()))
        keys = as_label_keys(labels_key, labels_keys)
        check_reference(mdata, MuData, "setup_anndata")
        found = Modalities.from_setup(modalities).of_reference(mdata)
        setup.setup_args["modalities"] = found.to_setup()
        rna, protein = found.rna_of(mdata), mdata.mod[found.protein]
        with errors_of(found.rna):
            source = open_counts(rna, layer=rna_layer, arguments={"layer": "rna_layer"})
        with errors_of(found.protein):
            arguments = {"layer": "protein_layer"}
            open_counts(protein, layer=protein_layer, arguments=arguments, genes_only=False)
        obs = found.columns_of(mdata, keys).obs
        if batch_key is not None:
            batch = found.columns_of(mdata, [batch_key], kind="batch").obs
            obs = obs.join(batch[batch.columns.difference(obs.columns)])
        register(cls, mdata, source, obs, setup)

    @property
    def proteins(self) -> tuple[str, ...]:
        """Surface proteins of the model; empty where it was trained on RNA alone."""
        return () if self.protein_layout is None else self.protein_layout.genes

    def _genes_of_proteins(self, adata: Any, given: Sequence[str]) -> list[str]:
        """Return genes that a fitted layout has to hold, so that the proteins have their places."""
        if not is_paired(adata):
            return []
        proteins = protein_names(self._modality(adata, "protein"))
        names = list(map(str, self._modality(adata, "rna").var_names))
        genes = [protein_genes(name, names) for name in proteins]
        return [gene for gene in dict.fromkeys(chain.from_iterable(genes)) if gene not in given]

    def _protein_layout_of(
        self, given: GeneLayout | dict[str, Any] | None, layout: GeneLayout
    ) -> GeneLayout | None:
        """Return how the proteins are laid out: as given, or where their genes are."""
        if given is not None or not is_paired(self.adata):
            return GeneLayout.from_dict(given) if isinstance(given, dict) else given
        names = protein_names(self._modality(self.adata, "protein"))
        return protein_layout(layout, {name: protein_genes(name, layout.genes) for name in names})

    def _protein_arrays(self) -> dict[str, np.ndarray]:
        """Return protein counts of the reference and whether each was measured, for the loaders."""
        if self.protein_layout is None or not is_paired(self.adata):
            return {}
        layer = self._setup.setup_args.get("protein_layer")
        found = self._setup.modalities.proteins_of(self.adata, self.proteins, layer=layer)
        counts, measured = found.counts, found.measured
        return {FIELD_KEYS.PROTEINS: counts, "proteins_measured": measured.astype(np.float32)}

    def _fit_proteins(self) -> None:
        """Fit the normalisation of the proteins to the cells that have some."""
        if self.module.proteins is not None and is_paired(self.adata):
            shell = self.adata_manager.adata
            measured = shell.obsm["proteins_measured"].any(axis=1)
            self.module.proteins.normalizer.fit(shell.obsm[FIELD_KEYS.PROTEINS][measured])

    def _modality(self, mdata: Any, kind: str) -> AnnData:
        return mdata.mod[self._setup.modalities.find(mdata, kind, required=True)]
