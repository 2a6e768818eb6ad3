"""Models are trained once, with all cells of the reference or without those of a label."""

import pytest
import trust
from harness.pairs import read_pairs
from harness.prepare import prepare
from methods.interface import read_reference
from methods.ours import VARIANTS, SCHDeepInsight


@pytest.fixture
def prepared(own_pair, tmp_path):
    return prepare(read_pairs(own_pair)[0], tmp_path, tmp_path / "work")


def test_a_reference_without_some_cells_has_the_classes_of_the_others(prepared):
    whole = read_reference(str(prepared.reference), ["lineage", "cell_type"], str(prepared.genes))
    part = whole[(whole.labels["cell_type"] != "CD8").to_numpy()]
    assert (whole.n_cells, part.n_cells) == (103, 73)
    assert part.tree.classes == tuple(c for c in whole.tree.classes if c[-1] != "CD8")
    assert [part.tree.classes[code][-1] for code in part.codes] == list(part.labels["cell_type"])


def test_a_model_that_was_kept_is_not_trained_again(prepared, tmp_path, monkeypatch):
    monkeypatch.setitem(VARIANTS["schdeepinsight"].train, "max_epochs", 1)
    monkeypatch.setitem(VARIANTS["schdeepinsight"].model, "layout", "random")
    first = trust.trained(prepared, 0, tmp_path / "models", ("cell_type", "CD8"))
    assert "CD8" not in first.taxonomy.labels
    monkeypatch.setattr(SCHDeepInsight, "_trained", None)
    again = trust.trained(prepared, 0, tmp_path / "models", ("cell_type", "CD8"))
    assert again.taxonomy == first.taxonomy
    with pytest.raises(TypeError):
        trust.trained(prepared, 1, tmp_path / "models", ("cell_type", "CD8"))
