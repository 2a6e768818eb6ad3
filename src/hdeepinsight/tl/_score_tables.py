"""Tables of scores that other tools wrote, read by the names of the cells."""

from __future__ import annotations

import os
import re
import warnings
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from hdeepinsight._errors import check_number, counted, examples, need_extra
from hdeepinsight.annotation import Annotation, check_decoding
from hdeepinsight.data import AlignedQuery
from hdeepinsight.tl._contradictions import agreed_nodes, level_nodes
from hdeepinsight.tl._inputs import class_scores

if TYPE_CHECKING:
    from anndata import AnnData

    from hdeepinsight.taxonomy import Taxonomy

#: Columns of labels and of their confidence, by those who write them; the first that matches
#: counts, in all columns where several levels have one.
_LABELS: Final = {
    r"predicted_labels": "conf_score",  # CellTypist
    r"popv_prediction": "popv_prediction_score",  # popV: how many methods agree
    r"prediction": "confidence",
    r"predicted\.(?!.*\.score$).+": r"\g<0>.score",  # Azimuth
    r"azimuth_(broad|medium|fine)": "",  # pan-human Azimuth
    r"(.+)_name": r"\1_bootstrapping_probability",  # MapMyCells
    r"pruned\.labels": "",  # SingleR
}
_COUNTED: Final = "popv_prediction_score"


def read_scores(
    adata: AnnData | AlignedQuery,
    scores: pd.DataFrame | str | os.PathLike[str],
    taxonomy: Taxonomy,
    *,
    temperature: float | None = None,
    threshold: float | None = 0.5,
) -> Annotation:
    """Read another tool's table of scores, or of labels, as an annotation.

    Parameters
    ----------
    adata
        The cells. Rows of the table are put into their order by name.
    scores
        Table, or the path of one (``.csv``, ``.tsv``, ``.parquet``), with the names of the cells
        as index or in the first column, and one of these:

        - a column of scores per class, as LangCell, scGPT and CellTypist
          (``probability_matrix``, ``decision_matrix``) give them;
        - labels, and their confidence if there is one, in the columns of CellTypist
          (``predicted_labels``, ``conf_score``), popV (``popv_prediction``,
          ``popv_prediction_score``), Azimuth (``predicted.celltype.l1``,
          ``predicted.celltype.l1.score``, ...; ``azimuth_broad``, ...), MapMyCells
          (``class_name``, ``class_bootstrapping_probability``, ...) or SingleR
          (``pruned.labels``), or in ``prediction`` and ``confidence``.
    taxonomy
        Tree in which classes and labels are names, synonyms or paths, at any depth.
    temperature
        Divide scores by this and take their softmax: 0.05 for the cosines of LangCell, 1 for
        logits. By default numbers from 0 to 1 are probabilities, which are divided by their sum,
        and all others logits.
    threshold
        A cell's path stops at the deepest node with more than this probability; ``None`` goes down
        to the leaf.

    Returns
    -------
    The annotation, which `refine`, `vote` and `consensus` take. Of labels at several levels it has
    the deepest one on which they agree; a warning counts the cells in which they contradict each
    other (see `contradictions`).

    Raises
    ------
    ValueError
        If cells are missing in the table or stand there twice, scores are not finite, or a class
        is not in the taxonomy.
    ImportError
        If a ``.parquet`` is to be read and pyarrow is not installed.

    Warns
    -----
    UserWarning
        If the table has other cells too, which are left out, or labels of several levels
        contradict each other.

    Examples
    --------
    >>> import anndata as ad
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> cells = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    >>> logits = pd.DataFrame({"CD4": [4.0, 0.0], "B": [0.0, 4.0]}, index=["b", "a"])
    >>> hdi.tl.read_scores(cells, logits, tree).labels["stop_label"].tolist()
    ['B', 'CD4']
    """
    check_decoding(threshold)
    if temperature is not None:
        check_number("temperature", temperature, 1e-6, hint="Pass 1 for logits, or omit it.")
    table = _of_cells(_read(scores), pd.Index(adata.obs_names).astype(str))
    table.index = pd.Index(adata.obs_names)
    if levels := _levels(table):
        at = level_nodes(table[list(levels)], taxonomy)
        nodes, contradict = agreed_nodes(at, taxonomy)
        if n_cells := int(contradict.sum()):
            warnings.warn(
                f"The labels of {counted(n_cells, 'cell')} of {len(table):,} at {len(levels)} "
                "levels contradict each other; these cells have the label above all of them. "
                "hdi.tl.contradictions lists them.",
                UserWarning,
                stacklevel=2,
            )
        labels = pd.Series(map(taxonomy.path_name, nodes.tolist()), table.index)
        depth = taxonomy.depth
        return Annotation.from_labels(
            labels.where(nodes > 0),
            taxonomy,
            confidence=_confidence(table, levels, depth[at] >= depth[nodes][:, None]),
            threshold=0.5 if threshold is None else threshold,
        )
    if text := [str(name) for name in table if table[name].dtype.kind not in "fiub"]:
        raise ValueError(
            f"Scores must be numbers, got other values in {counted(len(text), 'column')}: "
            f"{examples(text)}. Leave them out, or name the column of labels 'prediction'."
        )
    if temperature is not None:
        table = table / temperature
    # What follows checks that scores are finite and that the classes are in the tree.
    found = class_scores(adata, table, taxonomy=taxonomy)
    values = table.to_numpy(dtype=np.float64)
    if temperature is not None or (values < 0).any() or (values > 1).any():
        table = pd.DataFrame(found.probabilities(), table.index, list(found.classes))
    return Annotation.from_probabilities(table, taxonomy, threshold=threshold)


