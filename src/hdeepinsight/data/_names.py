"""Recognise what names are, which columns are genes, and how two sets of names differ."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import combinations_with_replacement, takewhile
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from hdeepinsight._errors import counted, examples

IdentifierKind = Literal["symbol", "ensembl", "mixed", "unknown"]
Species = Literal["human", "mouse", "unknown"]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_PAR_Y)?")
_VERSION = re.compile(r"(ENS[A-Z]*\d{11})\.\d+")
_SYMBOL = re.compile(r"(?=.*[A-Za-z]{2}|[A-Za-z]+\d)[A-Za-z0-9][A-Za-z0-9._@/:\-]*")
_BARCODE = re.compile(r"(?:.*[^A-Za-z])?[ACGTN]{8,}(?:[^A-Za-z].*)?")
_MOUSE_ONLY = re.compile(r"GM\d{3,}|[0-9A-Z]+RIK", re.IGNORECASE)
_TITLE = re.compile(r"[A-Z][a-z0-9.\-]*[a-z][a-z0-9.\-]*")
#: What numbers the rows of a table and names nothing: 0, 1, 2 ...; V1, V2 ...
_NUMBER = re.compile(r"(?:V|X|row|col|feature)?[-_. ]?\d+(?:\.0+)?", re.IGNORECASE)
_MOST = 0.9
_SOME = 0.1
_MANY_NAMES, _FEW_NAMES = 20_000, 500


def _share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
    """Share of names that match as a whole; 0.0 without names."""
    if not len(names):
        return 0.0
    return sum(pattern.fullmatch(name) is not None for name in names) / len(names)


def _thin(names: Sequence[str]) -> Sequence[str]:
    """Evenly spaced names: a guess does not need a million of them."""
    return names[:: max(1, len(names) // _MANY_NAMES)]


def share_barcodes(names: Sequence[str]) -> float:
    """Return the share of names that hold a cell barcode (eight or more of A, C, G, T, N)."""
    return _share(_thin(names), _BARCODE)


def share_genes(names: Sequence[str]) -> float:
    """Return the share of names that look like a gene (symbol or Ensembl id) and not a barcode."""
    thin = _thin(names)
    return max(0.0, _share(thin, _SYMBOL) - _share(thin, _BARCODE))


def name_digests(names: pd.Index) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a number per cell by which it is found again, shape ``(n_cells,)``; int64.

    A repeated name is numbered, so that each cell has a digest of its own.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import name_digests
    >>> len(set(name_digests(pd.Index(["a", "b", "b"])).tolist()))
    3
    """
    text = pd.Series(names.astype(str))
    turn = text.groupby(text).cumcount()
    text = text.where(turn == 0, text + "\x00" + turn.astype(str))
    found: np.ndarray[Any, Any] = pd.util.hash_array(text.to_numpy(dtype=object))
    return found.view(np.int64)


def identifier_kind(names: Sequence[str]) -> IdentifierKind:
    """Return whether names are symbols, Ensembl ids, both, or neither.

    Examples
    --------
    >>> identifier_kind(["CD3D", "MS4A1"]), identifier_kind(["ENSG00000167286.9"])
    ('symbol', 'ensembl')
    """
    ensembl = _share(names, _ENSEMBL)
    if ensembl >= _MOST:
        return "ensembl"
    if ensembl > _SOME:
        return "mixed"
    return "symbol" if share_genes(names) >= 0.5 else "unknown"


def has_versions(names: Iterable[str]) -> bool:
    """Return whether any Ensembl id carries a version (``ENSG00000167286.9``)."""
    return any(_VERSION.fullmatch(name) for name in names)


def strip_version(name: str) -> str:
    """Return an Ensembl id without its version, and any other name unchanged.

    Examples
    --------
    >>> from hdeepinsight.data import strip_version
    >>> strip_version("ENSG00000167286.9"), strip_version("RP11-34P13.7")
    ('ENSG00000167286', 'RP11-34P13.7')
    """
    found = _VERSION.fullmatch(name) if name.startswith("ENS") else None
    return found.group(1) if found else name


