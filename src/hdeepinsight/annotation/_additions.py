"""What a result adds to an AnnData, never in the place of what is the user's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

#: In ``uns["<key>"]``: what was added under the key, so that a later result may replace it.
_RECORD = "added"


class Additions(NamedTuple):
    """New entries of ``obs``, ``obsm`` and ``uns`` by name.

    Examples
    --------
    >>> import anndata as ad
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> Additions({"tool_score": [0.5, 0.9]}, {}, {}).write(cells, "tool", {"alpha": 0.1})
    >>> cells.obs["tool_score"].tolist(), cells.uns["tool"]
    ([0.5, 0.9], {'alpha': 0.1, 'added': ['obs/tool_score']})
    """

    obs: dict[str, Any]
    obsm: dict[str, Any]
    uns: dict[str, Any]

    def write(
        self,
        adata: AnnData,
        key_added: str,
        notes: Mapping[str, Any],
        *,
        overwrite: bool = False,
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
            If a name is taken and ``overwrite`` is off.
        """
        key = storable(key_added)
        names = {f"{part}/{name}" for part, added in self._asdict().items() for name in added}
        earlier = _record(adata, key)
        taken = [name for name in sorted({*names, f"uns/{key}"} - earlier) if _holds(adata, name)]
        if taken and not overwrite:
            msg = (
                f"The AnnData holds {', '.join(taken)} already, which no result under "
                f"{key_added!r} wrote. Valid are free names. Pass another key_added, or "
                "overwrite=True to replace them."
            )
            raise ValueError(msg)
        for part, name in (entry.split("/", 1) for entry in earlier - names):
            if name != key and name in getattr(adata, part):
                del getattr(adata, part)[name]
        for part, added in self._asdict().items():
            for name, value in added.items():
                getattr(adata, part)[name] = value
        adata.uns[key] = {**notes, _RECORD: sorted(names)}


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
    if not obs_names.equals(pd.Index(adata.obs_names)):
        msg = (
            f"The {what} has {len(obs_names)} cells, the AnnData {adata.n_obs}, and their names "
            f"are not the same in the same order. Pass the object that was {made}, or reorder it "
            "by result.obs_names."
        )
        raise ValueError(msg)


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
    if len(values) != len(obs_names):
        msg = (
            f"{name} has {len(values)} entries for {len(obs_names)} cells. Valid is one entry a "
            "cell, in the same order. Select those of these cells."
        )
        raise ValueError(msg)
    index = getattr(values, "index", None)
    if isinstance(index, pd.Index) and not _names_the_same(index, obs_names):
        msg = (
            f"{name} names other cells, or the same ones in another order. Valid is one entry a "
            f"cell, in the same order. Pass {name}.loc[obs_names], with the obs_names of the "
            "cells."
        )
        raise ValueError(msg)


def _names_the_same(index: pd.Index, obs_names: pd.Index) -> bool:
    """Whether an index is that of the cells, or only counts them."""
    return index.equals(obs_names) or index.equals(pd.RangeIndex(len(obs_names)))


def _record(adata: AnnData, key: str) -> set[str]:
    """Entries that an earlier result wrote under a key; none where the key is the user's own."""
    notes = adata.uns.get(key)
    if not hasattr(notes, "get") or notes.get(_RECORD) is None:
        return set()
    return {f"uns/{key}", *map(str, notes[_RECORD])}


def _holds(adata: AnnData, entry: str) -> bool:
    part, name = entry.split("/", 1)
    return name in getattr(adata, part)
