"""Recognise gene identifiers, and match the genes of a query to those of a model."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from itertools import combinations_with_replacement, takewhile
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import scipy.sparse as sp

from hdeepinsight._errors import ARGUMENTS, InputError, counted, examples, invalid
from hdeepinsight.data._matrix import Block

IdentifierKind = Literal["symbol", "ensembl", "mixed", "unknown"]
Species = Literal["human", "mouse", "unknown"]
Bools = np.ndarray[Any, np.dtype[np.bool_]]

_ENSEMBL = re.compile(r"ENS[A-Z]*G\d{11}(\.\d+)?(_PAR_Y)?")
_VERSION = re.compile(r"(ENS[A-Z]*\d{11})\.\d+")
_SYMBOL = re.compile(r"(?=.*[A-Za-z]{2}|[A-Za-z]+\d)[A-Za-z0-9][A-Za-z0-9._@/:\-]*")
#: Genes of nearly every dataset, in the case of any species.
_COMMON = re.compile(
    r"ACTB|B2M|EEF1A1|FTH1|GAPDH|MALAT1|TMSB4X|RP[LS]P?\d+[A-Z]?\d*|MT-[ACN]\w+|HLA-\w+|CD\d+[A-Z]?",
    re.IGNORECASE,
)
_BARCODE = re.compile(r"(?:.*[^A-Za-z])?[ACGTN]{8,}(?:[^A-Za-z].*)?")
_MOUSE_ONLY = re.compile(r"GM\d{3,}|[0-9A-Z]+RIK", re.IGNORECASE)
_TITLE = re.compile(r"[A-Z][a-z0-9.\-]*[a-z][a-z0-9.\-]*")
#: Row numbers instead of names: 0, 1, 2 ...; V1, V2 ...; (0), [1] ...; 0-0, 1-0 ... of a concat.
_NUMBER = re.compile(
    r"\W*(?:b\W+)?(?:V|X|row|col(?:umn)?|feature|var(?:iable)?|unnamed)?[\W_]*"
    r"(?:0x[0-9a-f]+|\d+(?:\.\d*)?(?:e[+-]?\d+)?)\W*(?:-\d+)?\W*",
    re.IGNORECASE,
)
#: Text around the first or the last number of a name: gene_1, c1_rna, gene_1-0. Such a name is one
#: only if the file has no better one.
_COUNTED = (
    re.compile(r"(?!LOC|ENS)(\D*)(\d+)(.*)", re.DOTALL),
    re.compile(r"(?!LOC|ENS)(.*?)(\d+)(\D*)", re.DOTALL),
)
#: The same for cells, whose names may also consist of a sample and a number.
_COUNTED_CELL = (re.compile(r"(?!LOC|ENS)([A-Za-z]+[-_. :]*)(\d+)()"),)
#: Names to which pandas, R or scanpy appended a number, because they repeated (CD4.1, CD4-1).
_REPEATED = re.compile(r"(.+)[-._]\d{1,2}")
#: Shares of names above which all, or some, have a property.
_MOST, _SOME = 0.9, 0.1
#: Numbers of names that are sampled to recognise their kind.
_MANY_NAMES, _FEW_NAMES = 20_000, 500
#: Cells whose counts are hashed at a time.
_HASHED_CELLS = 500


def _spaced(values: Any, n: int) -> Any:
    """Return evenly spaced values of a sequence, all of fewer than ``2 * n``."""
    return values[:: max(1, len(values) // n)]


def _share(names: Sequence[str], pattern: re.Pattern[str]) -> float:
    """Return the share of evenly spaced names that match completely; 0.0 without names."""
    return _share_of(tuple(_spaced(names, _MANY_NAMES)), pattern)


@lru_cache(32)  # computed repeatedly for the genes of a query and of a model
def _share_of(names: tuple[str, ...], pattern: re.Pattern[str]) -> float:
    return sum(map(bool, map(pattern.fullmatch, names))) / max(1, len(names))


def share_barcodes(names: Sequence[str]) -> float:
    """Return the share of names with a cell barcode (eight or more of A, C, G, T, N)."""
    return _share(names, _BARCODE)


def share_genes(names: Sequence[str]) -> float:
    """Return the share of names that look like a gene (symbol or Ensembl id), not a barcode."""
    return max(0.0, _share(names, _SYMBOL) - _share(names, _BARCODE))


def count_common_genes(names: Sequence[str]) -> float:
    """Return the number of names that are Ensembl ids, or genes of nearly every dataset."""
    return len(names) * (_share(names, _ENSEMBL) + _share(names, _COMMON))


def name_digests(
    names: pd.Index, counts: sp.csr_matrix | None = None, genes: Sequence[str] = ()
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return a hash of each cell name, int64, shape ``(n_cells,)``.

    Parameters
    ----------
    names
        Names of the cells. Those that remain repeated are numbered, so the digests are unique.
    counts
        Counts of the cells, CSR, shape ``(n_cells, n_genes)``. They replace names that are only
        positions (0, 1, 2 ...; cell_1, cell_2 ...) and distinguish names that repeat.
    genes
        Names of the genes, shape ``(n_genes,)``, whose order does not matter.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from scipy.sparse import csr_matrix
    >>> from hdeepinsight.data import name_digests
    >>> len(set(name_digests(pd.Index(["a", "b", "b"])).tolist()))
    3
    >>> counts = csr_matrix([[1.0, 0.0], [5.0, 2.0]])
    >>> one = name_digests(pd.Index(["0", "1"]), counts, ["NKG7", "CD3D"])
    >>> other = name_digests(pd.Index(["0", "1"]), counts[::-1], ["NKG7", "CD3D"])
    >>> np.array_equal(one, other[::-1])
    True
    """
    text = pd.Series(names.astype(str))
    some = _spaced(text, _MANY_NAMES).tolist()
    is_position = _are_placeholders(some, len(text), _COUNTED_CELL)
    if counts is not None and (is_position or not names.is_unique):
        weights = pd.util.hash_array(np.asarray(genes, dtype=object))
        sums = np.zeros(len(text), dtype=np.uint64)  # modulo 2^64
        for start in range(0, len(text), _HASHED_CELLS):
            block = counts[start : start + _HASHED_CELLS]
            products = block.data.astype(np.uint64) * weights[block.indices]
            total = np.zeros(len(products) + 1, dtype=np.uint64)
            np.cumsum(products, out=total[1:])
            sums[start : start + block.shape[0]] = np.diff(total[block.indptr])
        text = ("" if is_position else text + "\x00") + pd.Series(sums.astype(str))
    number = text.groupby(text).cumcount()
    text = text.where(number == 0, text + "\x00" + number.astype(str))
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
    """Guess human or mouse from Ensembl prefixes, case, and symbols that only mice have."""
    ensembl = [name for name in names if _ENSEMBL.fullmatch(name)]
    if len(ensembl) > len(names) / 2:
        human, mouse = (sum(n.startswith(start) for n in ensembl) for start in ("ENSG", "ENSMUSG"))
        return _majority(human, mouse, len(ensembl))
    if identifier_kind(names) == "unknown":
        return "unknown"
    if _share(names, _MOUSE_ONLY) > 0.02:
        return "mouse"
    title = sum(_TITLE.fullmatch(name) is not None for name in names)
    return _majority(sum(name == name.upper() for name in names), title, len(names))


