"""Read score and label tables of other tools, find contradictions, and sum ontology terms."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterable
from functools import reduce
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray

from hdeepinsight._errors import check_number, counted, examples, invalid, need_extra, refuse_path
from hdeepinsight.annotation import Annotation, check_decoding, label_nodes
from hdeepinsight.data import AlignedQuery
from hdeepinsight.taxonomy import Taxonomy, term_members
from hdeepinsight.tl._inputs import class_scores

#: Patterns of label columns, and the columns of their confidence, by tool. The first pattern that
#: matches is used, for all columns that it matches.
_LABELS: Final = {
    r"stop_label": "confidence",  # this package
    r"predicted_labels": "conf_score",  # CellTypist
    r"popv_prediction": "popv_prediction_score",  # popV: number of methods that agree
    r"prediction": "confidence",
    r"predicted\.(?!.*\.score$).+": r"\g<0>.score",  # Azimuth
    r"azimuth_(broad|medium|fine)": "",  # pan-human Azimuth
    r"(.+)_name": r"\1_bootstrapping_probability",  # MapMyCells
    r"pruned\.labels": "",  # SingleR
    r"(.+)_stop_label": r"\1_confidence",  # this package, in the obs of an AnnData
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
    """Read a table of scores or labels of another tool as an annotation.

    Parameters
    ----------
    adata
        Cells. Rows of the table are matched to them by name.
    scores
        Table, or the path of one (``.csv``, ``.tsv``, ``.parquet``), with the names of the cells
        as index or in the first column, and either:

        - one column of scores per class, as from LangCell, scGPT and CellTypist
          (``probability_matrix``, ``decision_matrix``); or
        - labels, and optionally their confidence, in the columns of this package
          (``stop_label``, ``confidence``; ``hdi_stop_label``, ``hdi_confidence``), CellTypist
          (``predicted_labels``, ``conf_score``), popV (``popv_prediction``,
          ``popv_prediction_score``), Azimuth (``predicted.celltype.l1``,
          ``predicted.celltype.l1.score``, ...; ``azimuth_broad``, ...), MapMyCells
          (``class_name``, ``class_bootstrapping_probability``, ...) or SingleR
          (``pruned.labels``), or in ``prediction`` and ``confidence``.
    taxonomy
        Taxonomy in which classes and labels are names, synonyms or paths, at any depth.
    temperature
        Divide scores by this and apply a softmax: 0.05 for the cosine similarities of LangCell, 1
        for logits. By default, numbers from 0 to 1 are probabilities, which are divided by their
        sum, and all others are logits.
    threshold
        Cells are labelled at the deepest node with a probability above this threshold; ``None`` for
        the most probable leaf.

    Returns
    -------
    Annotation
        An annotation for `refine`, `vote` and `consensus`. For labels at several levels, the
        deepest node that is consistent with all of them. There is a warning about cells with
        contradictory labels (see `contradictions`).

    Raises
    ------
    ValueError
        If cells are missing or repeated in the table, scores are not finite, or a class is not in
        the taxonomy.
    ImportError
        If pyarrow, which ``.parquet`` files require, is not installed.

    Warns
    -----
    UserWarning
        If the table has further cells, which are ignored, or labels at several levels contradict
        each other.

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
    refuse_path(adata)
    check_decoding(threshold)
    if temperature is not None:
        check_number("temperature", temperature, 1e-6, hint="Pass 1 for logits, or omit it.")
    table = _rows_of(_read(scores), pd.Index(adata.obs_names).astype(str))
    table.index = pd.Index(adata.obs_names)
    if levels := _levels(table):
        at = level_nodes(table[list(levels)], taxonomy)
        nodes, contradict = agreed_nodes(at, taxonomy)
        if n_cells := int(contradict.sum()):
            message = f"The labels of {counted(n_cells, 'cell')} of {len(table):,} at {len(levels)}"
            message += " levels contradict each other. These cells get the lowest common ancestor. "
            message += "hdi.tl.contradictions lists them."
            warnings.warn(message, UserWarning, stacklevel=2)
        labels = pd.Series(map(taxonomy.path_name, nodes.tolist()), table.index)
        depth = taxonomy.depth
        return Annotation.from_labels(
            labels.where(nodes > 0),
            taxonomy,
            confidence=_confidence(table, levels, depth[at] >= depth[nodes][:, None]),
            threshold=0.5 if threshold is None else threshold,
        )
    if text := [str(name) for name in table if table[name].dtype.kind not in "fiub"]:
        wrong = f"other values in {counted(len(text), 'column')}: {examples(text)}"
        hint = "Remove them, or name the column of labels 'prediction'."
        raise ValueError(f"Scores must be numbers, got {wrong}. {hint}")
    if temperature is not None:
        table = table / temperature
    # Raises for scores that are not finite, and for classes that are not in the taxonomy.
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
        problem = "has another suffix" if path.exists() else "does not exist"
        raise ValueError(
            f"scores must be a table, or a .csv, .tsv or .parquet file, got {path}, which "
            f"{problem}. Correct the path."
        )
    try:
        with path.open(encoding="utf-8-sig") as file:
            n_comments = sum(1 for _ in takewhile(lambda line: line.startswith("#"), file))
        how: dict[str, Any] = {"sep": separators[path.suffix]}
        table = pd.read_csv(path, index_col=0, skiprows=n_comments, **how)
        how |= {"header": None, "usecols": [0], "dtype": str, "keep_default_na": False}
        names = pd.read_csv(path, skiprows=n_comments + 1, **how)  # a cell may be called NA
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        found = f"a file that could not be read ({error}). Correct it."
        raise ValueError(f"{path} must be a table of scores, got {found}") from error
    return table.set_axis(names[0].to_numpy())


