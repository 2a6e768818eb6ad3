"""Add results to an AnnData without replacing the user's entries."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from hdeepinsight._errors import check_key, invalid

#: Entry of ``uns["<key>"]`` that lists the added names, so that a later result can replace them.
_RECORD = "added"


class Additions(NamedTuple):
    """New entries of ``obs``, ``obsm`` and ``uns``, which are written with a prefix.

    Examples
    --------
    >>> import anndata as ad
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> Additions({"score": [0.5, 0.9]}).write(cells, "tool", {"alpha": 0.1})
    >>> cells.obs["tool_score"].tolist(), cells.uns["tool"]
    ([0.5, 0.9], {'alpha': 0.1, 'added': ['obs/tool_score']})
    """

    obs: Mapping[str, Any]
    obsm: Mapping[str, Any] = {}
    uns: Mapping[str, Any] = {}

    def write(
        self, adata: AnnData, key_added: str, notes: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Write all entries, and the notes to ``uns["<key>"]``; after an error, write nothing.

        Parameters
        ----------
        adata
            AnnData to write to.
        key_added
            Prefix. Entries of an earlier result with the same prefix are replaced.
        notes
            Settings, in plain types.
        overwrite
            Also replace other entries with these names.

        Raises
        ------
        ValueError
            If a name is taken and ``overwrite`` is false, or the prefix is invalid.
        """
        check_key("key_added", key_added)
        if adata.is_view and adata.isbacked:
            msg = "A view of a backed AnnData cannot be written to. Pass adata.to_memory()."
            raise ValueError(msg)
        key = storable(key_added)
        parts = {
            part: {storable(f"{key_added}_{name}"): value for name, value in entries.items()}
            for part, entries in (("obs", self.obs), ("obsm", self.obsm), ("uns", self.uns))
        }
        names = {f"{part}/{name}" for part, added in parts.items() for name in added}
        earlier = recorded(key, adata.uns.get(key))

        def existing(entries: set[str]) -> list[tuple[str, str]]:
            split = [entry.split("/", 1) for entry in sorted(entries)]
            return [(part, name) for part, name in split if name in getattr(adata, part)]

        taken = ["/".join(at) for at in existing({*names, f"uns/{key}"} - earlier)]
        if taken and not overwrite:
            raise ValueError(
                f"The AnnData already has {', '.join(taken)}, which no result with the key "
                f"{key_added!r} wrote. Pass another key_added, or overwrite=True to replace them."
            )
        before = adata.obs.copy(deep=False), dict(adata.obsm), dict(adata.uns)
        try:
            for part, name in existing(earlier - names - {f"uns/{key}"}):
                del getattr(adata, part)[name]
            for part, added in parts.items():
                for name, value in added.items():
                    getattr(adata, part)[name] = value
            adata.uns[key] = {**notes, _RECORD: sorted(names)}
        except BaseException:
            adata.obs, adata.obsm, adata.uns = before
            raise


def recorded(key: str, stored: Any) -> set[str]:
    """Return the entries, such as ``"obs/hdi_lineage"``, that a result wrote.

    Parameters
    ----------
    key
        Its ``key_added``.
    stored
        The entry ``uns[key]``. Without a record, entries with this prefix belong to the user.

    Examples
    --------
    >>> sorted(recorded("tool", {"added": ["obs/tool_score"]})), recorded("tool", None)
    (['obs/tool_score', 'uns/tool'], set())
    """
    record = stored.get(_RECORD) if hasattr(stored, "get") else None
    if record is None:
        return set()
    own = tuple(f"{part}/{key}_" for part in ("obs", "obsm", "uns"))
    return {f"uns/{key}", *(at for at in map(str, np.asarray(record)) if at.startswith(own))}


def storable(name: str) -> str:
    """Replace slashes ("Megakaryocytes/platelets"), which h5ad and zarr interpret as groups.

    Examples
    --------
    >>> storable("Megakaryocytes/platelets")
    'Megakaryocytes|platelets'
    """
    return name.replace("/", "|")


def target_of(cells: object, key_added: str | None) -> AnnData | None:
    """Return the AnnData to write a result to, or None without a key.

    Raises
    ------
    ValueError
        If the key is not a name, or the cells are not an AnnData.

    Examples
    --------
    >>> print(target_of("cells.h5ad", None))
    None
    """
    if key_added is None:
        return None
    check_key("key_added", key_added)
    if not hasattr(cells, "obsm"):
        expected = f"None for cells of type {type(cells).__name__}, which are read-only"
        raise invalid("key_added", key_added, expected, "Write the result to an AnnData yourself.")
    return cells


def check_cells(obs_names: pd.Index, adata: AnnData, noun: str, verb: str) -> None:
    """Raise ``ValueError`` unless an AnnData has the cells of a result, in its order.

    Parameters
    ----------
    obs_names
        Cells of the result.
    adata
        The AnnData.
    noun, verb
        Words for the result in the message, such as ``"audit"`` and ``"audited"``.

    Examples
    --------
    >>> import anndata as ad
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> check_cells(pd.Index(["a", "b"]), cells, "audit", "audited")
    """
    # Files may return integer names as integers or as text.
    if not obs_names.astype(str).equals(pd.Index(adata.obs_names).astype(str)):
        sizes = f"{len(obs_names)} cells, the AnnData {adata.n_obs}"
        advice = f"Pass the object that was {verb}, or reorder it by result.obs_names."
        found = f"The {noun} has {sizes}, and their names are not the same in the same order"
        raise ValueError(f"{found}. {advice}")


def check_same_cells(obs_names: pd.Index, values: Any, name: str) -> None:
    """Raise ``ValueError`` unless there is one value per cell, in the same order if it has names.

    Parameters
    ----------
    obs_names
        The cells, shape ``(n_cells,)``.
    values
        One value per cell, ``(n_cells, ...)``.
    name
        Name of the argument, for the message.

    Examples
    --------
    >>> check_same_cells(pd.Index(["a", "b"]), [0.5, 0.9], "confidence")
    """
    advice = "Select the values of these cells."
    found = f"{name} has {len(values)} entries for {len(obs_names)} cells"
    index, default = getattr(values, "index", None), pd.RangeIndex(len(obs_names))
    differs = isinstance(index, pd.Index) and not (index.equals(obs_names) or index.equals(default))
    if len(values) == len(obs_names):
        found = f"{name} has an index of other cells, or in another order"
        advice = f"Pass {name}.loc[obs_names], with the obs_names of the cells."
    if len(values) != len(obs_names) or differs:
        expected = "but must have one entry per cell, in the same order"
        raise ValueError(f"{found}, {expected}. {advice}")


def to_text(value: object) -> str:
    """Convert a value to JSON; strings that are not JSON themselves are returned unchanged."""
    if isinstance(value, str) and from_text(value) == value:
        return value
    plain = (np.generic, np.ndarray)
    return json.dumps(value, default=lambda x: x.tolist() if isinstance(x, plain) else str(x))


def from_text(text: str) -> Any:
    """Convert a text from `to_text` back; tuples become lists."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # plain text, or deeply nested brackets
        return text