def _majority(human: int, mouse: int, total: int) -> Species:
    if human > 0.7 * total:
        return "human"
    return "mouse" if mouse > 0.7 * total else "unknown"


def as_text(names: Any) -> pd.Index:
    """Return names as plain strings; missing names become empty and match nothing."""
    missing = pd.isna(names)
    text = ["" if skip else str(name) for name, skip in zip(names, missing, strict=True)]
    return pd.Index(text, dtype=object)


def as_required(genes: Iterable[str]) -> pd.Index:
    """Return the genes of a model, with numbers changed so that they match nothing."""
    named = [f"\0{gene}\0" if _NUMBER.fullmatch(gene) else gene for gene in genes]
    return pd.Index(named, dtype=object)


def is_numbered(names: Sequence[str]) -> bool:
    """Return whether nearly all names are numbers of columns."""
    return _share(names, _NUMBER) >= _MOST


def _are_placeholders(
    names: Sequence[str], n_names: int, patterns: Sequence[re.Pattern[str]] = _COUNTED
) -> bool:
    """Return whether nearly all names are numbers, or numbers within the same text.

    Numbers with leading zeros must be at most ``n_names``, the number of names that these were
    sampled from: those of identifiers (FBgn0000003) are larger.
    """
    if is_numbered(names):
        return True
    for pattern in patterns:
        numbers: dict[tuple[str, str], list[str]] = {}
        for found in filter(None, map(pattern.fullmatch, names)):
            numbers.setdefault((found[1], found[3]), []).append(found[2])
        most = max(numbers.values(), key=len, default=[])
        is_padded = any(number[0] == "0" != number for number in most)
        if len(most) > _MOST * len(names) and not (is_padded and max(map(int, most)) > n_names):
            return True
    return False


def without_number(names: pd.Index, others: Iterable[str]) -> pd.Index:
    """Remove the numbers that genes got because antibodies, or other columns, have their names.

    Examples
    --------
    >>> without_number(pd.Index(["CD4-1", "NKX2-1"]), ["CD4"]).tolist()
    ['CD4', 'NKX2-1']
    """
    known = set(others)
    if not known:
        return names
    found = [(name, _REPEATED.fullmatch(name)) for name in names]
    return pd.Index([m[1] if m and m[1] in known else name for name, m in found], dtype=object)