def guess_species(names: Sequence[str]) -> Species:
    """Guess human or mouse from Ensembl prefixes, from case, and from names that only mice have."""
    ensembl = [name for name in names if _ENSEMBL.fullmatch(name)]
    if len(ensembl) > len(names) / 2:
        mouse = sum(name.startswith("ENSMUSG") for name in ensembl)
        human = sum(name.startswith("ENSG") for name in ensembl)
        return _majority(human, mouse, len(ensembl))
    if identifier_kind(names) == "unknown":
        return "unknown"
    if _share(names, _MOUSE_ONLY) > 0.02:
        return "mouse"
    upper = int(np.sum([name == name.upper() for name in names]))
    title = sum(_TITLE.fullmatch(name) is not None for name in names)
    return _majority(upper, title, len(names))


def _majority(human: int, mouse: int, total: int) -> Species:
    if human > 0.7 * total:
        return "human"
    return "mouse" if mouse > 0.7 * total else "unknown"


def as_text(names: Any) -> pd.Index:
    """Return names as plain strings; a missing one becomes empty and matches nothing."""
    listed = ["" if gone else str(name) for name, gone in zip(names, pd.isna(names), strict=True)]
    return pd.Index(listed, dtype=object)


def as_wanted(genes: Iterable[str]) -> pd.Index:
    """Return genes of a model; numbers, which are not names, in a form that matches nothing."""
    named = [f"\0{gene}\0" if _NUMBER.fullmatch(gene) else gene for gene in genes]
    return pd.Index(named, dtype=object)


def is_numbered(names: Sequence[str]) -> bool:
    """Return whether nearly all names only number the columns."""
    return bool(len(names)) and _share(_thin(names), _NUMBER) >= _MOST


def text_columns(var: pd.DataFrame) -> Iterator[tuple[str, pd.Index]]:
    """Yield the columns of a table that hold text, by name."""
    for name, values in var.items():  # unlike var[name], a series even where a name is there twice
        dtype = values.dtype
        dtype = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype
        if pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype):
            yield str(name), as_text(values)


#: Columns of ``var`` in which pipelines write of what kind a column of the matrix is.
_TYPE_COLUMNS: Final = frozenset(
    {"feature_types", "feature_type", "feature_biotype", "gene_biotype", "biotype", "modality"}
    | {"feature_class", "gene_type", "library_type", "type"}
)
_GENE_TYPE = re.compile(r"gene[ _-]?expression|genes?|m?rna|gex", re.IGNORECASE)
_OTHER_TYPE = re.compile(
    r"antibod|antigen|crispr|guide|multiplex|hashtag|hashing|custom|peak|chromatin|atac|spike"
    r"|ercc|surface|barcode|(?<![a-z])(?:adt|hto|tags?|cmo)(?![a-z])"
    r"|(?<![a-z])proteins?(?![a-z]|[ _-]*coding)",
    re.IGNORECASE,
)


def find_genes(var: pd.DataFrame) -> tuple[Bools, tuple[str, ...]]:
    """Find which columns of a matrix are genes that it holds, by what the file says of them.

    Returns
    -------
    Whether each column is one, shape ``(n_vars,)``, and what the others are, in sentences.

    Notes
    -----
    Antibodies, guides, hashtags and peaks are told by ``feature_types`` and its like. A gene that
    is marked in ``feature_is_filtered`` (CELLxGENE) was taken out of the matrix: its zeros were not
    measured.

    Examples
    --------
    >>> var = pd.DataFrame({"feature_types": ["Gene Expression", "Antibody Capture"]})
    >>> find_genes(var)
    (array([ True, False]), ('1 column is not a gene (Antibody Capture) and is left out.',))
    """
    is_gene, said = np.ones(len(var), dtype=bool), []
    for name, values in var.items():
        if one_punctuation(str(name)).lower().replace("-", "_") not in _TYPE_COLUMNS:
            continue
        types = as_text(values)
        known = {kind for kind in types.unique() if kind}
        named = any(_GENE_TYPE.fullmatch(kind.strip()) for kind in known)
        others = {
            kind
            for kind in known
            if _OTHER_TYPE.search(kind) or (named and not _GENE_TYPE.fullmatch(kind.strip()))
        }
        if n := int((types.isin(list(others)) & is_gene).sum()):
            is_gene &= ~types.isin(list(others))
            are = "column is not a gene" if n == 1 else "columns are not genes"
            left = "is" if n == 1 else "are"
            said.append(f"{n:,} {are} ({', '.join(sorted(others))}) and {left} left out.")
    if "feature_is_filtered" in var:
        marked = np.asarray(as_text(var["feature_is_filtered"]).str.lower().isin(["true", "1"]))
        if n := int((marked & is_gene).sum()):
            is_gene &= ~marked
            said.append(
                f"{counted(n, 'gene')} marked in var['feature_is_filtered'] count as not measured."
            )
    return is_gene, tuple(said)


