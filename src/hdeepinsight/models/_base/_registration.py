"""Registration of references with scvi-tools, through a shell that leaves them unmodified.

The shell is an AnnData that shares the user's matrix and holds the integer codes that scvi-tools
would otherwise write to the user's ``obs``. scvi-tools registers the shell.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data.fields import LayerField, NumericalObsField, ObsmField

from hdeepinsight import data
from hdeepinsight._errors import batch_column, invalid, one_column
from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight.models._base._setup import PANEL_KEY, Setup, as_label_keys
from hdeepinsight.nn import GenePanels
from hdeepinsight.taxonomy import check_labels, find_unlabeled

LABELS, BATCH, PANEL = "_scvi_labels", "_scvi_batch", "_scvi_panel"
# scvi-tools warns of every obsm array without column names, and these have none.
logging.getLogger("scvi.data.fields._arraylike_field").setLevel(logging.WARNING)


@dataclass(frozen=True, eq=False)
class Registration:
    """Registered reference, from which a model is created.

    Parameters
    ----------
    reference
        Weak reference to the user's object.
    source
        Its validated counts.
    manager
        scvi-tools manager of the shell with all genes.
    genes
        Genes of the saved model that the reference is attached to; by default those of the
        reference, whose columns with the same name are summed.
    """

    reference: weakref.ref[Any]
    source: data.CountSource
    manager: AnnDataManager
    genes: list[str]


_REGISTERED: dict[tuple[str, int], Registration] = {}


def register(
    model_class: type, reference: Any, source: data.CountSource, obs: pd.DataFrame, setup: Setup
) -> None:
    """Register a reference with a model class without modifying it.

    Parameters
    ----------
    model_class
        Class that is set up.
    reference
        The user's AnnData or MuData.
    source
        Its counts.
    obs
        Table with the label and batch columns.
    setup
        Arguments of the set-up method.

    Raises
    ------
    KeyError
        If a column is missing.
    ValueError
        If two columns have the same name.
    """
    source_registry = setup.setup_args.pop("source_registry", None)
    if not isinstance(given := setup.setup_args.get("unlabeled_category"), str | float | None):
        hint = "Set all other labels that mean the same to missing."
        raise invalid("unlabeled_category", given, "a single label, as text", hint)
    for key in setup.labels_keys:
        check_labels(one_column(obs, key), key, unlabeled=setup.unlabeled)
    for group_key in (setup.batch_key, setup.panel_key):
        if group_key is not None:
            batch_column(obs, group_key)
    on_disk = source.matrix.is_on_disk  # then only the genes of the model are read, later
    shape = source.matrix.shape
    shared = sparse.csr_matrix(shape, dtype=np.float32) if on_disk else source.matrix.whole()
    var = pd.DataFrame(index=_unique(source.var_names))
    shell = AnnData(shared, obs=shell_obs(obs, setup, source_registry), var=var)
    entry = model_class.__name__, id(reference)
    owner = weakref.ref(reference, lambda _: _REGISTERED.pop(entry, None))
    genes = names_of(source_registry, REGISTRY_KEYS.X_KEY, "column_names")
    genes = genes or list(dict.fromkeys(map(str, source.var_names)))
    _REGISTERED[entry] = Registration(owner, source, register_shell(shell, setup), genes)


def registration_of(model_class: type, reference: Any) -> Registration:
    """Return the registration of an object; raises ``ValueError`` if there is none."""
    found = _REGISTERED.get((model_class.__name__, id(reference)))
    if found is None or found.reference() is not reference:
        paired = hasattr(reference, "mod") and hasattr(model_class, "setup_mudata")
        how = "setup_mudata" if paired else "setup_anndata"
        call = f"{model_class.__name__}.{how} on this object first; a copy has to be set up again."
        msg = f"This {type(reference).__name__} is not registered with {model_class.__name__}."
        raise ValueError(f"{msg} Call {call}")
    return found


def register_shell(shell: AnnData, setup: Setup) -> AnnDataManager:
    """Register the counts, codes and ``obsm`` entries of a shell with scvi-tools."""
    codes = {REGISTRY_KEYS.BATCH_KEY: BATCH}
    codes |= {REGISTRY_KEYS.LABELS_KEY: LABELS} if LABELS in shell.obs else {}
    codes |= {PANEL_KEY: PANEL} if PANEL in shell.obs else {}
    registered = [
        LayerField(REGISTRY_KEYS.X_KEY, None, is_count_data=False, correct_data_format=False),
        *(NumericalObsField(key, name) for key, name in codes.items()),
        *(ObsmField(name, name) for name in shell.obsm),
    ]
    manager = AnnDataManager(fields=registered, setup_method_args=dict(vars(setup)))
    manager.register_fields(shell)
    described = manager.registry["field_registries"]
    for key, name in codes.items():
        categories = shell.obs[f"{name}_name"].cat.categories.astype(str).tolist()
        described[key]["state_registry"] = {"categorical_mapping": categories}
        described[key]["summary_stats"] = {f"n_{key}": len(categories)}
    if PANEL in shell.obs:
        found = GenePanels.find(sparse.csr_matrix(shell.X), shell.obs[PANEL].to_numpy())
        described[PANEL_KEY]["state_registry"]["measured"] = found.measured
    if LABELS in shell.obs:
        described[REGISTRY_KEYS.LABELS_KEY]["state_registry"]["n_missing"] = {
            key: int(shell.obs[f"{LABELS}_missing_{key}"].sum()) for key in setup.labels_keys
        }
    return manager


def check_batch(batch: Mapping[str, Any], n_genes: int, n_labels: int) -> None:
    """Raise ``ValueError`` unless a mini-batch has the counts and label codes of its registry."""
    needed = (REGISTRY_KEYS.X_KEY, REGISTRY_KEYS.LABELS_KEY)
    if lacking := [name for name in needed if name not in batch]:
        found = f"A mini-batch of the datamodule lacks {' and '.join(map(repr, lacking))}"
        raise ValueError(f"{found}. It must contain the counts 'X' and the label codes 'labels'.")
    values, codes = (batch[name] for name in needed)
    if values.shape[1] != n_genes or int(codes.max()) >= n_labels or int(codes.min()) < 0:
        raise ValueError(
            f"The datamodule loads {values.shape[1]:,} genes and label codes from "
            f"{int(codes.min())} to {int(codes.max())}, but the registry of the model has "
            f"{n_genes:,} genes and {n_labels} labels. Create the model from the registry of this "
            "datamodule."
        )
    if not bool(((values >= 0) & (values % 1 == 0)).all()):
        found = "The datamodule loads values that are negative, fractional or missing"
        raise ValueError(f"{found}. Raw counts (integers >= 0) are required. Load those.")


def names_of(
    registry: Mapping[str, Any] | None, key: str, kind: str = "categorical_mapping"
) -> list[str]:
    """Return the batches, panels or genes of a registry in their order, if any."""
    field = (registry or {}).get("field_registries", {}).get(key, {})
    return [str(name) for name in field.get("state_registry", {}).get(kind, ())]


def shell_obs(
    obs: pd.DataFrame, setup: Setup, registry: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Return a table of label and batch codes, with the columns they were computed from.

    Several label columns become one category per combination, so that each code is one node. A
    query that lacks a label column has no labels; one without the batch column is one batch. The
    batches and panels in the registry of a model keep their codes, which further ones follow.
    """
    labels_keys = setup.labels_keys if set(setup.labels_keys) <= set(obs) else []
    found = pd.DataFrame(index=_unique(obs.index))
    texts = []
    for key in labels_keys:
        missing = find_unlabeled(obs[key], setup.unlabeled)
        found[key] = obs[key].array.copy()
        found[f"{LABELS}_missing_{key}"] = missing
        texts.append(obs[key].astype(str).where(~missing, setup.unlabeled).to_numpy(dtype=object))
    if texts:
        joined = reduce(lambda above, below: above + " / " + below, texts)
        unlabeled = found[[f"{LABELS}_missing_{key}" for key in labels_keys]].all(axis=1)
        joined[unlabeled] = setup.unlabeled
        found[f"{LABELS}_name"] = pd.Categorical(joined)
        found[LABELS] = found[f"{LABELS}_name"].cat.codes.astype(np.int64)
    groups = [(BATCH, REGISTRY_KEYS.BATCH_KEY, setup.batch_key)]
    groups += [] if setup.panel_key is None else [(PANEL, PANEL_KEY, setup.panel_key)]
    for name, key, group_key in groups:
        values = obs[group_key].astype(str).to_numpy() if group_key in obs else "all cells"
        values = np.broadcast_to(values, len(obs))
        known = names_of(registry, key)
        names = [*known, *sorted(set(values) - set(known))]
        found[f"{name}_name"] = pd.Categorical(values, categories=names)
        found[name] = found[f"{name}_name"].cat.codes.astype(np.int64)
    return found


