"""Labels from Cell Ontology ids."""

import pandas as pd
import pytest

from hdeepinsight import Taxonomy
from hdeepinsight.datasets import label_terms


def test_every_cell_gets_the_path_of_its_node():
    ids = {"T": "CL:0000084", "T > naive": "CL:0000895", "B": "CL:0000236"}
    tree = Taxonomy.from_paths(["T > naive", "B"], ontology_ids=ids)
    terms = pd.Series(["CL:0000895", "CL:0000236", "CL:0000084", "CL:9999999", None])
    with pytest.warns(UserWarning, match="1 cell of 5 get.*ids of the taxonomy: CL:9999999"):
        labels = label_terms(terms, tree)
    assert labels.tolist() == ["T > naive", "B", "T", "Unknown", "Unknown"]
    assert tree.encode(labels, unlabeled="Unknown")[:3].tolist() == [3, 2, 1]


def test_the_deeper_node_is_used_for_a_repeated_id():
    labels = label_terms(pd.Series(["CL:0000815"]), Taxonomy.immune())
    assert labels.tolist() == ["Treg > Treg"]