def _read(scores: pd.DataFrame | str | os.PathLike[str]) -> pd.DataFrame:
    if isinstance(scores, pd.DataFrame):
        return scores
    path = Path(scores)
    if path.suffix == ".parquet" and path.is_file():
        need_extra("pyarrow", "parquet", "Reading .parquet")
        table = pd.read_parquet(path)
        return table if table.index.dtype.kind not in "iu" else table.set_index(table.columns[0])
    separators = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
    if path.suffix not in separators or not path.is_file():
        raise ValueError(
            f"scores must be a table, or a file that ends in .csv, .tsv or .parquet, got {path}, "
            f"which {'ends otherwise' if path.exists() else 'is not there'}. Correct the path."
        )
    try:
        with path.open(encoding="utf-8-sig") as file:
            n_remarks = sum(1 for _ in takewhile(lambda line: line.startswith("#"), file))
        table = pd.read_csv(path, sep=separators[path.suffix], dtype={0: str}, skiprows=n_remarks)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} must be a table of scores, and could not be read as one ({error}). Correct it."
        ) from error
    return table.set_index(table.columns[0])


def _of_cells(table: pd.DataFrame, cells: pd.Index) -> pd.DataFrame:
    """Return the rows of the cells, in their order."""
    table = table.set_axis(table.index.astype(str))
    for what, names in (("The table", table.index), ("The AnnData", cells)):
        if names.has_duplicates:
            twice = names[names.duplicated()].unique()
            raise ValueError(
                f"Scores are matched to cells by name, so each must stand for one cell, got "
                f"{counted(len(twice), 'name')} more than once: {examples(twice)}. {what} holds "
                "them; make its names unique."
            )
    if len(missing := cells.difference(table.index, sort=False)):
        raise ValueError(
            f"Every cell must have a row of scores, got none for {counted(len(missing), 'cell')} "
            f"of {len(cells):,}: {examples(missing)}. The table names {examples(table.index)}; "
            "pass that of these cells, or select the cells that it has."
        )
    if n_more := len(table) - len(cells):
        warnings.warn(
            f"The table of scores has {counted(n_more, 'other cell')}, left out.",
            UserWarning,
            stacklevel=3,
        )
    return table.loc[cells]


def _levels(table: pd.DataFrame) -> dict[str, str]:
    """Return the columns of labels, each with the name of the column of its confidence."""
    for pattern, confidence in _LABELS.items():
        found = [match for name in table if (match := re.fullmatch(pattern, str(name)))]
        if found:
            return {match[0]: match.expand(confidence) for match in found}
    return {}


def _confidence(
    table: pd.DataFrame, levels: dict[str, str], counts: np.ndarray
) -> pd.Series | None:
    """Return the confidence of each cell's label: the highest of the levels that count for it.

    These are the one that says the label, and those below; ``counts`` has a column per level.
    """
    given = [name in table for name in levels.values()]
    if not any(given):
        return None
    values = table[[name for name in levels.values() if name in table]].astype(np.float64)
    if _COUNTED in values:
        own = [name for name in table if str(name).startswith("popv_")]
        other = ("popv_prediction", "popv_majority_vote_prediction", "popv_parent")
        methods = [name for name in own if name.endswith("_prediction") and name not in other]
        values = values / max(len(methods), values.max(axis=None), 1)
    said = values.where(counts[:, given]).max(axis=1)
    if n_bad := int((~np.isfinite(said)).sum()):
        raise ValueError(
            f"Confidence must be a number from 0 to 1, got {counted(n_bad, 'cell')} with NaN in "
            f"{examples(list(values))}. Fill it in, or leave the column out."
        )
    return said
