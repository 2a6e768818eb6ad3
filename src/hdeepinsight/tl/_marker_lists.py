"""Lists of marker genes: from a dictionary, a table or a GMT file, and one of blood."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import Any, Final, TypeAlias

import pandas as pd

from hdeepinsight._errors import examples, missing_column
from hdeepinsight._io import read_bounded
from hdeepinsight.taxonomy import Taxonomy

MarkersLike: TypeAlias = Mapping[str, Any] | pd.DataFrame | str | os.PathLike[str]

#: The list that comes with the package, and levels of trees by their depth.
BLOOD: Final = "blood"
_LEVELS: Final = {
    1: ("cell_type",),
    2: ("lineage", "cell_type"),
    3: ("lineage", "cell_type", "subtype"),
}
_COLUMNS: Final = ["type", "gene", "sign", "source", "ontology_id"]
_SIGNS: Final = {"+": 1, "-": -1, "1": 1, "-1": -1, "+1": 1, "positive": 1, "negative": -1}
#: Ends of names of gene sets that say the sign.
_SET_SIGNS: Final = (("_UP", 1), ("_DN", -1), ("+", 1), ("-", -1))
_MAX_BYTES: Final = 16 * 2**20


def read_markers(markers: MarkersLike = BLOOD) -> pd.DataFrame:
    """Read a list of marker genes.

    Parameters
    ----------
    markers
        One of these:

        - ``"blood"``, the list of human blood cells that comes with the package;
        - a dict of types to genes, or to ``{"positive": genes, "negative": genes}``;
        - a table, or the path of one (``.csv``, ``.tsv``), with the columns ``type`` and ``gene``
          (or ``genes``, with blanks or commas between them), and if you like ``sign`` (``+`` or
          ``-``), ``source`` and ``ontology_id``; lines that begin with ``#`` are left out;
        - the path of a ``.gmt`` file: name, description and genes of one type per line, with tabs
          between them. A name that ends in ``_DN`` or ``-`` lists genes that the type lacks.

        Types are names, or paths in a tree such as ``"T > CD4 T"``.

    Returns
    -------
    One row per type and gene: ``type``, ``gene``, ``sign`` (1, or -1 for genes that the type
    lacks), ``source`` and ``ontology_id`` (text, empty where it is not known).

    Raises
    ------
    KeyError
        If a table lacks a column.
    ValueError
        If there is no gene, a line cannot be read (its number is said), or a gene both marks a type
        and is lacked by it.

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
    rows = [*_rows(markers)]
    table = pd.DataFrame(rows, columns=_COLUMNS).drop_duplicates(["type", "gene", "sign"])
    if table.empty:
        raise ValueError(
            f"A list of markers must name one gene or more, got {_shown(markers)} without any. "
            "Pass a dict such as {'B': ['MS4A1', 'CD79A'], 'T': ['CD3D', 'CD3E']}, or 'blood'."
        )
    if (twice := table.duplicated(["type", "gene"])).any():
        said = [f"{row.gene} of {row.type}" for row in table[twice].itertuples()]
        raise ValueError(
            f"A gene must either mark a type or be lacked by it, got both for {examples(said)}. "
            "Remove one of the two."
        )
    return table.reset_index(drop=True)


def markers_taxonomy(table: pd.DataFrame) -> Taxonomy:
    """Build the tree of the types of a list from their paths.

    Parameters
    ----------
    table
        What `read_markers` returned.

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


def _shown(markers: MarkersLike) -> str:
    is_name = isinstance(markers, str | os.PathLike)
    return str(markers) if is_name else f"a {type(markers).__name__}"


def _rows(markers: MarkersLike) -> Iterator[tuple[Any, ...]]:
    """Yield type, gene, sign, source and ontology id."""
    if isinstance(markers, pd.DataFrame):
        yield from _of_table(markers)
    elif isinstance(markers, Mapping):
        for name, genes in markers.items():
            signed = genes if isinstance(genes, Mapping) else {"positive": genes}
            for word, listed in signed.items():
                sign = _sign(word, f"the markers of {name!r}")
                yield from ((str(name), gene, sign, "", "") for gene in _genes(listed))
    elif markers == BLOOD:
        text = (files("hdeepinsight.tl") / "blood_markers.tsv").read_text(encoding="utf-8")
        yield from _of_table(pd.read_csv(StringIO(text), sep="\t", comment="#", dtype=str))
    elif isinstance(markers, str | os.PathLike):
        yield from _of_file(Path(markers))
    else:
        raise TypeError(
            f"markers must be a dict, a table, a path or 'blood', got a {type(markers).__name__}. "
            "Pass {'type': ['gene', ...]}."
        )


def _of_file(path: Path) -> Iterator[tuple[Any, ...]]:
    if path.suffix.lower() not in (".csv", ".tsv", ".txt", ".gmt") or not path.is_file():
        raise ValueError(
            f"markers must be 'blood' or a file that ends in .csv, .tsv or .gmt, got {path}, which "
            f"{'ends otherwise' if path.exists() else 'is not there'}. Correct the path."
        )
    text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig", errors="replace")
    if path.suffix.lower() == ".gmt":
        for number, line in enumerate(text.splitlines(), start=1):
            name, *fields = (field.strip() for field in line.split("\t"))
            genes = [gene for gene in fields[1:] if gene]
            if not line.strip():
                continue
            if not name or not genes:
                raise ValueError(
                    f"A line of a GMT file must hold a name, a description and genes with tabs "
                    f"between them, got {line[:60]!r} in line {number} of {path}. Correct it."
                )
            ends = ((end, sign) for end, sign in _SET_SIGNS if name.endswith(end))
            end, sign = next(ends, ("", 1))
            yield from ((name.removesuffix(end).rstrip(), gene, sign, "", "") for gene in genes)
        return
    separator = "," if path.suffix.lower() == ".csv" else "\t"
    try:
        table = pd.read_csv(StringIO(text), sep=separator, comment="#", dtype=str)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(
            f"{path} must be a table with the columns type and gene, and could not be read as one "
            f"({error}). Correct that line."
        ) from error
    yield from _of_table(table)


def _of_table(table: pd.DataFrame) -> Iterator[tuple[Any, ...]]:
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
            raise ValueError(
                f"Every row of a table of markers must name a type, got none in row {number}, with "
                f"the genes {genes!r}. Fill it in."
            )
        value = _sign(sign, f"row {number} of the table of markers") if str(sign).strip() else 1
        for gene in _genes(genes):
            yield str(name).strip(), gene, value, str(source), str(ontology_id)


def _genes(genes: Any) -> Sequence[str]:
    listed = re.split(r"[\s,;]+", genes) if isinstance(genes, str) else genes
    return [str(gene).strip() for gene in listed if str(gene).strip()]


def _sign(word: Any, where: str) -> int:
    text = str(word).strip().lower().removesuffix(".0")
    if text not in _SIGNS:
        raise ValueError(
            f"The sign of a marker must be + or - (or positive or negative), got {word!r} in "
            f"{where}. Correct it."
        )
    return _SIGNS[text]