def _rows_of(table: pd.DataFrame, cells: pd.Index) -> pd.DataFrame:
    """Return the rows of the given cells in the same order."""
    table = table.set_axis(table.index.astype(str))
    for where, names in (("the table", table.index), ("the AnnData", cells)):
        if names.has_duplicates:
            repeated = names[names.duplicated()].unique()
            raise ValueError(
                "Names of cells must be unique, because scores are matched by name, got "
                f"{counted(len(repeated), 'name')} more than once in {where}: "
                f"{examples(repeated)}. Make the names unique."
            )
    if len(missing := cells.difference(table.index, sort=False)):
        found = f"none for {counted(len(missing), 'cell')} of {len(cells):,}: {examples(missing)}"
        raise ValueError(
            f"Each cell must have a row of scores, got {found}. The table has "
            f"{examples(table.index)}. Pass the table of these cells, or select its cells."
        )
    if n_more := len(table) - len(cells):
        message = f"Ignored {counted(n_more, 'other cell')} in the table of scores."
        warnings.warn(message, UserWarning, stacklevel=3)
    return table.loc[cells]


def _levels(table: pd.DataFrame) -> dict[str, str]:
    """Return the columns of labels, and for each the column of its confidence."""
    for pattern, confidence in _LABELS.items():
        found = [match for name in table if (match := re.fullmatch(pattern, str(name)))]
        if found:
            return {match[0]: match.expand(confidence) for match in found}
    return {}


def _confidence(table: pd.DataFrame, levels: dict[str, str], used: np.ndarray) -> pd.Series | None:
    """Return the confidence of each cell's label: the highest at or below the label's level.

    ``used`` marks these levels, bool, shape ``(n_cells, n_levels)``.
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
    confidence = values.where(used[:, given]).max(axis=1)
    if n_bad := int((~np.isfinite(confidence)).sum()):
        found = f"{counted(n_bad, 'cell')} with NaN in {examples(list(values))}"
        hint = "Fill it in, or remove the column."
        raise ValueError(f"Confidence must be a number from 0 to 1, got {found}. {hint}")
    return confidence


def level_nodes(labels: pd.DataFrame, taxonomy: Taxonomy) -> NDArray[np.int64]:
    """Return the node of each label in a table of the same shape; 0 for missing labels."""
    return np.column_stack([label_nodes(taxonomy, labels[name]) for name in labels])


def agreed_nodes(
    nodes: NDArray[np.int64], taxonomy: Taxonomy
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the deepest node consistent with all labels of each cell, and contradictions.

    For labels on a single path, this is the deepest label; otherwise it is the lowest common
    ancestor of all labels, and the labels contradict each other.

    Parameters
    ----------
    nodes
        Nodes of the labels, with levels in any order, shape ``(n_cells, n_levels)``; 0 for missing
        labels.
    taxonomy
        Taxonomy of the labels.

    Returns
    -------
    nodes, contradict
        Nodes, and whether labels contradict each other; both of shape ``(n_cells,)``.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.DataFrame({"l1": ["T", "T", "B"], "l2": ["CD4", None, "CD8"]})
    >>> agreed_nodes(level_nodes(labels, tree), tree)
    (array([3, 1, 0]), array([False, False,  True]))
    """
    rows, which = np.unique(nodes, axis=0, return_inverse=True)
    agreed, contradict = rows.max(axis=1, initial=0), np.zeros(len(rows), dtype=np.bool_)
    for i, row in enumerate(rows.tolist()):  # a deeper node has a larger index
        if not set(row) <= {0, *taxonomy.ancestors(int(agreed[i])).tolist()}:
            agreed[i], contradict[i] = reduce(taxonomy.lca, row), True
    return agreed[which.ravel()], contradict[which.ravel()]


