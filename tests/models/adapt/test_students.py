"""Students: models trained on a reference and on a query with the labels of another model."""

import copy

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse

from hdeepinsight import SCHDeepInsight
from hdeepinsight.data import InputError

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def other_donors(_synthetic_hierarchy: ad.AnnData) -> ad.AnnData:
    """The last cells of the fixture with gene-specific capture rates, and a gene missing."""
    cells = _synthetic_hierarchy[300:].copy()
    rng = np.random.default_rng(5)
    counts = cells.X.toarray() * np.exp(rng.normal(0, 0.8, cells.n_vars))
    cells.X = sparse.csr_matrix(rng.poisson(counts).astype(np.float32))
    return cells[:, 1:].copy()


@pytest.fixture(scope="module")
def student(model: SCHDeepInsight, other_donors: ad.AnnData) -> SCHDeepInsight:
    return model.train_student(other_donors, **QUIET)


def macro_f1(model: SCHDeepInsight, query: ad.AnnData) -> float:
    return model.evaluate(query).levels.loc["cell_type", "macro_f1"]


def test_is_no_worse_on_its_query(model, student, other_donors) -> None:
    assert macro_f1(student, other_donors) >= macro_f1(model, other_donors)
    assert student.evaluate().levels.loc["cell_type", "macro_f1"] > 0.9


def test_is_a_model_like_the_other(model, student, other_donors) -> None:
    assert type(student) is type(model)
    assert student.taxonomy == model.taxonomy
    assert student.genes == model.genes
    assert student.adata is model.adata
    assert np.array_equal(np.sort(student.held_out_), np.sort(model.held_out_))
    assert student.calibration is not None
    assert student.bank_ is not None
    same = ("max_epochs", "batch_size", "lr", "weight_decay", "n_cells", "n_held_out", "split_key")
    assert {n: student.recipe[n] for n in same} == {n: model.recipe[n] for n in same}
    said = student.recipe["student"]
    assert (said["n_cells"], said["n_genes"], len(said["sha256"])) == (120, 119, 64)
    assert repr(student).endswith("; student trained on 120 query cells")
    assert student.explain(other_donors[:3], n_samples=2).values.shape[0] == 3


def test_changes_neither_model_nor_data(model, other_donors) -> None:
    weights = {name: value.clone() for name, value in model.module.state_dict().items()}
    recipe, said = copy.deepcopy(model.recipe), repr(model)
    before = [copy.deepcopy(data) for data in (model.adata, other_donors)]
    model.train_student(other_donors, max_epochs=1, **QUIET)
    assert (model.recipe, repr(model)) == (recipe, said)
    assert all(torch.equal(v, weights[n]) for n, v in model.module.state_dict().items())
    for data, then in zip((model.adata, other_donors), before, strict=True):
        assert (data.X != then.X).nnz == 0
        assert data.obs.equals(then.obs)
        assert list(data.uns) == list(then.uns)
        assert list(data.obsm) == list(then.obsm)


def test_is_saved_and_loaded_and_teaches_again(student, other_donors, tmp_path) -> None:
    student.save(tmp_path / "student")
    loaded = SCHDeepInsight.load(tmp_path / "student", adata=student.adata)
    assert repr(loaded) == repr(student)
    assert loaded.recipe == student.recipe
    of_both = [each.annotate(other_donors).node_probabilities for each in (loaded, student)]
    assert np.array_equal(*of_both)
    again = loaded.train_student(loaded.open(other_donors), max_epochs=1, **QUIET)
    assert np.array_equal(np.sort(again.held_out_), np.sort(student.held_out_))
    again.train(max_epochs=1, validation_size=0.2, **QUIET)
    assert "student" not in again.recipe


def test_genes_that_the_query_lacks_are_never_shown(model, other_donors, monkeypatch) -> None:
    seen = []
    inference = type(model.module).inference

    def spy(self, counts, measured, *args, **kwargs):
        if self.training:
            seen.append(measured)
        return inference(self, counts, measured, *args, **kwargs)

    monkeypatch.setattr(type(model.module), "inference", spy)
    model.train_student(other_donors, max_epochs=1, **QUIET)
    lacking = model.genes.index("GENE0")
    for measured in seen:
        own, added = measured.chunk(2)
        assert not added[:, lacking].any()
        assert own[:, lacking].any()
        assert added.any()


def test_members_teach_members_of_which_some_must_not_see_a_label(
    synthetic_hierarchy, other_donors, fit
) -> None:
    few = synthetic_hierarchy[:60].copy()
    with pytest.warns(UserWarning, match="No cells are held out"):
        model = fit(few, n_members=2, train={"max_epochs": 1})
    with pytest.warns(UserWarning, match="No cells are held out"):
        student = model.train_student(other_donors, **QUIET)
    assert student.module.n_members == 2
    assert student.recipe["cross_fitted"]
    assert student.calibration.source == model.calibration.source


def test_students_that_cannot_be_trained_are_refused(model, other_donors, tmp_path) -> None:
    with pytest.raises(InputError, match=r"50 cells of the query.*at least 100"):
        model.train_student(other_donors[:50].copy())
    noise = other_donors.copy()
    noise.var_names = np.random.default_rng(0).permutation(noise.var_names)
    with pytest.raises(InputError, match="which are unreliable here"):
        model.train_student(noise)
    adapted = SCHDeepInsight.load_query_data(other_donors, model)
    with pytest.raises(ValueError, match="requires a reference model, got a query model"):
        adapted.train_student(other_donors)
    model.save(tmp_path / "m")
    with pytest.raises(ValueError, match="no reference attached"):
        SCHDeepInsight.load(tmp_path / "m", adata=False).train_student(other_donors)