def text_columns(var: pd.DataFrame) -> Iterator[tuple[str, pd.Index]]:
    """Yield the text columns of a table, by name."""
    for name, values in var.items():  # unlike var[name], a series even for duplicated names
        dtype = values.dtype
        dtype = dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype
        if pd.api.types.is_string_dtype(dtype) or pd.api.types.is_object_dtype(dtype):
            yield str(name), as_text(values)


#: Columns of ``var`` in which pipelines store feature types, without case and punctuation.
_TYPE_COLUMNS: Final = frozenset(
    {"featuretypes", "featuretype", "featurebiotype", "genebiotype", "biotype", "modality"}
    | {"featureclass", "genetype", "librarytype", "type"}
)
#: Number of different values above which a column with another name holds no feature types.
_MANY_TYPES = 20
_GENE_TYPE = re.compile(r"gene[ _-]?expression|genes?|m?rna|gex", re.IGNORECASE)
_OTHER_TYPE = re.compile(
    r"antibod|antigen|crispr|guide|multiplex|hashtag|hashing|custom|peak|chromatin|atac|spike"
    r"|ercc|surface|barcode|(?<![a-z])(?:adt|hto|tags?|cmo)(?![a-z])"
    r"|(?<![a-z])proteins?(?![a-z]|[ _-]*coding)",
    re.IGNORECASE,
)


def find_genes(var: pd.DataFrame) -> tuple[Bools, tuple[str, ...]]:
    """Find the columns of a matrix that are measured genes, according to ``var``.

    Returns
    -------
    Whether each column is a gene, shape ``(n_vars,)``, and sentences on the others.

    Notes
    -----
    Antibodies, guides, hashtags and peaks are recognised by ``feature_types`` and similar columns,
    and by any column whose values are feature types only, among them genes.
    Genes marked in ``feature_is_filtered`` (CELLxGENE) were removed from the matrix, so their zeros
    were not measured.

    Examples
    --------
    >>> var = pd.DataFrame({"feature_types": ["Gene Expression", "Antibody Capture"]})
    >>> find_genes(var)
    (array([ True, False]), ('1 column is not a gene (Antibody Capture) and is ignored.',))
    """
    is_gene, notes = np.ones(len(var), dtype=bool), []
    for name, values in var.items():
        is_named = _SEPARATOR.sub("", str(name)).lower() in _TYPE_COLUMNS
        some = as_text(_spaced(values, _FEW_NAMES))
        if not is_named and some.nunique() > _MANY_TYPES:
            continue
        types = as_text(values)
        known = {kind for kind in types.unique() if kind}
        of_genes = {kind for kind in known if _GENE_TYPE.fullmatch(kind.strip())}
        others = sorted(kind for kind in known - of_genes if _OTHER_TYPE.search(kind) or of_genes)
        if not is_named and not (of_genes and all(map(_OTHER_TYPE.search, others))):
            continue
        if n := int((types.isin(others) & is_gene).sum()):
            is_gene &= ~types.isin(others)
            what = counted(n, "column is not a gene", "columns are not genes")
            notes.append(f"{what} ({', '.join(others)}) and {'is' if n == 1 else 'are'} ignored.")
    if "feature_is_filtered" in var:
        words = ["true", "1", "1.0"]
        marked = np.asarray(as_text(var["feature_is_filtered"]).str.lower().isin(words))
        if n := int((marked & is_gene).sum()):
            is_gene &= ~marked
            what = counted(n, "gene")
            notes.append(f"{what} marked in var['feature_is_filtered'] count as not measured.")
    return is_gene, tuple(notes)


#: Genomes, as Cell Ranger writes them in ``var["genome"]`` and as prefixes of gene names.
_GENOMES: Final = {
    "human": re.compile(r"(?:GRCh|hg)\d.*", re.DOTALL),
    "mouse": re.compile(r"(?:GRCm|mm)\d.*", re.DOTALL),
}


def of_other_species(var: pd.DataFrame, species: Species) -> Bools:
    """Return which genes are from another species, if the table has genes of several.

    Examples
    --------
    >>> of_other_species(pd.DataFrame(index=["mm10_CD3D", "GRCh38_CD3D"]), "human")
    array([ True, False])
    """
    other = np.zeros(len(var), dtype=bool)
    for kind, genome in _GENOMES.items():
        for names in [var.index, *([var["genome"]] if "genome" in var else [])]:
            if species not in ("unknown", kind):
                other |= np.asarray(as_text(names).str.fullmatch(genome))
    return other & ~other.all()