def contradictions(labels: pd.DataFrame, taxonomy: Taxonomy) -> pd.DataFrame:
    """Count cells whose labels at several levels do not form a path of the taxonomy.

    Tools that predict each level independently may label a cell "B" at one level and "CD4 T" at the
    next.

    Parameters
    ----------
    labels
        One column per level, written by any tool, shape ``(n_cells, n_levels)``. Missing labels are
        ignored.
    taxonomy
        Taxonomy in which labels are names, synonyms or paths.

    Returns
    -------
    pandas.DataFrame
        One row per contradictory combination of labels, by decreasing frequency: the labels,
        ``agreed`` (their lowest common ancestor, ``"Unknown"`` if it is the root) and ``n_cells``.
        ``table["n_cells"].sum()`` is the number of cells with contradictory labels.

    Raises
    ------
    ValueError
        If there is no column, or a label is not in the taxonomy.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> tree = hdi.Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []})
    >>> labels = pd.DataFrame({"l1": ["T", "B", "B"], "l2": ["CD4", "CD4", "CD4"]})
    >>> hdi.tl.contradictions(labels, tree)
      l1   l2   agreed  n_cells
    0  B  CD4  Unknown        2
    """
    if not labels.shape[1]:
        hint = "Select the label columns, as in contradictions(adata.obs[['l1', 'l2']], taxonomy)."
        raise ValueError(f"labels must have one column per level, got no column. {hint}")
    nodes, contradict = agreed_nodes(level_nodes(labels, taxonomy), taxonomy)
    agreed = pd.Series([taxonomy.label(int(node)) for node in nodes], labels.index)
    table = labels.assign(agreed=agreed.where(nodes > 0, "Unknown"))[contradict].astype(str)
    found = table.value_counts(sort=True).rename("n_cells").reset_index()
    return found if len(found) else pd.DataFrame(columns=[*table, "n_cells"])


def term_probabilities(
    result: Annotation, obo_path: str | os.PathLike[str], terms: Iterable[str]
) -> pd.DataFrame:
    r"""Compute the probability of Cell Ontology terms, which may have several parents.

    Unlike a taxonomy, the ontology is not a tree: a CD4-positive regulatory T cell is a descendant
    of two terms. The probability of a term is the sum over all leaves of the taxonomy at or below
    it.

    Parameters
    ----------
    result
        Annotation with a taxonomy that has Cell Ontology ids.
    obo_path
        Local OBO file, such as cl-basic.obo.
    terms
        Ids (``"CL:0000084"``) or exact names, which need not be in the taxonomy.

    Returns
    -------
    pandas.DataFrame
        Probabilities, shape ``(n_cells, n_terms)``, with the ids of the terms as columns. A leaf
        without an id is assigned the id of its closest ancestor with one.

    Raises
    ------
    ValueError
        If the taxonomy has no ids, or an id or a term is not in the file or is obsolete.
    ImportError
        If pronto is not installed.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import hdeepinsight as hdi
    >>> import pandas as pd
    >>> obo = pathlib.Path(tempfile.mkdtemp(), "small.obo")
    >>> _ = obo.write_text(
    ...     "format-version: 1.4\n\n[Term]\nid: CL:1\nname: CD4 T\n\n[Term]\nid: CL:2\n"
    ...     "name: suppressor\n\n[Term]\nid: CL:3\nname: Treg\nis_a: CL:1\nis_a: CL:2\n"
    ... )
    >>> ids = {"Treg": "CL:3", "CD4 T": "CL:1"}
    >>> tree = hdi.Taxonomy.from_nested({"CD4 T": ["Treg"], "B": []}, ontology_ids=ids)
    >>> result = hdi.Annotation.from_labels(pd.Series(["Treg"], ["a"]), tree, confidence=[0.9])
    >>> hdi.tl.term_probabilities(result, obo, ["suppressor"])
       CL:2
    a   0.9
    """
    tree = result.taxonomy
    if not tree.ontology_ids:
        hint = "Add them with taxonomy.with_annotations(ontology_ids={'B': 'CL:0000236', ...})."
        raise invalid("result.taxonomy", tree, "a tree with Cell Ontology ids", hint)
    below = term_members(obo_path, terms, tree.ontology_ids.values())
    own = [tree.closest_ids[leaf] for leaf in tree.leaves]
    leaves = np.asarray(result.node_probabilities)[:, tree.leaves]
    found = {
        term: leaves[:, [each in members for each in own]].sum(axis=1)
        for term, members in below.items()
    }
    return pd.DataFrame(found, index=result.obs_names)