def with_genes(
    registration: Registration,
    genes: Sequence[str],
    setup: Setup,
    obsm: Mapping[str, np.ndarray] | None = None,
) -> AnnDataManager:
    """Return a manager of a shell with these genes, in this order.

    The user's matrix is shared if it is CSR, holds counts, and has exactly these genes.
    """
    shell = registration.manager.adata
    is_csr = sparse.issparse(shell.X) and shell.X.format == "csr"
    is_shared = is_csr and not registration.source.matrix.is_on_disk
    is_shared = is_shared and registration.source.denormalizer is None
    is_shared = is_shared and list(shell.var_names) == list(genes)
    # A matrix of floats that shares the memory of sparse arrays, whose sums have another shape.
    shared = sparse.csr_matrix(shell.X) if is_shared else read_counts(registration.source, genes)
    counts = shared if shared.dtype.kind == "f" else shared.astype(np.float32)
    var = pd.DataFrame(index=pd.Index(genes, dtype=object))
    selected = AnnData(counts, obs=shell.obs.copy(), var=var, obsm=dict(obsm or {}))
    return register_shell(selected, setup)


def check_unchanged(
    manager: AnnDataManager, obs: pd.DataFrame, x: Any, keys: Sequence[str]
) -> None:
    """Raise an error if a reference was changed after it was registered.

    Parameters
    ----------
    manager
        Manager of the shell.
    obs
        Current label columns of the user's object.
    x
        Current matrix of the user's object, which the shell may share.
    keys
        Names of the label columns.

    Raises
    ------
    KeyError
        If a label column was removed.
    ValueError
        If cells or labels were changed, or the shared matrix no longer holds counts.
    """
    shell = manager.adata
    again = "Call the set-up method on it again and create a new model."
    if len(obs) != shell.n_obs:
        msg = f"The reference has {len(obs):,} cells, but had {shell.n_obs:,} when it was set up."
        raise ValueError(f"{msg} {again}")
    for key in keys:
        column = one_column(obs, key, hint=f"It existed when the reference was set up. {again}")
        texts = (labels.astype(object) for labels in (shell.obs[key], column))
        then, now = (labels.where(labels.notna(), None).to_numpy() for labels in texts)
        same = then == now
        if not same.all():
            msg = f"{int((~same).sum()):,} labels in {key!r} were changed after the set-up."
            raise ValueError(f"{msg} {again}")
    if sparse.issparse(x) and np.may_share_memory(x.data, shell.X.data):
        is_count = bool(((x.data == np.rint(x.data)) & (x.data >= 0)).all())
        if not is_count or not x.data.any():
            found = "no counts" if is_count else "fractions or negative values"
            msg = (
                f"The matrix of the reference held counts when it was set up, but now has {found}."
            )
            raise ValueError(f"{msg} Restore the counts, or keep them in a layer. {again}")


