"""Read lists of marker genes from a dict, a table or a GMT file, or the bundled blood list."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeAlias

import pandas as pd

from hdeepinsight._errors import examples, missing_column
from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy import Taxonomy

MarkersLike: TypeAlias = Mapping[str, Any] | pd.DataFrame | str | os.PathLike[str]

#: Name of the bundled list.
BLOOD: Final = "blood"
#: Level names by the depth of the taxonomy.
_LEVELS: Final = {
    1: ("cell_type",),
    2: ("lineage", "cell_type"),
    3: ("lineage", "cell_type", "subtype"),
}
_COLUMNS: Final = ["type", "gene", "sign", "source", "ontology_id"]
_SIGNS: Final = {"": 1, "+": 1, "-": -1, "1": 1, "-1": -1, "+1": 1, "positive": 1, "negative": -1}
#: Suffixes of gene set names that give the sign.
_SET_SIGNS: Final = (("_UP", 1), ("_DN", -1), ("+", 1), ("-", -1))
_MAX_BYTES: Final = 16 * 2**20


def read_markers(markers: MarkersLike = BLOOD) -> pd.DataFrame:
    """Read a list of marker genes.

    Parameters
    ----------
    markers
        One of:

        - ``"blood"``, the bundled list of human blood cells;
        - a dict from types to genes, or to ``{"positive": genes, "negative": genes}``;
        - a table, or the path of one (``.csv``, ``.tsv``), with the columns ``type`` and ``gene``
          (or ``genes``, separated by spaces or commas), and optionally ``sign`` (``+`` or ``-``),
          ``source`` and ``ontology_id``; lines that start with ``#`` are ignored;
        - the path of a ``.gmt`` file with the tab-separated name, description and genes of one type
          per line. A name that ends in ``_DN`` or ``-`` lists negative markers.

        Types are names or paths such as ``"T > CD4 T"``.

    Returns
    -------
    pandas.DataFrame
        One row per type and gene: ``type``, ``gene``, ``sign`` (1, or -1 for negative markers),
        ``source`` and ``ontology_id`` (text, empty if unknown).

    Raises
    ------
    KeyError
        If a table does not have a required column.
    ValueError
        If there are no genes, a line is invalid (the message contains its number), or a gene is
        both a positive and a negative marker of a type.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> markers = {"B": ["MS4A1", "CD79A"], "T": {"positive": ["CD3D"], "negative": ["MS4A1"]}}
    >>> hdi.tl.read_markers(markers)[["type", "gene", "sign"]].values.tolist()
    [['B', 'MS4A1', 1], ['B', 'CD79A', 1], ['T', 'CD3D', 1], ['T', 'MS4A1', -1]]
    >>> blood = hdi.tl.read_markers("blood")
    >>> blood["type"].nunique(), blood.loc[blood["type"] == "T", "gene"].tolist()
    (24, ['CD3D', 'CD3E', 'CD3G', 'TRAC', 'CD2'])
    """
    table = pd.DataFrame(_rows(_as_table(markers)), columns=_COLUMNS).drop_duplicates(
        ["type", "gene", "sign"]
    )
    if table.empty:
        is_name = isinstance(markers, str | os.PathLike)
        shown = str(markers) if is_name else f"a {type(markers).__name__}"
        hint = "Pass a dict such as {'B': ['MS4A1', 'CD79A'], 'T': ['CD3D', 'CD3E']}, or 'blood'."
        raise ValueError(f"markers must have at least one gene, got {shown} without genes. {hint}")
    given = markers if isinstance(markers, Mapping) else ()
    if without := [str(name) for name in given if str(name) not in set(table["type"])]:
        found = f"Each type in markers must have at least one gene, got none for {without}."
        raise ValueError(f"{found} Add genes, or omit these types.")
    if (both := table.duplicated(["type", "gene"])).any():
        found = examples([f"{row.gene} of {row.type}" for row in table[both].itertuples()])
        expected = "A marker of a type must be either positive or negative"
        raise ValueError(f"{expected}, got both for {found}. Remove one of them.")
    return table.reset_index(drop=True)


def markers_taxonomy(table: pd.DataFrame) -> Taxonomy:
    """Build the taxonomy of the types in a list from their paths.

    Parameters
    ----------
    table
        Output of `read_markers`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.tl._marker_lists import markers_taxonomy
    >>> tree = markers_taxonomy(hdi.tl.read_markers("blood"))
    >>> tree.level_names, tree.n_leaves
    (('lineage', 'cell_type', 'subtype'), 17)
    """
    ids = table.loc[table["ontology_id"] != "", ["type", "ontology_id"]].drop_duplicates("type")
    tree = Taxonomy.from_paths(table["type"].unique())
    return tree.with_annotations(
        ontology_ids=dict(ids.itertuples(index=False)), level_names=_LEVELS.get(tree.max_depth)
    )


def _as_table(markers: MarkersLike) -> pd.DataFrame:
    """Return a table with the given types, genes and signs, which may list several genes a row."""
    if isinstance(markers, pd.DataFrame):
        return markers
    if isinstance(markers, Mapping):
        signed = {k: own if isinstance(own, Mapping) else {"+": own} for k, own in markers.items()}
        rows = [(name, genes, sign) for name in signed for sign, genes in signed[name].items()]
        return pd.DataFrame(rows, columns=_COLUMNS[:3])
    if markers == BLOOD:
        text = (files("hdeepinsight.tl") / "blood_markers.tsv").read_text(encoding="utf-8")
        return pd.read_csv(StringIO(text), sep="\t", comment="#", dtype=str)
    if isinstance(markers, str | os.PathLike):
        return _read(Path(markers))
    found = f"a {type(markers).__name__}. Pass {{'type': ['gene', ...]}}."
    raise TypeError(f"markers must be a dict, a table, a path or 'blood', got {found}")


def _read(path: Path) -> pd.DataFrame:
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".gmt") or not path.is_file():
        problem = "has another suffix" if path.exists() else "does not exist"
        raise ValueError(
            f"markers must be 'blood' or a .csv, .tsv or .gmt file, got {path}, which {problem}. "
            "Correct the path."
        )
    text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".gmt":
        rows = []
        for number, line in enumerate(text.splitlines(), start=1):
            name, *fields = (field.strip() for field in line.split("\t"))
            genes = [gene for gene in fields[1:] if gene]
            if not line.strip():
                continue
            if not name or not genes:
                expected = "A line of a GMT file must be tab-separated name, description and genes"
                found = f"{line[:60]!r} in line {number} of {path}"
                raise ValueError(f"{expected}, got {found}. Correct it.")
            suffixes = (each for each in _SET_SIGNS if name.endswith(each[0]))
            suffix, sign = next(suffixes, ("", 1))
            rows.append((name.removesuffix(suffix).rstrip(), genes, sign))
        return pd.DataFrame(rows, columns=_COLUMNS[:3])
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        return pd.read_csv(StringIO(text), sep=separator, comment="#", dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        expected = f"{path} must be a table with the columns type and gene"
        raise ValueError(f"{expected}, got an invalid line ({error}). Correct it.") from error


def _rows(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
    """Yield type, gene, sign, source and ontology id of each marker."""
    column = "genes" if "genes" in table else "gene"
    for wanted in ("type", column):
        if wanted not in table:
            hint = "Name the columns type and gene."
            raise missing_column(wanted, table.columns, where="The table of markers", hint=hint)
    filled = table.reindex(columns=["type", column, "sign", "source", "ontology_id"])
    filled = filled.astype(object).where(filled.notna(), "")
    for number, row in enumerate(filled.itertuples(index=False, name=None), start=1):
        name, genes, sign, source, ontology_id = row
        if not str(name).strip():
            found = f"none in row {number} with the genes {genes!r}. Fill it in."
            raise ValueError(f"Each row of a table of markers must have a type, got {found}")
        word = str(sign).strip().lower().removesuffix(".0")
        if word not in _SIGNS:
            found = f"{sign!r} in row {number} of the markers. Correct it."
            raise ValueError(
                f"The sign of a marker must be +, -, positive or negative, got {found}"
            )
        listed = re.split(r"[\s,;]+", genes) if isinstance(genes, str) else genes
        for gene in filter(None, (str(gene).strip() for gene in listed)):
            yield str(name).strip(), gene, _SIGNS[word], str(source), str(ontology_id)
