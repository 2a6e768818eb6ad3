"""What a result adds to an AnnData, never in the place of what is the user's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from hdeepinsight._errors import check_key

#: In ``uns["<key>"]``: what was added under the key, so that a later result may replace it.
_RECORD = "added"


class Additions(NamedTuple):
    """New entries of ``obs``, ``obsm`` and ``uns``, under names that follow on a key.

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
    #: Columns of ``obs`` whose names another tool expects, without the key.
    as_named: Mapping[str, Any] = {}

    def write(
        self, adata: AnnData, key_added: str, notes: Mapping[str, Any], *, overwrite: bool = False
    ) -> None:
        """Write all entries, and the notes to ``uns["<key>"]``; or nothing.

        Parameters
        ----------
        adata
            Where to write.
        key_added
            What an earlier result wrote under the same key is replaced.
        notes
            Settings, in plain types.
        overwrite
            Replace everything else of these names too.

        Raises
        ------
        ValueError
            If a name is taken and ``overwrite`` is off, or the key is no name.
        """
        check_key("key_added", key_added)
        key = storable(key_added)
        parts = {
            part: {storable(f"{key_added}_{name}"): value for name, value in entries.items()}
            for part, entries in (("obs", self.obs), ("obsm", self.obsm), ("uns", self.uns))
        }
        parts["obs"] |= self.as_named
        names = {f"{part}/{name}" for part, added in parts.items() for name in added}
        # Without a record what is under the key is the user's own.
        there = adata.uns.get(key)
        record = there.get(_RECORD) if hasattr(there, "get") else None
        earlier = set() if record is None else {f"uns/{key}", *map(str, record)}

        def there_are(entries: set[str]) -> list[tuple[str, str]]:
            split = [entry.split("/", 1) for entry in sorted(entries)]
            return [(part, name) for part, name in split if name in getattr(adata, part)]

        taken = ["/".join(at) for at in there_are({*names, f"uns/{key}"} - earlier)]
        if taken and not overwrite:
            raise ValueError(
                f"The AnnData holds {', '.join(taken)} already, which no result under "
                f"{key_added!r} wrote. Pass another key_added, or overwrite=True to replace them."
            )
        before = adata.obs.copy(deep=False), dict(adata.obsm), dict(adata.uns)
        try:
            for part, name in there_are(earlier - names - {f"uns/{key}"}):
                del getattr(adata, part)[name]
            for part, added in parts.items():
                for name, value in added.items():
                    getattr(adata, part)[name] = value
            adata.uns[key] = {**notes, _RECORD: sorted(names)}
        except BaseException:
            adata.obs, adata.obsm, adata.uns = before
            raise


def storable(name: str) -> str:
    """Replace slashes ("Megakaryocytes/platelets"), which h5ad and zarr take for folders.

    Examples
    --------
    >>> storable("Megakaryocytes/platelets")
    'Megakaryocytes|platelets'
    """
    return name.replace("/", "|")


def check_cells(obs_names: pd.Index, adata: AnnData, what: str, made: str) -> None:
    """Raise ``ValueError`` unless an AnnData has the cells of a result, in its order.

    Parameters
    ----------
    obs_names
        Cells of the result.
    adata
        The object.
    what, made
        What the result is and how it came about, for the message: ``"audit"``, ``"audited"``.

    Examples
    --------
    >>> import anndata as ad
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> check_cells(pd.Index(["a", "b"]), cells, "audit", "audited")
    """
    # Names that are whole numbers come back from a file as such, or as text.
    if not obs_names.astype(str).equals(pd.Index(adata.obs_names).astype(str)):
        sizes = f"{len(obs_names)} cells, the AnnData {adata.n_obs}"
        how = f"Pass the object that was {made}, or reorder it by result.obs_names."
        found = f"The {what} has {sizes}, and their names are not the same in the same order"
        raise ValueError(f"{found}. {how}")


def check_same_cells(obs_names: pd.Index, values: Any, name: str) -> None:
    """Raise ``ValueError`` unless there is one value a cell, of the same cells where it has names.

    Parameters
    ----------
    obs_names
        The cells, shape ``(n_cells,)``.
    values
        What belongs to the cells, ``(n_cells, ...)``.
    name
        Name of the argument, for the message.

    Examples
    --------
    >>> check_same_cells(pd.Index(["a", "b"]), [0.5, 0.9], "confidence")
    """
    advice = "Select those of these cells."
    found = f"{name} has {len(values)} entries for {len(obs_names)} cells"
    index, counted = getattr(values, "index", None), pd.RangeIndex(len(obs_names))
    others = isinstance(index, pd.Index) and not (index.equals(obs_names) or index.equals(counted))
    if len(values) == len(obs_names):  # an index that only counts names no cells
        found = f"{name} names other cells, or the same ones in another order"
        advice = f"Pass {name}.loc[obs_names], with the obs_names of the cells."
    if len(values) != len(obs_names) or others:
        must = "and must have one entry per cell, in the same order"
        raise ValueError(f"{found}, {must}. {advice}")


def to_text(value: object) -> str:
    """Return a string as it is and anything else as JSON; a string that reads as JSON is quoted."""
    if isinstance(value, str) and from_text(value) == value:
        return value
    plain = (np.generic, np.ndarray)
    return json.dumps(value, default=lambda x: x.tolist() if isinstance(x, plain) else str(x))


def from_text(text: str) -> Any:
    """Restore what `to_text` was given, a tuple as a list."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # plain words, or brackets without end in a foreign file
        return text