def read_counts(source: data.CountSource, genes: Sequence[str]) -> sparse.csr_matrix:
    """Read raw counts of the given genes, shape ``(n_cells, n_genes)``; map those on disk."""
    alignment = data.align_genes(source.var_names, genes)
    if not source.matrix.is_on_disk:
        return source.read(alignment)
    return data.map_counts((counts for _, counts in source.chunks(alignment)), len(genes))


def check_reference(reference: Any, kind: Any, other: str) -> None:
    """Raise an error unless the reference is of a kind, and neither a view nor read lazily."""
    if not isinstance(reference, kind):
        msg = f"The reference must be of type {kind.__name__}, got {type(reference).__name__}."
        raise TypeError(f"{msg} Read files first; for other objects use {other}.")
    if reference.is_view:
        msg = f"The reference must not be a view, got a view of another {kind.__name__}."
        raise ValueError(f"{msg} Pass a copy: .copy().")
    if hasattr(reference.obs, "to_memory"):
        msg = "The reference must be in memory or backed, got one that is read lazily."
        raise ValueError(f"{msg} Pass reference.to_memory(), or open it with backed='r'.")


def _unique(names: pd.Index) -> pd.Index:
    """Return names as text, numbered if any is repeated, because AnnData warns of repeats."""
    names = names.astype(str)
    return names if names.is_unique else pd.Index([f"{i}: {n}" for i, n in enumerate(names)])


def register_paired(model_class: type, mdata: MuData, setup: Setup) -> None:
    """Register a MuData with a model class, and record its modalities in the set-up."""
    given = setup.setup_args
    keys = as_label_keys(given["labels_key"], given["labels_keys"])
    check_reference(mdata, MuData, "setup_anndata")
    found = data.Modalities.from_setup(given["modalities"]).of_reference(mdata)
    given["modalities"] = {name: value for name, value in vars(found).items() if value is not None}
    rna, protein = found.rna_of(mdata), mdata.mod[found.protein_layer]
    with data.errors_of(found.rna_layer):
        source = data.open_counts(rna, layer=given["rna_layer"], arguments={"layer": "rna_layer"})
    with data.errors_of(found.protein_layer):
        how: Any = {"layer": given["protein_layer"], "arguments": {"layer": "protein_layer"}}
        data.open_counts(data.open_store(protein).all_columns(), **how)
    obs = found.obs_of(mdata, "labels")
    if setup.batch_key is not None and setup.batch_key not in keys:
        of_batch = found.obs_of(mdata, "batch")
        if setup.batch_key in of_batch:
            obs[setup.batch_key] = of_batch[setup.batch_key]
    register(model_class, mdata, source, obs, setup)


def genes_of_proteins(
    reference: Any, setup: Setup, genes: Sequence[str] | None = None
) -> dict[str, Sequence[str]]:
    """Return which genes, by default of the reference, each of its proteins has, if any."""
    if not data.is_paired(reference):
        return {}
    find = partial(setup.modalities.find, reference, required=True)
    known = reference.mod[find("rna")].var_names.astype(str) if genes is None else genes
    names = data.protein_names(reference.mod[find("protein")])
    return {name: data.protein_genes(name, list(known)) for name in names}


def protein_arrays(reference: Any, setup: Setup, proteins: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the protein counts of a reference, and which were measured, for the loaders."""
    if not proteins or not data.is_paired(reference):
        return {}
    layer = setup.setup_args.get("protein_layer")
    found = setup.modalities.proteins_of(reference, proteins, layer=layer)
    measured = found.measured.astype(np.float32)
    return {FIELD_KEYS.PROTEINS: found.counts, "proteins_measured": measured}
