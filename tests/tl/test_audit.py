"""Label audits from counts to tables."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

from hdeepinsight import SCHDeepInsight, Taxonomy
from hdeepinsight.tl import LabelAudit, audit_labels

LEVELS = ["lineage", "cell_type"]


@pytest.fixture(scope="module")
def planted(_synthetic_hierarchy: AnnData) -> tuple[AnnData, dict[str, tuple[str, str]]]:
    """A reference with three wrong lineages and three wrong siblings."""
    adata = _synthetic_hierarchy.copy()
    adata.obs = adata.obs.astype(str)
    given = adata.obs["cell_type"].to_numpy()
    cells = [
        *np.flatnonzero(given == "DC")[:3],
        *np.flatnonzero(given == "CD4 T")[:3],
    ]
    wrong = [("B", "B naive")] * 3 + [("T", "gd T")] * 3
    for cell, (lineage, cell_type) in zip(cells, wrong, strict=True):
        adata.obs.iloc[cell, [0, 1]] = [lineage, cell_type]
    return adata, dict(zip(adata.obs_names[cells], wrong, strict=True))


@pytest.fixture(scope="module")
def audit(planted: tuple[AnnData, dict]) -> LabelAudit:
    return audit_labels(planted[0], labels_keys=LEVELS, batch_key="batch", least_margin=0.3)


def test_planted_wrong_labels_are_found_and_corrected(
    planted: tuple[AnnData, dict], audit: LabelAudit
) -> None:
    found = audit.cells[audit.suspicious]
    assert set(found.index) == set(planted[1])
    assert found.loc[list(planted[1]), "suggested"].tolist() == ["DC"] * 3 + ["CD4 T"] * 3
    assert found.loc[list(planted[1]), "divergence"].tolist() == [1] * 3 + [2] * 3


def test_agreed_nodes_are_common_ancestors_of_label_and_suggestion(
    planted: tuple[AnnData, dict], audit: LabelAudit
) -> None:
    rows = audit.obs_names.get_indexer(list(planted[1]))
    lineage = audit.taxonomy.encode(["T"])[0]
    assert audit.agreed_nodes[rows].tolist() == [0] * 3 + [lineage] * 3
    others = np.setdiff1d(np.arange(len(audit)), rows)
    np.testing.assert_array_equal(audit.agreed_nodes[others], audit.nodes[others])
    assert (audit.weight[others] == 1).all()
    assert (audit.weight[rows] < 0.5).all()


def test_tables_count_every_cell_once(audit: LabelAudit) -> None:
    for level in LEVELS:
        rows = audit.classes.loc[level]
        assert rows["n_cells"].sum() == 420
        assert rows["n_suspicious"].sum() == 6
    assert audit.summary()["n_cells"].tolist() == [3, 3]
    assert audit.summary()["share"].to_numpy() == pytest.approx([3 / 63, 3 / 63])
    assert "6 suspicious labels, 3 of them at lineage" in repr(audit)


def test_same_seed_same_result(planted: tuple[AnnData, dict], audit: LabelAudit) -> None:
    again = audit_labels(planted[0], labels_keys=LEVELS, batch_key="batch", least_margin=0.3)
    pd.testing.assert_frame_equal(again.cells, audit.cells)


def test_order_of_cells_does_not_change_given_probabilities(
    planted: tuple[AnnData, dict], audit: LabelAudit
) -> None:
    adata = planted[0]
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(7), size=adata.n_obs) @ audit.taxonomy.ancestor_matrix.astype(float)
    order = rng.permutation(adata.n_obs)
    one = audit_labels(adata, labels_keys=LEVELS, probabilities=p)
    two = audit_labels(
        adata[order].copy(), labels_keys=LEVELS, probabilities=p[order], taxonomy=one.taxonomy
    )
    assert two.cells["margin"].equals(one.cells["margin"].iloc[order])


def test_consistent_probabilities_raise_no_suspicion(planted: tuple[AnnData, dict]) -> None:
    adata = planted[0]
    tree = Taxonomy.from_obs(adata, LEVELS)
    nodes = tree.encode_levels(adata.obs[LEVELS])
    exact = np.eye(tree.n_leaves)[np.searchsorted(tree.leaves, nodes)]
    p = exact @ tree.ancestor_matrix.astype(float)
    result = audit_labels(adata, labels_keys=LEVELS, probabilities=p, least_margin=0.0)
    assert not result.suspicious.any()
    assert (result.margin == 1).all()
    assert (result.classes["recognised"] == 1).all()


def test_suspicious_labels_are_limited_to_max_share(planted: tuple[AnnData, dict]) -> None:
    result = audit_labels(planted[0], labels_keys=LEVELS, least_margin=0.5, max_share=0.02)
    shares = result.cells.groupby("given", observed=True)["suspicious"].mean()
    assert shares.max() <= 0.02
    assert any("B naive: 2 contradicted cells" in note for note in result.notes)


def test_tiny_and_unlabelled_classes_are_not_audited_and_named(
    synthetic_hierarchy: AnnData,
) -> None:
    adata = synthetic_hierarchy
    adata.obs = adata.obs.astype(str)
    adata.obs.iloc[:4, [0, 1]] = ["Tiny", "tiny"]
    adata.obs.iloc[4:9, [0, 1]] = "Unknown"
    result = audit_labels(adata, labels_keys=LEVELS)
    assert not result.judged[:9].any()
    assert result.judged[9:].all()
    assert np.isnan(result.probability[:9]).all()
    assert any(note.startswith("tiny: not audited, 4 cells") for note in result.notes)
    assert "tiny" not in set(result.cells["suggested"][4:])


def test_nothing_is_written_before_it_is_asked_for(
    planted: tuple[AnnData, dict], audit: LabelAudit, tmp_path: object
) -> None:
    adata = planted[0].copy()
    columns, values = list(adata.obs), adata.X.copy()
    audit_labels(adata, labels_keys=LEVELS)
    assert list(adata.obs) == columns
    assert (values != adata.X).nnz == 0
    audit.to_adata(adata, key_added="check")
    assert adata.obs["check_suspicious"].sum() == 6
    given = zip(
        adata.obs["check_given"].cat.categories, adata.uns["check_given_colors"], strict=True
    )
    suggested = zip(
        adata.obs["check_suggested"].cat.categories,
        adata.uns["check_suggested_colors"],
        strict=True,
    )
    assert dict(given).items() <= dict(suggested).items()  # a label has one colour
    adata.write_h5ad(f"{tmp_path}/audited.h5ad")
    stored = read_h5ad(f"{tmp_path}/audited.h5ad")
    assert stored.obs["check_suggested"].tolist() == audit.cells["suggested"].tolist()
    with pytest.raises(ValueError, match="not the same in the same order"):
        audit.to_adata(adata[:10].copy())


def test_bad_input_is_named(synthetic_hierarchy: AnnData) -> None:
    for options, error, match in [
        ({}, ValueError, "one of labels_key, .* got 0"),
        ({"labels_key": "cell_type", "labels_keys": LEVELS}, ValueError, "got 2"),
        ({"labels_key": "type"}, KeyError, "obs has no column 'type'"),
        ({"labels_key": "cell_type", "batch_key": "donor"}, KeyError, "donor"),
        (
            {"labels_keys": LEVELS, "n_folds": 1},
            ValueError,
            "n_folds must be an integer >= 2, got 1",
        ),
        (
            {"labels_keys": LEVELS, "least_margin": 1.5},
            ValueError,
            "least_margin must be .* got 1.5",
        ),
        ({"labels_keys": LEVELS, "max_share": -0.1}, ValueError, "max_share must be .* got -0.1"),
        (
            {"labels_keys": LEVELS, "n_folds": 200},
            ValueError,
            "At least two labels must have n_folds=200",
        ),
        ({"labels_keys": LEVELS, "probabilities": np.ones((3, 2))}, ValueError, "n_nodes"),
        ({"labels_keys": LEVELS, "probabilities": [[95.0]]}, ValueError, "got 95 to 95 of shape"),
        ({"labels_keys": LEVELS, "n_folds": 2.5}, ValueError, "integer"),
        ({"nodes": np.ones(3)}, ValueError, "must be nodes of a taxonomy, got none"),
        ({"labels_keys": LEVELS, "probabilities": [[1.0]], "seed": 1}, ValueError, "seed has no"),
    ]:
        with pytest.raises(error, match=match):
            audit_labels(synthetic_hierarchy, **options)


def test_cells_without_a_batch_form_one_batch(planted: tuple[AnnData, dict]) -> None:
    adata = planted[0].copy()
    taxonomy = Taxonomy.from_obs(adata, LEVELS)
    nodes = taxonomy.encode_levels(adata.obs[LEVELS])
    adata.obs["batch"] = adata.obs["batch"].where(np.arange(adata.n_obs) % 3 > 0)
    found = audit_labels(
        adata,
        labels_keys=LEVELS,
        batch_key="batch",
        probabilities=taxonomy.ancestor_matrix[np.searchsorted(taxonomy.leaves, nodes)].tolist(),
    )
    assert found.classes["largest_batch"].notna().all()


def test_folds_follow_batches_where_a_label_is_in_several() -> None:
    batch, given = np.repeat(["a", "b", "a"], [80, 80, 40]), np.repeat(list("TBTBN"), 40)
    marker = np.repeat(np.arange(5), 40)  # the types have other markers in the other batch
    rates = 1 + 19 * np.eye(5)[marker]
    counts = np.random.default_rng(0).poisson(np.hstack([rates, rates])).astype("float32")
    obs = pd.DataFrame({"cell_type": given, "batch": batch}, index=np.arange(200).astype(str))
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"GENE{i}" for i in range(10)]))
    by_cell = audit_labels(adata, labels_key="cell_type", n_folds=2).probability
    by_batch = audit_labels(adata, labels_key="cell_type", n_folds=2, batch_key="batch").probability
    assert np.median(by_cell) > 0.6
    assert np.median(by_batch[:160]) < 0.5
    assert np.median(by_batch[160:]) > 0.55  # N is in one batch only, and assigned by cell


def train(adata: AnnData, **options: object) -> SCHDeepInsight:
    SCHDeepInsight.setup_anndata(adata, labels_keys=LEVELS)
    model = SCHDeepInsight(adata, layout="random", seed=0)
    model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False, **options)
    return model


def weights(model: SCHDeepInsight) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.module.parameters()])


def test_training_takes_an_audit(planted: tuple[AnnData, dict], audit: LabelAudit) -> None:
    adata = planted[0].copy()
    plain, audited = train(adata), train(adata, audit=audit)
    on_training = np.isin(np.flatnonzero(audit.suspicious), audited.train_indices)
    assert audited.recipe["n_lifted_labels"] == on_training.sum() > 0
    assert "n_lifted_labels" not in plain.recipe
    assert not np.array_equal(weights(plain), weights(audited))
    spotless = replace(audit, suspicious=np.zeros(len(audit), dtype=bool))
    np.testing.assert_array_equal(weights(plain), weights(train(adata, audit=spotless)))
    own = train(adata, audit=True)
    assert own.recipe["n_lifted_labels"] <= on_training.sum()


def test_training_refuses_an_audit_of_other_cells_or_another_tree(
    planted: tuple[AnnData, dict], audit: LabelAudit
) -> None:
    with pytest.raises(ValueError, match="not the same in the same order"):
        train(planted[0][:-20].copy(), audit=audit)
    other = audit_labels(planted[0], labels_key="cell_type")
    with pytest.raises(ValueError, match="must use the taxonomy"):
        train(planted[0].copy(), audit=other)