#: Genomes, as Cell Ranger writes them in ``var["genome"]`` and before the names of genes.
_GENOMES: Final = {
    "human": re.compile(r"(?:GRCh|hg)\d.*", re.DOTALL),
    "mouse": re.compile(r"(?:GRCm|mm)\d.*", re.DOTALL),
}


def of_other_species(var: pd.DataFrame, species: Species) -> Bools:
    """Return which of the genes are of a genome of another species, if some are and some are not.

    Examples
    --------
    >>> of_other_species(pd.DataFrame(index=["mm10_CD3D", "GRCh38_CD3D"]), "human")
    array([ True, False])
    """
    other, nothing = np.zeros(len(var), dtype=bool), np.zeros(len(var), dtype=bool)
    for kind, genome in _GENOMES.items():
        for names in [var.index, *([var["genome"]] if "genome" in var else [])]:
            if species not in ("unknown", kind):
                other |= np.asarray(as_text(names).str.fullmatch(genome))
    return nothing if other.all() else other


def named_by_column(var: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return a table of genes under the names of a column where its own only number the rows.

    Examples
    --------
    >>> var = pd.DataFrame({"features": ["CD3D", "NKG7"]}, index=["0", "1"])
    >>> named_by_column(var)[0].index.tolist()
    ['CD3D', 'NKG7']
    """
    few = var.index[:: max(1, len(var) // _FEW_NAMES)]
    if not is_numbered(as_text(few).tolist()):
        return var, ()
    best: tuple[bool, str, pd.Index] | None = None
    for name, names in text_columns(var):
        listed = names.tolist()
        if min(names.nunique() / len(names), share_genes(listed)) < 0.5:
            continue
        is_symbol = identifier_kind(listed) == "symbol"
        if best is None or (is_symbol and not best[0]):
            best = is_symbol, name, names
    if best is None:
        return var, ()
    said = f"Gene names were taken from var[{best[1]!r}], because var_names are numbers."
    return var.set_axis(best[2]), (said,)


#: Letters and dashes of other scripts that look like those of gene names.
_LOOK_ALIKE: Final = str.maketrans(
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425"
    "\u0423\u0417\u0430\u0435\u0456\u0458\u043e\u0440\u0441\u0443\u0445\u0391\u0392\u0395"
    "\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u2010\u2011\u2012"
    "\u2013\u2014\u2212\u02cd",
    "ABCEHIJKMOPSTXY3aeijopcyxABEZHIKMNOPTYX------_",
)
_PUNCTUATION = re.compile(r"[-_. ]")
_SEPARATOR = re.compile(r"[^0-9A-Za-z]+")
#: Names of antibodies, which are no genes, differ from those of genes by such parts too.
_ANTIBODY = re.compile(
    r"adt|anti|abseq|total|prot(?!ein.?cod)|hashtag|hto|(?<![a-z])ab(?![a-z])", re.IGNORECASE
)
_AFFIXES = 2


def plain_name(name: str) -> str:
    """Return a name without quotes, outer blanks and characters that do not show or look alike."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).translate(_LOOK_ALIKE)
        name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf"))
    return name.strip(" \t\r\n'\"")


def one_punctuation(name: str) -> str:
    """Return a name with ``-`` for every ``-``, ``.``, ``_`` and blank."""
    return _PUNCTUATION.sub("-", name)


def visible(name: str) -> str:
    """Return a name with characters written out that do not show, or look like others."""
    shows = name.isascii() and name.isprintable() and name == name.strip()
    return name if shows else ascii(name)


def odd_characters(names: Iterable[str]) -> str:
    """Return the characters of names that are not what they look like, by their Unicode names."""
    found = Counter(c for name in names for c in name if not (c.isascii() and c.isprintable()))
    shown = [f"{unicodedata.name(c, 'control').lower()} (U+{ord(c):04X})" for c in found]
    return examples(shown)


class NameChange(NamedTuple):
    """A change of all names after which they fit others.

    Parameters
    ----------
    how
        The change, such as ``"without the prefix 'GRCh38_'"``.
    names
        The names after it, shape ``(n_names,)``.
    n
        Number of wanted names that are then there.
    """

    how: str
    names: pd.Index
    n: int


def find_change(names: pd.Index, wanted: Iterable[str]) -> NameChange | None:
    """Find the systematic difference between names and wanted ones, if there is any.

    Prefixes, suffixes, parts of composite names, blanks and odd characters are tried, one after
    another while more names fit.

    Parameters
    ----------
    names
        Names, shape ``(n_names,)``.
    wanted
        Those that they should be.

    Examples
    --------
    >>> found = find_change(pd.Index(["GRCh38_CD3D", "GRCh38_NKG7"]), ["NKG7", "CD3D"])
    >>> found.how, found.n
    ("without the prefix 'GRCh38_'", 2)
    """
    goal = {strip_version(name) for name in wanted if name and not _NUMBER.fullmatch(name)}
    best = NameChange("", names, _n_within(names, goal))
    for _ in range(3):
        before = best
        for how, change in _changes(before.names, goal):
            changed = before.names.map(change)
            if (n := _n_within(changed, goal)) > best.n:
                best = NameChange(f"{before.how} and {how}" if before.how else how, changed, n)
        if best is before:
            break
    return best if best.how else None


def _n_within(names: pd.Index, goal: set[str]) -> int:
    return len({strip_version(name) for name in names} & goal)


def _changes(names: pd.Index, goal: set[str]) -> Iterator[tuple[str, Callable[[str], str]]]:
    """Yield changes that may make names fit, the simplest first."""
    plain = [plain_name(name) for name in names]
    if odd := [name for name, tidy in zip(names, plain, strict=True) if name != tidy]:
        yield f"without {odd_characters(odd) or 'quotes and outer blanks'}", plain_name
    before, after = Counter[str](), Counter[str]()
    parts = Counter[tuple[int, int]]()
    shown: dict[tuple[int, int], tuple[str, str]] = {}
    for name in plain:
        starts, ends = _tokens(name)
        for i, j in combinations_with_replacement(range(len(starts)), 2):
            part, rest = name[starts[i] : ends[j]], (name[: starts[i]], name[ends[j] :])
            if strip_version(part) in goal and not _ANTIBODY.search(" ".join(rest)):
                before[rest[0]] += not rest[1]
                after[rest[1]] += not rest[0]
                at = i, len(ends) - j
                parts[at] += 1
                shown.setdefault(at, (part, name))
    for turn, affixes in ((1, before), (-1, after)):
        ordered = sorted(name[::turn] for name in set(plain))
        if middle := ordered[len(ordered) // 4 : -(len(ordered) // 4) or None]:
            # What at least half of the names begin with, or end with, without a separator.
            affixes[common_start(middle[0], middle[-1])[::turn]] += 1
    for prefix, _ in before.most_common(_AFFIXES):
        if not _ANTIBODY.search(prefix):
            yield f"without the prefix {prefix!r}", partial(_without, prefix, "")
    for suffix, _ in after.most_common(_AFFIXES):
        if not _ANTIBODY.search(suffix):
            yield f"without the suffix {suffix!r}", partial(_without, "", suffix)
    for at, _ in parts.most_common(_AFFIXES):
        yield "by a part of the names, such as {!r} of {!r}".format(*shown[at]), partial(_part, at)


def _without(prefix: str, suffix: str, name: str) -> str:
    return plain_name(name).removeprefix(prefix).removesuffix(suffix)


def _part(at: tuple[int, int], name: str) -> str:
    """Return what lies between two separators, counted from the start and from the end."""
    plain = plain_name(name)
    starts, ends = _tokens(plain)
    is_there = at[0] < len(starts) and at[1] <= len(ends)
    return plain[starts[at[0]] : ends[-at[1]]] if is_there else plain


def _tokens(name: str) -> tuple[list[int], list[int]]:
    """Return where the tokens of a name start and end."""
    cuts = list(_SEPARATOR.finditer(name))
    return [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(name)]


def common_start(one: str, other: str) -> str:
    """Return what two texts begin with."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)
