"""Registration and loading of references with RNA and surface proteins of the same cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from mudata import MuData

from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.data import (
    Modalities,
    errors_of,
    is_paired,
    open_counts,
    open_store,
    protein_genes,
    protein_names,
)
from hdeepinsight.models._base._registration import Setup, as_label_keys, check_reference, register

if TYPE_CHECKING:
    from collections.abc import Sequence


def register_paired(model_class: type, mdata: MuData, setup: Setup) -> None:
    """Register a MuData with a model class, and record its modalities in the set-up."""
    given = setup.setup_args
    keys = as_label_keys(given["labels_key"], given["labels_keys"])
    check_reference(mdata, MuData, "setup_anndata")
    found = Modalities.from_setup(given["modalities"]).of_reference(mdata)
    given["modalities"] = {name: value for name, value in vars(found).items() if value is not None}
    rna, protein = found.rna_of(mdata), mdata.mod[found.protein_layer]
    with errors_of(found.rna_layer):
        source = open_counts(rna, layer=given["rna_layer"], arguments={"layer": "rna_layer"})
    with errors_of(found.protein_layer):
        how: Any = {"layer": given["protein_layer"], "arguments": {"layer": "protein_layer"}}
        open_counts(open_store(protein).all_columns(), **how)
    obs = found.obs_of(mdata, "labels")
    if setup.batch_key is not None and setup.batch_key not in keys:
        of_batch = found.obs_of(mdata, "batch")
        if setup.batch_key in of_batch:
            obs[setup.batch_key] = of_batch[setup.batch_key]
    register(model_class, mdata, source, obs, setup)


def genes_of_proteins(
    data: Any, setup: Setup, genes: Sequence[str] | None = None
) -> dict[str, Sequence[str]]:
    """Return which genes, by default of the reference, each of its proteins has, if any."""
    if not is_paired(data):
        return {}
    find = partial(setup.modalities.find, data, required=True)
    known = data.mod[find("rna")].var_names.astype(str) if genes is None else genes
    names = protein_names(data.mod[find("protein")])
    return {name: protein_genes(name, list(known)) for name in names}


def protein_arrays(data: Any, setup: Setup, proteins: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the protein counts of a reference, and which were measured, for the loaders."""
    if not proteins or not is_paired(data):
        return {}
    layer = setup.setup_args.get("protein_layer")
    found = setup.modalities.proteins_of(data, proteins, layer=layer)
    measured = found.measured.astype(np.float32)
    return {FIELD_KEYS.PROTEINS: found.counts, "proteins_measured": measured}