def named_by_column(var: pd.DataFrame) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Replace ``var_names`` that are row numbers, or counted (gene_1), by a column of gene names.

    Examples
    --------
    >>> var = pd.DataFrame({"features": ["CD3D", "NKG7"]}, index=["0", "1"])
    >>> named_by_column(var)[0].index.tolist()
    ['CD3D', 'NKG7']
    """
    found: list[tuple[bool, str, pd.Index]] = []
    some = as_text(_spaced(var.index, _FEW_NAMES)).tolist()
    if _are_placeholders(some, len(var)):
        for name, names in text_columns(var):
            listed = names.tolist()
            is_name = min(names.nunique() / len(names), share_genes(listed)) >= 0.5
            if is_name and (is_numbered(some) or not _are_placeholders(listed, len(listed))):
                found.append((identifier_kind(listed) == "symbol", name, names))
    if not found:
        return var, ()
    _, name, names = max(found, key=lambda each: each[0])  # prefers symbols to Ensembl ids
    note = f"Gene names were taken from var[{name!r}], because var_names are numbered."
    return var.set_axis(names), (note,)


#: Letters and dashes of other scripts that look like those in gene names.
_LOOK_ALIKE: Final = str.maketrans(
    "\u0410\u0412\u0421\u0415\u041d\u0406\u0408\u041a\u041c\u041e\u0420\u0405\u0422\u0425\u0423\u0417\u0430\u0435\u0456\u0458\u043e\u0440\u0441\u0443\u0445\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u2010\u2011\u2012\u2013\u2014\u2212\u02cd",
    "ABCEHIJKMOPSTXY3aeijopcyxABEZHIKMNOPTYX------_",
)
_PUNCTUATION = re.compile(r"[-_. ]")
_SEPARATOR = re.compile(r"[^0-9A-Za-z]+")
#: Parts of antibody names, which must not be stripped to a gene name.
_ANTIBODY = re.compile(
    r"adt|anti|abseq|total|prot(?!ein.?cod)|hashtag|hto|(?<![a-z])ab(?![a-z])", re.IGNORECASE
)
_AFFIXES = 2


def plain_name(name: str) -> str:
    """Remove quotes, outer whitespace and invisible characters, and replace look-alike letters."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name).translate(_LOOK_ALIKE)
        name = "".join(c for c in name if unicodedata.category(c) not in ("Cc", "Cf"))
    return name.strip(" \t\r\n'\"")


def one_punctuation(name: str) -> str:
    """Replace each ``-``, ``.``, ``_`` and space by ``-``."""
    return _PUNCTUATION.sub("-", name)


def visible(name: str) -> str:
    """Escape a name with invisible or non-ASCII characters."""
    is_plain = name.isascii() and name.isprintable() and name == name.strip()
    return name if is_plain else ascii(name)


def unusual_characters(names: Iterable[str]) -> str:
    """Return the Unicode names of the non-ASCII and invisible characters in names."""
    found = Counter(c for name in names for c in name if not (c.isascii() and c.isprintable()))
    shown = [f"{unicodedata.name(c, 'control').lower()} (U+{ord(c):04X})" for c in found]
    return examples(shown)


class NameChange(NamedTuple):
    """Systematic change of all names with which they match others.

    Parameters
    ----------
    how
        Description of the change, such as ``"without the prefix 'GRCh38_'"``.
    names
        The changed names, shape ``(n_names,)``.
    n
        Number of required names among them.
    """

    how: str
    names: pd.Index
    n: int


