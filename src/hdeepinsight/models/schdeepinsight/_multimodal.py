"""RNA and surface proteins of the same cells: registration, and queries that lack some of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager, AnnDataManagerValidationCheck

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.data import (
    InputError,
    Modalities,
    align_genes,
    align_proteins,
    is_paired,
    own_columns,
    protein_genes,
    protein_names,
    trim,
)
from hdeepinsight.data._fields import ColumnField, CountsField
from hdeepinsight.data._mudata_fields import PartField
from hdeepinsight.image import GeneLayout, protein_layout
from hdeepinsight.models.schdeepinsight._base import ReferenceModel
from hdeepinsight.models.schdeepinsight._reference import label_keys

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from mudata import MuData
    from torch import Tensor

    from hdeepinsight.data import GeneReport, ProteinCounts


@dataclass(frozen=True)
class FurtherInputs:
    """What a query has beside its genes.

    Parameters
    ----------
    proteins
        Protein counts of all cells; ``None`` where the model has no proteins.
    has_rna
        Whether RNA was measured in each cell, shape ``(n_cells,)``; ``None`` if in all.
    """

    proteins: ProteinCounts | None = None
    has_rna: np.ndarray | None = None

    def note(self, report: GeneReport) -> GeneReport:
        """Add to the report on the genes what was found of the proteins."""
        if self.proteins is None:
            return report
        return replace(report, messages=(*report.messages, self.proteins.message))

    def tensors(self, rows: slice | np.ndarray, measured: Tensor) -> dict[str, Tensor]:
        """Keyword arguments of the network for some cells, on the device of ``measured``."""
        inputs = {"measured": measured}
        if self.has_rna is not None:
            has_rna = torch.from_numpy(self.has_rna[rows]).to(measured)
            inputs["measured"] = has_rna.unsqueeze(1) * measured
        if self.proteins is not None:
            part = self.proteins[rows]
            inputs["proteins"] = torch.from_numpy(part.counts).to(measured)
            inputs["proteins_measured"] = torch.from_numpy(part.measured).to(measured)
        return inputs


class MultimodalMixin(ReferenceModel):
    """Learn from, and annotate, a MuData of RNA and surface proteins."""

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
        """Register a labelled reference of RNA and surface proteins.

        Nothing but two identifiers in ``uns`` is written to it.

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
        setup_args = cls._get_setup_method_args(**locals())
        setup_args["setup_args"].pop("source_registry")
        keys = label_keys(labels_key, labels_keys)
        found = _resolve(mdata, Modalities.from_setup(modalities))
        setup_args["setup_args"]["modalities"] = found.to_setup()
        manager = AnnDataManager(
            fields=_fields(found, keys, rna_layer, protein_layer, batch_key),
            setup_method_args=setup_args,
            validation_checks=AnnDataManagerValidationCheck(check_fully_paired_mudata=False),
        )
        manager.register_fields(mdata, source_registry=source_registry)
        cls.register_manager(manager)

    def prepare_query_mudata(self, mdata: MuData) -> MuData:
        """Copy of a query with the genes and proteins of this model, in its order.

        Annotating needs no such step; it shows what the model will read, and makes a query small.

        Parameters
        ----------
        mdata
            Query; it is not changed.

        Returns
        -------
        MuData with the same cells, ``obs``, ``uns`` and further modalities. Of RNA and proteins it
        holds the columns that the model uses, under the model's names, with ``raw``, ``layers``
        and ``uns``. What the query lacks stays missing: zeros would count as measured.

        Raises
        ------
        InputError
            If the genes do not match.

        Examples
        --------
        >>> prepared = model.prepare_query_mudata(query)  # doctest: +SKIP
        >>> prepared.mod["rna"].n_vars <= len(model.layout.genes)  # doctest: +SKIP
        True
        """
        from mudata import MuData

        rna, protein = (self._modalities.find(mdata, kind) for kind in ("rna", "protein"))
        parts = dict(mdata.mod)
        if rna is not None:
            parts[rna] = trim(
                parts[rna], align_genes(parts[rna].var, self.layout.genes), self.layout.genes
            )
        if protein is not None and self.proteins:
            names = list(map(str, parts[protein].var_names))
            alignment = align_proteins(names, self.proteins)
            parts[protein] = trim(parts[protein], alignment, self.proteins)
        with own_columns():
            prepared = MuData(parts, uns=deepcopy(dict(mdata.uns)))
        prepared.obs = mdata.obs.loc[prepared.obs_names].copy()
        return prepared

    @property
    def proteins(self) -> tuple[str, ...]:
        """Surface proteins of the model; empty where it was trained on RNA alone."""
        return () if self.protein_layout is None else self.protein_layout.genes

    def _genes_of_proteins(self, adata: AnnData | MuData | None, given: Sequence[str]) -> list[str]:
        """Genes that a fitted layout has to hold, so that the proteins have their places."""
        if not is_paired(adata):
            return []
        names = list(map(str, self._modality(adata, "rna").var_names))
        genes = (
            gene
            for name in protein_names(self._modality(adata, "protein"))
            for gene in protein_genes(name, names)
        )
        return [gene for gene in dict.fromkeys(genes) if gene not in given]

    def _place_proteins(
        self, adata: AnnData | MuData | None, given: GeneLayout | dict[str, Any] | None
    ) -> GeneLayout | None:
        """Return the layout of the proteins that was given, or one at their genes."""
        if isinstance(given, dict):
            return GeneLayout.from_dict(given)
        if given is not None or not is_paired(adata):
            return given
        names = protein_names(self._modality(adata, "protein"))
        return protein_layout(
            self.layout, {name: protein_genes(name, self.layout.genes) for name in names}
        )

    def _fit_proteins(self) -> None:
        proteins = self._proteins_of(self.adata)
        if proteins is not None and self.module.proteins is not None:
            measured = proteins.measured.any(axis=1)
            self.module.proteins.normalizer.fit(proteins.counts[measured])

    def _modality(self, mdata: Any, kind: str) -> AnnData:
        return mdata.mod[self._modalities.find(mdata, kind, required=True)]

    def _proteins_of(self, data: Any) -> ProteinCounts | None:
        """Protein counts in the order of the model; ``None`` if there are none on either side."""
        if self.protein_layout is None or not is_paired(data):
            return None
        layer = self._setup_args.get("protein_layer")
        return self._modalities.proteins_of(data, self.proteins, layer=layer)

    def _further_inputs(self, data: Any) -> FurtherInputs:
        """Return what the query has beside its genes."""
        if not is_paired(data):
            return FurtherInputs()
        has_rna = self._modalities.has_rna(data)
        proteins = self._proteins_of(data)
        if not has_rna.any() and (proteins is None or not proteins.measured.any()):
            raise InputError(
                f"The MuData (modalities: {', '.join(data.mod)}) has no RNA and no protein that "
                "the model knows.",
                f"The model reads RNA{' and proteins' if self.proteins else ' alone'}.",
                "Add the RNA modality, or check the names of modalities and proteins.",
            )
        return FurtherInputs(proteins, None if has_rna.all() else has_rna)

    def _column(self, key: str) -> pd.Series:
        """Column of the reference's cells; raises ``KeyError`` where there is none."""
        cells = self.adata
        if is_paired(cells):
            cells = self._modalities.columns_of(cells, [key], kind="batch")
        if key not in cells.obs:
            msg = (
                f"obs has no column {key!r}. Columns there: {', '.join(map(str, cells.obs))}. "
                "Pass the name of one of them."
            )
            raise KeyError(msg)
        return cells.obs[key]


