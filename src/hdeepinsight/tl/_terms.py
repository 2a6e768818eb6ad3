"""Compute probabilities of Cell Ontology terms, which may have several parents."""

from __future__ import annotations

import os
from collections.abc import Iterable

import numpy as np
import pandas as pd

from hdeepinsight._errors import invalid
from hdeepinsight.annotation import Annotation
from hdeepinsight.taxonomy import term_members


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
    ids = {tree.resolve(path): term for path, term in tree.ontology_ids.items()}
    if not ids:
        hint = "Add them with taxonomy.with_annotations(ontology_ids={'B': 'CL:0000236', ...})."
        raise invalid("result.taxonomy", tree, "a tree with Cell Ontology ids", hint)
    below = term_members(obo_path, terms, ids.values())
    own = [
        next((ids[node] for node in reversed(tree.ancestors(leaf).tolist()) if node in ids), "")
        for leaf in tree.leaves.tolist()
    ]
    leaves = np.asarray(result.node_probabilities)[:, tree.leaves]
    found = {
        term: leaves[:, [each in members for each in own]].sum(axis=1)
        for term, members in below.items()
    }
    return pd.DataFrame(found, index=result.obs_names)
