"""References that consist of datasets with different genes."""

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import f1_score

from hdeepinsight import SCHDeepInsight

LEVELS = ["lineage", "cell_type"]
LEAVES = {"level": "cell_type", "threshold": None, "reject": "off"}
KEYS = {"labels_keys": LEVELS, "batch_key": "study"}
#: Genes that the second study lacks: markers of each lineage and each type, and others.
LACKING = np.r_[0:3, 10:13, 20:23, [30 + 5 * i + j for i in range(7) for j in (0, 1)], 80:120]


@pytest.fixture(scope="module")
def studies(_synthetic_hierarchy):
    """Two studies with different genes, each with a type that the other lacks, and a query."""
    cells = _synthetic_hierarchy.copy()
    types = cells.obs["cell_type"].astype(str)
    names = np.unique(types)
    first, second = cells[:160], cells[160:320]
    first = first[types[:160] != names[0]].copy()
    second = second[types[160:320] != names[2]].copy()
    kept = np.setdiff1d(np.arange(cells.n_vars), LACKING)
    return first, second[:, kept].copy(), cells[320:].copy()


@pytest.fixture(scope="module")
def reference(studies):
    return ad.concat({"a": studies[0], "b": studies[1]}, join="outer", label="study")


@pytest.fixture(scope="module")
def model(fit, reference):
    return fit(reference.copy(), setup=KEYS | {"panel_key": "study"}, train={"max_epochs": 25})


def test_measured_genes_are_those_of_each_study(model, studies):
    panels = model.known_panels(model.adata.obs)
    for code, cells in enumerate(studies[:2]):
        found = np.asarray(model.genes)[panels.measured[code]]
        counted = cells.var_names[np.asarray(cells.X.sum(axis=0)).ravel() > 0]
        assert set(found) == set(counted) & set(model.genes)


def test_profiles_of_a_gene_are_those_of_the_study_that_has_it(model, studies):
    """`mean` of genes of the first study alone, over its training cells."""
    lacking = np.isin(model.genes, studies[0].var_names[LACKING])
    assert lacking.sum() > 50
    in_first = np.flatnonzero(model.adata.obs["study"] == "a")
    rows = np.intersect1d(in_first, model.train_indices)
    opened = model.open(model.adata, indices=rows)
    values = model.normalizer.log_normalize(opened.read(), np.ones(len(model.genes))).toarray()
    nodes = model.label_nodes()[rows]
    for k, leaf in enumerate(model.taxonomy.leaves):
        if (nodes == leaf).any():
            mean = values[nodes == leaf][:, lacking].mean(axis=0)
            np.testing.assert_allclose(model.profiles_.mean[k].numpy()[lacking], mean, atol=1e-5)


def test_macro_f1_of_other_donors_is_higher_than_if_zeros_are_read(fit, model, reference, studies):
    query = studies[2]
    naive = fit(reference.copy(), setup=KEYS, train={"max_epochs": 25})
    truth = query.obs["cell_type"].astype(str)
    scores = [
        f1_score(truth, each.predict(query, **LEAVES), average="macro") for each in (model, naive)
    ]
    assert scores[0] > scores[1] + 0.05
    assert scores[0] > 0.88


def test_cells_of_the_reference_are_read_with_the_genes_of_their_study(model, studies):
    joint = model.predict_proba()
    for name, cells in zip("ab", studies[:2], strict=True):
        own = cells[:, np.asarray(cells.X.sum(axis=0)).ravel() > 0].copy()
        alone = model.predict_proba(own)
        np.testing.assert_allclose(joint.loc[own.obs_names], alone, atol=2e-5)
        part = model.adata[model.adata.obs["study"] == name].copy()
        assert model.annotate(part).verdict.light == model.annotate(own).verdict.light
    assert model.evaluate().levels.loc["cell_type", "accuracy"] > 0.8


def test_held_out_cells_in_the_file_have_counts_of_all_genes(model):
    """Of genes that their study lacks, drawn from the profile of their type."""
    from_second = model.bank_.counts[:, np.isin(model.genes, [f"GENE{i}" for i in LACKING])]
    assert (np.diff(from_second.indptr) > 0).all()


def test_a_saved_model_keeps_its_panels(model, studies, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCHDeepInsight.load(tmp_path / "model", adata=False)
    np.testing.assert_array_equal(
        loaded.known_panels(model.adata.obs).measured, model.known_panels(model.adata.obs).measured
    )
    assert loaded.annotate(studies[2]).labels.equals(model.annotate(studies[2]).labels)
    assert loaded.known_panels(studies[2].obs) is None


def test_a_single_panel_changes_nothing(fit, synthetic_hierarchy):
    cells = synthetic_hierarchy[:200].copy()
    cells.obs["study"] = "one"
    plain, given = (
        fit(cells.copy(), setup={"labels_keys": LEVELS} | more, train={"max_epochs": 3})
        for more in ({}, {"panel_key": "study"})
    )
    np.testing.assert_array_equal(plain.predict_proba(cells), given.predict_proba(cells))
    np.testing.assert_array_equal(plain.bank_.shares, given.bank_.shares)


def test_a_cell_without_a_panel_is_refused(reference):
    cells = reference.copy()
    cells.obs["study"] = cells.obs["study"].astype(object).where(np.arange(cells.n_obs) > 3)
    with pytest.raises(ValueError, match="4 cells have no batch: 'study' is missing"):
        SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS, panel_key="study")
    with pytest.raises(KeyError, match="nowhere"):
        SCHDeepInsight.setup_anndata(cells, labels_keys=LEVELS, panel_key="nowhere")