def find_change(names: pd.Index, required: Iterable[str]) -> NameChange | None:
    """Find a systematic difference between names and required names.

    Prefixes, suffixes, parts of composite names, whitespace and unusual characters are tried and
    combined as long as more names match.

    Parameters
    ----------
    names
        Names, shape ``(n_names,)``.
    required
        Names to match.

    Examples
    --------
    >>> found = find_change(pd.Index(["GRCh38_CD3D", "GRCh38_NKG7"]), ["NKG7", "CD3D"])
    >>> found.how, found.n
    ("without the prefix 'GRCh38_'", 2)
    """
    goal = {strip_version(name) for name in required if name and not _NUMBER.fullmatch(name)}
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
    """Yield changes with which names may match, the simplest first."""
    plain = [plain_name(name) for name in names]
    if changed := [name for name, tidy in zip(names, plain, strict=True) if name != tidy]:
        yield f"without {unusual_characters(changed) or 'quotes and outer spaces'}", plain_name
    before, after, parts = Counter[str](), Counter[str](), Counter[tuple[int, int]]()
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
    for step, affixes in ((1, before), (-1, after)):
        ordered = sorted(name[::step] for name in set(plain))
        if middle := ordered[len(ordered) // 4 : -(len(ordered) // 4) or None]:
            # The prefix or suffix of at least half of the names, without a separator.
            affixes[common_start(middle[0], middle[-1])[::step]] += 1
    for what, affixes in (("prefix", before), ("suffix", after)):
        for affix in (
            each for each, _ in affixes.most_common(_AFFIXES) if not _ANTIBODY.search(each)
        ):
            ends_of = (affix, "") if what == "prefix" else ("", affix)
            yield f"without the {what} {affix!r}", partial(_without, *ends_of)
    for at, _ in parts.most_common(_AFFIXES):
        yield "by a part of the names, such as {!r} of {!r}".format(*shown[at]), partial(_part, at)


def _without(prefix: str, suffix: str, name: str) -> str:
    return plain_name(name).removeprefix(prefix).removesuffix(suffix)


def _part(at: tuple[int, int], name: str) -> str:
    """Return the part between two separators, counted from the start and from the end."""
    plain = plain_name(name)
    starts, ends = _tokens(plain)
    is_there = at[0] < len(starts) and at[1] <= len(ends)
    return plain[starts[at[0]] : ends[-at[1]]] if is_there else plain


def _tokens(name: str) -> tuple[list[int], list[int]]:
    """Return the start and end positions of the tokens of a name."""
    cuts = list(_SEPARATOR.finditer(name))
    return [0, *(cut.end() for cut in cuts)], [*(cut.start() for cut in cuts), len(name)]


def common_start(one: str, other: str) -> str:
    """Return the common prefix of two texts."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(letter for letter, _ in same)


Ints: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"

#: Coverage below which a warning is issued, because labels are less certain.
WARN_COVERAGE = 0.50
#: Share of matching model genes below which a change of all names is searched for, and share that
#: it must reach, besides twice the previous number, to be applied.
SYSTEMATIC, ENOUGH = 0.5, 0.1


class GeneMatchError(InputError):
    """Error for a query that has too few genes of the model."""


class GeneCoverageWarning(UserWarning):
    """Warning for a query with so few genes of the model that labels are less certain."""


@dataclass(frozen=True)
class GeneReport:
    """Summary of how the genes of a query match those of a model.

    Parameters
    ----------
    n_model
        Number of genes of the model.
    n_query
        Number of columns of the query.
    n_measured
        Number of model genes in the query.
    coverage
        Share of the reference's expression in these genes, in ``[0, 1]``; the share of genes
        without weights.
    missing
        Model genes that the query lacks, in model order.
    duplicated
        Model genes with several columns in the query; their counts are summed.
    n_extra
        Number of columns of the query that the model does not use.
    column
        Column of ``var`` with the names; ``None`` for ``var_names``.
    messages
        Sentences on repairs and possible problems.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> print(align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"]).report)
    2 of 3 model genes measured (coverage 66.7%), 1 of 3 columns unused
      missing   MS4A1
    """

    n_model: int
    n_query: int
    n_measured: int
    coverage: float
    missing: tuple[str, ...] = ()
    duplicated: tuple[str, ...] = ()
    n_extra: int = 0
    column: str | None = None
    messages: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = f"{self.n_measured:,} of {self.n_model:,} model genes measured"
        unused = f"{self.n_extra:,} of {self.n_query:,} columns unused"
        lines = [f"{found} (coverage {self.coverage:.1%}), {unused}"]
        lines += [f"  missing   {examples(self.missing, 5)}"] if self.missing else []
        return "\n".join([*lines, *(f"  note      {text}" for text in self.messages)])

    def to_dict(self) -> dict[str, Any]:
        """Return the report in JSON types.

        Examples
        --------
        >>> from hdeepinsight.data import align_genes
        >>> align_genes(["NKG7", "CD3D"], ["CD3D", "MS4A1", "NKG7"]).report.to_dict()["missing"]
        ['MS4A1']
        """
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}


@dataclass(frozen=True, eq=False)
class GeneAlignment:
    """Map from the columns of a query to the genes of a model.

    Parameters
    ----------
    source
        First column of each model gene, int64, shape ``(n_genes,)``; -1 if it is missing.
    target
        Model gene of each column, int64, shape ``(n_vars,)``; -1 if the model does not use it.
    measured
        Whether the query has the gene, bool, shape ``(n_genes,)``.
    report
        Summary of the alignment.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> alignment = align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"])
    >>> alignment.target.tolist(), alignment.measured.tolist()
    ([2, 0, -1], [True, False, True])
    """

    source: np.ndarray[Any, np.dtype[np.int64]]
    target: np.ndarray[Any, np.dtype[np.int64]]
    measured: np.ndarray[Any, np.dtype[np.bool_]]
    report: GeneReport

    def __post_init__(self) -> None:
        for array in (self.source, self.target, self.measured):
            array.setflags(write=False)

    def apply(self, block: Block) -> sp.csr_matrix:
        """Reorder counts to the genes of the model; genes that the query lacks are 0.

        Parameters
        ----------
        block
            Counts, shape ``(n_cells, n_vars)``, dense or CSR. Not modified.

        Returns
        -------
        CSR float32 with sorted indices, shape ``(n_cells, n_genes)``. Columns of the same model
        gene are summed.

        Raises
        ------
        ValueError
            If the block does not have the columns of the query.

        Examples
        --------
        >>> import numpy as np
        >>> from hdeepinsight.data import align_genes
        >>> alignment = align_genes(["CD3D", "NKG7", "ACTB"], ["NKG7", "CD3D"])
        >>> alignment.apply(np.array([[1, 2, 3]])).toarray()
        array([[2., 1.]], dtype=float32)
        """
        if block.shape[1] != len(self.target):
            hint = "Align the genes of this matrix first."
            raise invalid("block", block.shape, f"a matrix of {len(self.target)} columns", hint)
        target = self.target.astype(np.int32)
        rows: Any = block
        if not sp.issparse(block):
            used = np.flatnonzero(target >= 0)
            rows, target = sp.csr_matrix(block[:, used]), target[used]
        # Renaming columns is much faster than a sparse product or fancy indexing.
        renamed = target[rows.indices]
        kept = np.flatnonzero(renamed >= 0)
        indptr = np.searchsorted(kept, rows.indptr)
        stored = (rows.data[kept].astype(np.float32, copy=False), renamed[kept], indptr)
        result = sp.csr_matrix(stored, shape=(rows.shape[0], len(self.source)))
        if not result.has_sorted_indices:
            result = result.tocsc().tocsr()  # two bucket sorts, in linear time
        result.sum_duplicates()
        if np.count_nonzero(result.data) < len(result.data):
            result.eliminate_zeros()
        return result


def resolve_var_names(var: pd.DataFrame, genes: Sequence[str]) -> tuple[pd.Index, str | None]:
    """Choose the names in ``var`` that match a model: the index, or a text column.

    Parameters
    ----------
    var
        Annotation of the genes, shape ``(n_vars, ...)``.
    genes
        Genes of the model.

    Returns
    -------
    The names, shape ``(n_vars,)``, and their column (``None`` for the index). The index is used
    unless a column has more than twice as many model genes. If none has a tenth of them, matches
    after a systematic change of the names are counted, as in `align_genes`.

    Examples
    --------
    >>> import pandas as pd
    >>> from hdeepinsight.data import resolve_var_names
    >>> var = pd.DataFrame({"gene_ids": ["ENSG00000167286"]}, index=["CD3D"])
    >>> resolve_var_names(var, ["ENSG00000167286"])[1]
    'gene_ids'
    """
    required = as_required(strip_version(gene) for gene in genes)
    first: tuple[str | None, pd.Index] = (None, as_text(var.index))
    tables, enough = [first, *text_columns(var)], ENOUGH * len(required)
    n_matched = [int(required.isin(names.map(strip_version)).sum()) for _, names in tables]
    if max(n_matched) < enough:
        for i, (_, names) in enumerate(tables):
            change = find_change(names, required) if names.nunique() >= enough else None
            n_matched[i] = change.n if change and change.n >= enough else n_matched[i]
    column, names = tables[int(np.argmax([2 * n_matched[0], *n_matched[1:]]))]
    return names, column


def align_genes(
    var_names: pd.DataFrame | Iterable[str],
    genes: Sequence[str],
    *,
    weights: np.ndarray[Any, Any] | None = None,
    min_coverage: float = 0.10,
    warn_coverage: float = WARN_COVERAGE,
    fold_case: bool = False,
    arguments: Mapping[str, str] = ARGUMENTS,
) -> GeneAlignment:
    """Match the genes of a query to those of a model by name.

    Genes are matched by their exact name; then without Ensembl versions; then with ``-``, ``.``,
    ``_`` and spaces treated alike; then after the systematic change with most matches (removing a
    prefix such as ``GRCh38_`` or a suffix, or taking a part of ``ENSG00000198851_CD3E``); then
    without whitespace, quotes, invisible and look-alike characters; and last, only with
    ``fold_case``, regardless of case. Later rules apply only to genes that are still unmatched.
    Numbers, and genes of another species' genome (``mm10_Cd3d``), match nothing.

    Parameters
    ----------
    var_names
        Names of the query's columns, or its ``var``. In ``var``, the column of names is chosen by
        `resolve_var_names`, and columns that are not genes (antibodies, guides, filtered genes)
        match nothing.
    genes
        Genes of the model, unique, shape ``(n_genes,)``.
    weights
        Share of each model gene in the reference's expression, shape ``(n_genes,)``, not negative.
        Coverage is the total weight of the matched genes; without weights, their share.
    min_coverage
        Coverage below which an error is raised.
    warn_coverage
        Coverage below which a `GeneCoverageWarning` is issued.
    fold_case
        Match ``Cd3d`` to ``CD3D``. Off by default, because a mouse gene is not the human gene of
        the same name.
    arguments
        Name of ``fold_case`` in the calling function, if it has this argument, for errors.

    Returns
    -------
    The alignment, with a report.

    Raises
    ------
    GeneMatchError
        If the coverage is too small; the message compares the names and recommends what to do.
    ValueError
        If model genes repeat, or weights do not match them.

    Notes
    -----
    Columns of the same model gene are summed. The limits of 10 % and 50 % of the reference's
    expression are design choices of this package.

    Examples
    --------
    >>> from hdeepinsight.data import align_genes
    >>> alignment = align_genes(["NKG7", "CD3D", "ACTB"], ["CD3D", "MS4A1", "NKG7"])
    >>> alignment.source
    array([ 1, -1,  0])
    >>> alignment.report.missing
    ('MS4A1',)
    """
    model = pd.Index([str(gene) for gene in genes], dtype=object)
    if not model.is_unique or not len(model):
        twice = examples(model[model.duplicated()].unique()) or "none at all"
        raise invalid("genes", twice, "one or more unique names", "Pass each gene once.")
    share = np.ones(len(model)) if weights is None else np.asarray(weights, dtype=np.float64)
    total = share.sum()
    if share.shape != (len(model),) or not np.isfinite(total) or total <= 0 or (share < 0).any():
        expected = f"{len(model)} finite numbers from 0 up, not all 0"
        hint = "Pass the mean share of each model gene."
        raise invalid("weights", f"shape {share.shape}, sum {total:.4g}", expected, hint)
    is_frame = isinstance(var_names, pd.DataFrame)
    var: Any = var_names if is_frame else pd.DataFrame(index=as_text(list(var_names)))
    is_gene, notes = find_genes(var)
    var, renamed = named_by_column(var)
    names, column = resolve_var_names(var, model.tolist())
    names = without_number(names, names[~is_gene])
    model_species = guess_species(model.tolist())
    foreign = of_other_species(var.set_axis(names), model_species)
    names = names.where(is_gene & ~foreign, "")
    target, found, matched, hint = _match(names, as_required(model), fold_case)
    messages = [f"Gene names were taken from var[{column!r}], not from var"] * (column is not None)
    messages += [*renamed, *notes, *found]
    first = without_number(names, names)
    if repeats := names[(first != names) & first.isin(model) & ~names.isin(model)].tolist():
        messages.append(
            f"Columns that repeat a gene are not read: {examples(repeats)}. If the first of them "
            "is an antibody, remove it, or mark it in var['feature_types']."
        )
    same = matched[target >= 0].tolist()
    if _are_placeholders(_spaced(same, _MANY_NAMES), len(same)):
        messages.append(
            f"Genes are numbered ({examples(same, 2)}) and were matched by number, which is right "
            "only if query and model number the same genes alike."
        )
    if n_foreign := int(foreign.sum()):
        messages.append(f"{counted(n_foreign, 'gene')} of another species' genome ignored.")
    species = guess_species(matched.tolist()), model_species
    if _differ(*species):
        messages.append(
            f"The query looks like {species[0]} and the model like {species[1]}; genes with the "
            "same name are treated as the same gene."
        )
    alignment = alignment_of(target, model, share / total, column=column, messages=messages)
    report = alignment.report
    is_refused = report.coverage < min_coverage or not report.n_measured
    if is_refused or report.coverage < warn_coverage:
        size = f"{report.n_measured:,} of the model's {report.n_model:,} genes are in the query"
        covered = f"{size} ({report.coverage:.1%} of the reference's expression)."
        advice = _diagnose(names.tolist(), model.tolist(), species, report.n_measured, arguments)
        advice = f"{hint} {advice}".lstrip()
        if is_refused:
            raise GeneMatchError(covered, f"At least {min_coverage:.0%} is needed.", advice)
        text = f"{covered} Below {warn_coverage:.0%}, labels are less certain. {advice}"
        warnings.warn(text, GeneCoverageWarning, stacklevel=2)
    return alignment


def gene_coverage(
    var: pd.DataFrame, genes: Sequence[str], weights: np.ndarray[Any, Any] | None = None
) -> float:
    """Return the share of a model's genes in a table of genes, by their weights."""
    with suppress(GeneMatchError):
        found = align_genes(var, genes, weights=weights, min_coverage=0.0, warn_coverage=0.0)
        return found.report.coverage
    return 0.0


def _match(
    names: pd.Index, model: pd.Index, fold_case: bool
) -> tuple[Ints, list[str], pd.Index, str]:
    """Match each column to a model gene.

    Returns
    -------
    The model gene of each column, -1 for none; sentences on matches other than by exact name; the
    changed names; and a hint on a change with more matches that was not applied.
    """
    target = model.get_indexer(names).astype(np.int64)
    ours, theirs = names.map(strip_version), model.map(strip_version)
    found = {"without Ensembl versions": _add(target, ours, theirs)}
    if np.count_nonzero(target >= 0) < len(model):
        unified = ours.map(one_punctuation), theirs.map(one_punctuation)
        found["regardless of '-', '.', '_' and spaces"] = _add(target, *unified)
    hint, n_found = "", len(np.unique(target[target >= 0]))
    if n_found < SYSTEMATIC * len(model):
        changes = [(find_change(names, model), False), (find_change(model, names), True)]
        change, of_model = max(changes, key=lambda found: found[0].n if found[0] else 0)
        if change is not None and change.n > n_found:
            how = f"{change.how}{' of the model' if of_model else ''}"
            if change.n > max(2 * n_found, ENOUGH * len(model)):
                changed = change.names.map(strip_version)
                ours, theirs = (ours, changed) if of_model else (changed, theirs)
                found[how] = _add(target, ours, theirs)
            elif change.n > 1.2 * n_found:  # suffixes such as '-AS1' always match a few names
                hint = f"{counted(change.n, 'gene')} would match {how}."
    if np.count_nonzero(target >= 0) < len(model):
        ours = ours.map(plain_name)
        how = "without whitespace, quotes, invisible and look-alike characters"
        found[how] = _add(target, ours, theirs)
    if fold_case:
        found["regardless of case"] = _add(target, ours.map(str.upper), theirs.map(str.upper))
    notes = [f"{counted(n, 'gene')} matched {how}." for how, n in found.items() if n]
    return target, notes, ours, hint


def _add(target: Ints, names: pd.Index, model: pd.Index) -> int:
    """Match the remaining columns and genes by changed names, unless these are ambiguous."""
    open_columns = np.flatnonzero(target < 0)
    open_genes = np.setdiff1d(np.arange(len(model)), target)
    changed = model[open_genes]
    is_unique = ~changed.duplicated(keep=False)
    hit = changed[is_unique].get_indexer(names[open_columns])
    target[open_columns[hit >= 0]] = open_genes[is_unique][hit[hit >= 0]]
    return len(np.unique(hit[hit >= 0]))


def alignment_of(
    target: Ints,
    model: pd.Index,
    share: np.ndarray[Any, np.dtype[np.float64]] | None = None,
    *,
    column: str | None = None,
    messages: Sequence[str] = (),
) -> GeneAlignment:
    """Build the alignment in which ``target`` is the model gene of each column, or -1.

    ``share`` is the share of each gene in the reference's expression, by default equal.
    """
    used, n_genes = np.flatnonzero(target >= 0), len(model)
    source = np.full(n_genes, -1, dtype=np.int64)
    source[target[used[::-1]]] = used[::-1]  # the first column of each gene
    measured = source >= 0
    share = np.full(n_genes, 1 / max(1, n_genes)) if share is None else share
    if duplicated := tuple(model[np.bincount(target[used], minlength=n_genes) > 1]):
        summed = f"Columns with the same gene are summed: {examples(duplicated)}."
        messages = [*messages, summed]
    coverage, missing = min(1.0, float(share[measured].sum())), tuple(model[~measured])
    sizes = (n_genes, len(target), int(measured.sum()), coverage)
    n_extra = len(target) - len(used)
    report = GeneReport(*sizes, missing, duplicated, n_extra, column, tuple(messages))
    return GeneAlignment(source=source, target=target, measured=measured, report=report)


def _differ(species: Species, other: Species) -> bool:
    return species != other and "unknown" not in (species, other)


def _diagnose(
    names: list[str],
    model: list[str],
    species: tuple[Species, Species],
    n_measured: int,
    arguments: Mapping[str, str],
) -> str:
    """Compare the names with those of the model, and recommend what to do."""
    query_names, model_names = examples(map(visible, names), 2), examples(model, 2)
    shown = f"the query has names such as {query_names}, the model such as {model_names}"
    kind, model_kind = identifier_kind(names), identifier_kind(model)
    fold = f"pass {arguments['fold_case']}=True to " if "fold_case" in arguments else ""
    same = f", or {fold}match genes with the same name" if fold else ""
    how = f"{fold}match them" if fold else "rename them to those of the model"
    upper, required = pd.Index([name.upper() for name in names]), [name.upper() for name in model]
    n_folded, folded = len({*upper}.intersection(required)), find_change(upper, required)
    n_changed = folded.n if folded is not None and folded.n > n_folded else 0
    changed = f"when matched {folded.how} " if folded is not None else ""
    cases = {
        f"The model's genes are numbers ({shown}), which cannot be matched across files: train it "
        "on a reference whose var_names are gene names.": is_numbered(model),
        f"The columns look like cells ({shown}): pass adata.T.": share_barcodes(names) > 0.5,
        f"The columns have no gene names ({shown}): set adata.var_names to {model_kind} names.": (
            is_numbered(names) or (kind == "unknown" and model_kind != "unknown")
        ),
        f"The query has {kind} names and the model {model_kind} names ({shown}): set "
        f"adata.var_names to {model_kind} names, or store them in a column of adata.var.": (
            {kind, model_kind} == {"symbol", "ensembl"}
        ),
        f"The query looks like {species[0]} and the model like {species[1]} ({shown}): translate "
        f"the genes to {species[1]} orthologs first{same}.": _differ(*species),
        f"{n_changed:,} names differ only in case {changed}({shown}): rename them to those of the "
        "model.": n_changed > 2 * n_measured,
        f"{n_folded:,} names differ only in case ({shown}): {how}.": n_folded > 2 * n_measured,
    }
    otherwise = f"Check that query and model have the same genes ({shown})."
    return next((text for text, applies in cases.items() if applies), otherwise)