def _resolve(mdata: MuData, asked: Modalities) -> Modalities:
    """Names of the modalities that there are; raises ``InputError`` where one is missing."""
    names = {kind: asked.find(mdata, kind, required=True) for kind in ("rna", "protein")}
    if names["rna"] == names["protein"]:
        raise InputError(
            f"The modality {names['rna']!r} is named for both RNA and proteins.",
            f"Valid are two of {', '.join(map(repr, mdata.mod))}.",
            "Correct modalities=; for RNA alone use setup_anndata.",
        )
    found = Modalities(**names, labels=asked.labels, batch=asked.batch)
    lacking = int((~found.has_rna(mdata)).sum())
    if lacking:
        raise InputError(
            f"{lacking:,} of the {mdata.n_obs:,} cells have no RNA.",
            "A reference needs the RNA of every cell; proteins may be missing.",
            f"Keep the cells of mdata.mod[{found.rna!r}].",
        )
    return found


def _fields(
    found: Modalities,
    keys: Sequence[str],
    rna_layer: str | None,
    protein_layer: str | None,
    batch_key: str | None,
) -> list[PartField]:
    def rna(mdata: MuData) -> Any:
        return found.rna_of(mdata)

    def proteins(mdata: MuData) -> Any:
        return mdata.mod[found.find(mdata, "protein", required=True)]

    def labels(mdata: MuData) -> Any:
        return found.columns_of(mdata, keys)

    def batch(mdata: MuData) -> Any:
        return found.columns_of(mdata, [batch_key] if batch_key else [], kind="batch")

    return [
        PartField(CountsField(REGISTRY_KEYS.X_KEY, rna_layer), rna, found.rna),
        PartField(CountsField(FIELD_KEYS.PROTEINS, protein_layer), proteins, found.protein),
        *(
            PartField(ColumnField(f"{FIELD_KEYS.LABELS}_{i}", key), labels, found.labels)
            for i, key in enumerate(keys, start=1)
        ),
        PartField(ColumnField(FIELD_KEYS.BATCH, batch_key), batch, found.batch),
    ]
