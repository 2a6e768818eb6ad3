"""Arguments of the set-up of a reference, and the columns and modalities they select."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pandas as pd

from hdeepinsight._errors import invalid
from hdeepinsight.data import AlignedQuery, Modalities, is_paired, open_paired, open_query

#: Key of the gene panel of each cell in mini-batches, registries and further inputs.
PANEL_KEY = "panel"


@dataclass(frozen=True)
class Setup:
    """Arguments of a set-up method, in the form of scvi-tools.

    Parameters
    ----------
    model_name, setup_method_name
        Names of the model class and of its set-up method.
    setup_args
        Arguments of the method.
    """

    model_name: str
    setup_method_name: str
    setup_args: dict[str, Any]

    @classmethod
    def of(cls, registry: Mapping[str, Any]) -> Setup:
        """Return the set-up recorded in a registry."""
        return cls(**{field.name: registry[field.name] for field in fields(cls)})

    @property
    def labels_keys(self) -> list[str]:
        """Label columns, from coarse to fine; empty for an unlabelled reference."""
        keys = self.setup_args.get("labels_key"), self.setup_args.get("labels_keys")
        return as_label_keys(*keys, required=False)

    @property
    def batch_key(self) -> str | None:
        """Batch column, or ``None``."""
        return self.setup_args.get("batch_key")

    @property
    def panel_key(self) -> str | None:
        """Column with the gene panel of each cell, or ``None`` if all cells have the same."""
        return self.setup_args.get("panel_key")

    @property
    def unlabeled(self) -> str:
        """Label of unlabelled cells."""
        return str(self.setup_args.get("unlabeled_category") or "Unknown")

    @property
    def layer(self) -> str | None:
        """Layer with the RNA counts; ``None`` for ``X``."""
        return self.setup_args.get("rna_layer", self.setup_args.get("layer"))

    @property
    def modalities(self) -> Modalities:
        """Modalities of a MuData to read: those of the reference, or common names."""
        return Modalities.from_setup(self.setup_args.get("modalities"))

    def open(self, query: Any, genes: Sequence[str], indices: Any, **how: Any) -> AlignedQuery:
        """Open a query of a model of this reference; see :meth:`CountModel.open`."""
        how |= {"preferred_layer": self.layer, "modalities": self.modalities}
        opened = open_query(query, genes, **how)
        return opened if indices is None else opened.subset(indices)

    def obs_of(self, data: Any, kind: str = "labels") -> pd.DataFrame:
        """Return the ``obs`` table of an AnnData, MuData or opened file."""
        obs: Any = self.modalities.obs_of(data, kind) if is_paired(data) else data.obs
        found: pd.DataFrame = obs.to_memory() if hasattr(obs, "to_memory") else obs
        return found


def resolve_cells(data: Any, attached: Any) -> Any:
    """Return the given object, read if it is a MuData file; the attached one by default."""
    if data is None and attached is None:
        msg = "This call requires cells, but the model has no reference attached. Load it with"
        hint = "adata=..., or pass an AnnData or the path of a file where the call takes one."
        raise ValueError(f"{msg} {hint}")
    data = attached if data is None else data
    return open_paired(data) if is_paired(data) else data


def as_label_keys(
    labels_key: str | None, labels_keys: str | Sequence[str] | None, *, required: bool = True
) -> list[str]:
    """Return label columns from coarse to fine; raise ``ValueError`` unless one is given."""
    if labels_key is None and labels_keys is None and not required:
        return []
    if not isinstance(labels_key, str | None):
        hint = "Pass several columns as labels_keys."
        raise invalid("labels_key", labels_key, "the name of a column", hint)
    if (labels_key is None) == (labels_keys is None):
        given = "neither" if labels_key is None else "both"
        hint = "Pass labels_key for a single column, or labels_keys for one per level, coarse to"
        msg = f"Exactly one of labels_key and labels_keys must be given, got {given}."
        raise ValueError(f"{msg} {hint} fine.")
    keys: Any = labels_keys if labels_key is None else labels_key
    names = [keys] if isinstance(keys, str) else list(keys) if isinstance(keys, Iterable) else []
    if not names:
        raise invalid("labels_keys", keys, "one or more columns", "Name one column per level.")
    return names
