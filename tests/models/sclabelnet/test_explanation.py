"""Attributions to the values of expressed genes."""

import numpy as np
import pytest

from hdeepinsight import SCLabelNet


@pytest.mark.parametrize("target", ["conditional", "joint", "logit"])
def test_attributions_sum_to_the_difference_and_the_error_falls(tokens_model, query, target):
    cells = query[:12].copy()
    errors = []
    for n_steps in (2, 64):
        found = tokens_model.explain(cells, ["T", "DC"], target=target, n_samples=n_steps)
        size = np.abs(found.outputs - found.base_values).max()
        errors.append(np.abs(found.additivity_error) / size)
    assert np.median(errors[1]) < 0.001
    assert errors[1].max() < 0.05
    assert errors[1].mean() < errors[0].mean()


@pytest.mark.usefixtures("network_alone")
def test_outputs_equal_the_predictions_of_the_model(tokens_model, query):
    found = tokens_model.explain(query[:12].copy(), "T", n_samples=2)
    said = tokens_model.predict_proba(query[:12].copy())["T"].to_numpy()
    np.testing.assert_allclose(np.exp(found.outputs), said, atol=1e-5)


def test_genes_without_tokens_get_no_attribution(tokens_model, query):
    found = tokens_model.explain(query[:12].copy(), "T", n_samples=2)
    expressed = query[:12, list(tokens_model.genes)].X.toarray() > 0
    assert np.abs(found.values[~expressed]).max() == 0
    assert found.ranking().index.isin(query.var_names).all()


def test_constant_values_have_no_attribution(reference, query, fit_tokens):
    model = fit_tokens(reference, train={"max_epochs": 1})
    table = model.module.backbone.values.weight
    table.data[:] = table.data[-1]  # every value is then unknown
    model.module.linear.weight.data[:] = 0.0
    assert np.abs(model.explain(query[:3].copy(), "T", n_samples=2).values).max() == 0


def test_the_note_names_the_profiles_and_the_cells_without_counts(tokens_model, query):
    cells = query[:6].copy()
    cells.X = np.where(np.arange(6)[:, None] == 0, 0, cells.X.toarray())
    note = tokens_model.explain(cells, "T", n_samples=2).note
    assert "without the profiles" in note
    assert "1 of 6 cells have no counts" in note


def test_each_cell_is_explained_for_its_own_node(tokens_model, query):
    found = tokens_model.explain(query[:6].copy(), level="lineage", n_samples=2)
    assert isinstance(tokens_model, SCLabelNet)
    assert len(found.values) == 6
    assert found.own.all()
