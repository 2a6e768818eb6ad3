"""Comparison of queries with held-out cells: known and novel cells, doublets, empty droplets."""

from itertools import pairwise

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.annotation import (
    NO_LIMIT,
    QueryComparison,
    ReferenceBank,
    most_probable_leaf,
)
from hdeepinsight.taxonomy import Taxonomy

N_GENES, DEPTH = 400, 800
TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": ["naive", "memory"], "NK": []})
LEAVES = np.asarray(TREE.leaves)
EVERY = np.ones(N_GENES, dtype=bool)


def profiles(rng):
    """Return shares of genes, with thirty genes per lineage and ten per type raised."""
    lineages = {node: i for i, node in enumerate(np.unique(TREE.node_at_level[LEAVES, 0]))}
    base = rng.gamma(0.4, size=N_GENES) + 1e-3
    found = np.tile(base, (len(LEAVES), 1))
    for row, leaf in enumerate(LEAVES):
        first = 30 * lineages[TREE.node_at_level[leaf, 0]]
        found[row, first : first + 30] += 3 * base.mean()
        found[row, 200 + 10 * row : 210 + 10 * row] += 4 * base.mean()
    return found / found.sum(axis=1, keepdims=True)


PROFILES = profiles(np.random.default_rng(0))


def draw(shares, rng, depth=DEPTH, shape=20):
    """Draw counts of cells with these shares of genes, and variation around them."""
    noisy = shares * rng.gamma(shape, 1 / shape, size=shares.shape)
    return sparse.csr_matrix(
        np.stack([rng.multinomial(depth, row / row.sum()) for row in noisy]).astype(np.float32)
    )


def known_cells(n_cells, rng, depth=DEPTH):
    rows = rng.integers(len(LEAVES), size=n_cells)
    return draw(PROFILES[rows], rng, depth), LEAVES[rows]


def predict(counts):
    """Return node probabilities of a classifier that has the profiles."""
    scores = np.asarray(counts @ np.log(PROFILES).T) / 8
    leaf = np.exp(scores - scores.max(axis=1, keepdims=True))
    leaf /= leaf.sum(axis=1, keepdims=True)
    return leaf @ np.asarray(TREE.ancestor_matrix, dtype=float)


@pytest.fixture(scope="module")
def bank():
    rng = np.random.default_rng(1)
    return ReferenceBank.draw(TREE, known_cells(1500, rng), known_cells(400, rng))


def compare(bank, counts, measured=EVERY, predict_by_markers=None):
    """Compare cells with the reference; return columns, depths and reasons, too."""
    probabilities = predict(counts)
    comparison = QueryComparison(
        bank, TREE, measured, counts, probabilities, predict, predict_by_markers
    )
    columns = comparison.measure(counts, probabilities)
    leaf = most_probable_leaf(TREE, probabilities)
    return comparison, columns, *comparison.stops(columns, probabilities, leaf)


def test_cells_like_the_reference_keep_their_labels(bank):
    counts, _ = known_cells(600, np.random.default_rng(2))
    comparison, columns, depth, reasons = compare(bank, counts)
    assert comparison.similarity > 0.95
    assert 0.9 < comparison.distinctness < 1.1
    assert not comparison.is_foreign
    assert not comparison.splits
    for name, alpha in (("lineage_p_value", 0.05), ("type_p_value", 0.02)):
        assert (columns[name] <= alpha).mean() < 2 * alpha
    assert columns["is_ambient"].mean() < 0.01
    assert (depth == NO_LIMIT).mean() > 0.95
    assert ((reasons == "") == (depth == NO_LIMIT)).all()


@pytest.mark.parametrize("n_cells", [5, 30])
def test_few_cells_and_cells_of_one_type_are_not_foreign(bank, n_cells):
    rng = np.random.default_rng(3)
    pure = draw(np.repeat(PROFILES[:1], n_cells, axis=0), rng, shape=4)
    for counts in (pure, known_cells(n_cells, rng)[0]):
        comparison, _, depth, _ = compare(bank, counts)
        assert not comparison.is_foreign
        assert (depth == 0).mean() <= 0.2


def test_a_sorted_population_keeps_its_labels_and_its_empty_droplets_get_none(bank):
    rng = np.random.default_rng(4)
    counts = draw(np.repeat(PROFILES[:1], 300, axis=0), rng, shape=4)
    comparison, columns, depth, _ = compare(bank, counts)
    assert not comparison.is_foreign
    assert comparison.variation > 1.5
    assert columns["is_ambient"].mean() < 0.05
    assert (depth == 0).mean() < 0.05
    soup = np.asarray(counts.sum(axis=0)).ravel()
    empty = sparse.csr_matrix(rng.multinomial(DEPTH, soup / soup.sum(), size=300))
    comparison, _, depth, _ = compare(bank, empty.astype(np.float32))
    assert comparison.variation == pytest.approx(1, abs=0.15)
    assert (depth == 0).all()


def test_noise_gets_no_label(bank):
    for kind in ["shuffled", "renamed", "random"]:
        rng = np.random.default_rng(5)
        counts = known_cells(300, rng)[0].toarray()
        if kind == "shuffled":
            counts = rng.permuted(counts, axis=1)
        elif kind == "renamed":
            counts = counts[:, rng.permutation(N_GENES)]
        else:
            counts = rng.negative_binomial(0.5, 0.2, size=counts.shape).astype(np.float32)
        comparison, _, depth, reasons = compare(bank, sparse.csr_matrix(counts))
        assert comparison.similarity < 0.5
        assert (depth == 0).all()
        assert set(reasons) == {"the query does not look like the reference"}


def test_empty_droplets_get_no_label(bank):
    for alone in [True, False]:
        for depth in [20, 100, 500]:
            rng = np.random.default_rng(6)
            cells, _ = known_cells(500, rng)
            soup = np.asarray(cells.sum(axis=0)).ravel()
            empty = rng.multinomial(depth, soup / soup.sum(), size=200).astype(np.float32)
            query = sparse.csr_matrix(empty if alone else np.vstack([cells.toarray(), empty]))
            _, _, allowed, reasons = compare(bank, query)
            assert (allowed[-200:] == 0).mean() > 0.9
            if not alone:
                assert (allowed[:500] == 0).mean() < 0.05
            if depth == 20 and not alone:
                assert "the cell has too few counts to distinguish it from an empty droplet" in set(
                    reasons[-200:]
                )


def test_doublets_of_two_lineages_are_found(bank):
    rng = np.random.default_rng(7)
    cells, nodes = known_cells(700, rng)
    lineage = TREE.node_at_level[nodes, 0]
    one, other = rng.permutation(700), rng.permutation(700)
    two = np.flatnonzero(lineage[one] != lineage[other])[:70]
    both = cells[one[two]] + cells[other[two]]
    _, columns, *_ = compare(bank, sparse.vstack([cells, both], format="csr"))
    assert columns["is_doublet"][:700].mean() < 0.06
    assert columns["is_doublet"][700:].mean() > 0.8


def test_a_query_of_one_lineage_has_no_doublets(bank):
    counts = draw(np.repeat(PROFILES[1:3], 200, axis=0), np.random.default_rng(16))
    comparison, columns, depth, _ = compare(bank, counts)
    assert not columns["is_doublet"].any()
    assert "doublet_power" not in comparison.figures(columns, depth)


def test_the_share_of_doublets_does_not_hide_them(bank):
    rng = np.random.default_rng(17)
    cells, nodes = known_cells(600, rng)
    lineage = TREE.node_at_level[nodes, 0]
    one, other = rng.integers(600, size=(2, 600))
    two = np.flatnonzero(lineage[one] != lineage[other])[:150]
    both = cells[one[two]] + cells[other[two]]
    _, columns, *_ = compare(bank, sparse.vstack([cells, both], format="csr"))
    assert columns["is_doublet"][:600].mean() < 0.06
    assert columns["is_doublet"][600:].mean() > 0.8


def test_doublets_of_a_large_cell_and_a_small_one_are_found(bank):
    rng = np.random.default_rng(12)
    small, large = (
        draw(np.repeat(PROFILES[row : row + 1], 300, axis=0), rng, depth)
        for row, depth in ((0, 300), (2, 1500))
    )
    both = small[:40] + large[:40]  # five in six molecules are of one cell
    _, columns, *_ = compare(bank, sparse.vstack([small, large, both], format="csr"))
    assert columns["is_doublet"][600:].mean() > 0.9
    assert columns["is_doublet"][:600].mean() < 0.05


def test_droplets_hold_molecules_of_large_cells(bank):
    rng = np.random.default_rng(13)
    small, large = (
        draw(np.repeat(PROFILES[row : row + 1], 250, axis=0), rng, depth)
        for row, depth in ((0, 300), (2, 1500))
    )
    cells = sparse.vstack([small, large])
    soup = np.asarray(cells.sum(axis=0)).ravel()
    empty = sparse.csr_matrix(rng.multinomial(200, soup / soup.sum(), size=60).astype(np.float32))
    _, columns, *_ = compare(bank, sparse.vstack([cells, empty], format="csr"))
    assert columns["is_ambient"][500:].mean() > 0.95
    assert columns["is_ambient"][:500].mean() < 0.02


def test_cells_whose_genes_come_from_different_cells_get_no_label(bank):
    rng = np.random.default_rng(14)
    counts = rng.permuted(known_cells(300, rng)[0].toarray(), axis=0)
    comparison, columns, depth, reasons = compare(bank, sparse.csr_matrix(counts))
    assert comparison.similarity > 0.9  # the mean does not change
    assert comparison.distinctness < 0.3
    assert (depth == 0).all()
    assert set(reasons) == {"the query does not look like the reference"}
    assert comparison.figures(columns, depth)["distinctness"] == comparison.distinctness


def test_a_new_lineage_in_a_familiar_query_is_novel(bank):
    rng = np.random.default_rng(8)
    cells, _ = known_cells(500, rng)
    other = PROFILES.mean(axis=0)
    other[300:360] += 4 * other.mean()
    novel = draw(np.repeat(other[None] / other.sum(), 60, axis=0), rng)
    comparison, columns, *_ = compare(bank, sparse.vstack([cells, novel], format="csr"))
    assert not comparison.is_foreign
    p = columns["type_p_value"]
    assert (p[500:, None] < p[None, :500]).mean() > 0.9  # the area under the ROC curve


def test_a_new_lineage_called_by_a_known_one_lacks_its_markers(bank):
    rng = np.random.default_rng(11)
    cells, _ = known_cells(700, rng)
    without = PROFILES[1:2].copy()  # CD4 T
    without[:, :30] /= 8  # the genes of the lineage; those of the type remain
    novel = draw(np.repeat(without / without.sum(), 60, axis=0), rng)
    _, columns, *_ = compare(bank, sparse.vstack([cells, novel], format="csr"))
    p = columns["lineage_p_value"]
    assert (p[700:, None] < p[None, :700]).mean() > 0.9  # the area under the ROC curve
    assert (p[:700] <= 0.05).mean() < 0.05
    assert columns["no_lineage"][:700].mean() < 0.02


def test_a_new_lineage_has_markers_of_others(bank):
    rng = np.random.default_rng(17)
    cells, _ = known_cells(700, rng)
    mixed = PROFILES[1] + 0.5 * PROFILES[[3, 4]].mean(axis=0)  # CD4 T, with genes of B and NK
    novel = draw(np.repeat(mixed[None] / mixed.sum(), 60, axis=0), rng)
    _, columns, *_ = compare(bank, sparse.vstack([cells, novel], format="csr"))
    p = columns["lineage_p_value"]
    assert (p[700:, None] < p[None, :700]).mean() > 0.9  # the area under the ROC curve
    assert (p[:700] <= 0.05).mean() < 0.06


def test_a_split_that_markers_contradict_is_not_given(bank):
    rng = np.random.default_rng(9)
    counts, nodes = known_cells(600, rng)

    def predict_by_markers(cells):
        found = predict(cells)
        if cells.shape[0] != 600:
            return found  # of held-out cells
        swapped = found.copy()
        cd4, cd8 = (TREE.labels.index(name) for name in ("CD4", "CD8"))
        swapped[:, [cd4, cd8]] = found[:, [cd8, cd4]]
        return swapped

    comparison, _, depth, reasons = compare(bank, counts, predict_by_markers=predict_by_markers)
    of_t = np.isin(nodes, [TREE.labels.index("CD4"), TREE.labels.index("CD8")])
    assert (depth[of_t] <= 1).all()
    assert (depth[~of_t] == NO_LIMIT).mean() > 0.9
    assert any("CD4 and CD8 cannot be told apart in this query" in text for text in reasons)
    assert len(comparison.findings) == 1


def test_adapting_does_not_undo_a_stop(bank):
    counts, _ = known_cells(600, np.random.default_rng(9))
    cd4, cd8 = (TREE.labels.index(name) for name in ("CD4", "CD8"))

    def swapped(cells):
        found = predict(cells)
        if cells.shape[0] == 600:  # not of held-out cells
            found[:, [cd4, cd8]] = found[:, [cd8, cd4]]
        return found

    # The network contradicts the markers before adaptation only.
    stopped, free = (
        QueryComparison(
            bank, TREE, EVERY, counts, predict(counts), swapped, predict, adapted=adapted
        )
        for adapted in (True, False)
    )
    assert set(stopped.splits) == {cd4, cd8}
    assert not free.splits


def test_the_power_to_find_doublets_is_estimated(bank):
    counts, nodes = known_cells(500, np.random.default_rng(16))
    comparison, columns, depth, _ = compare(bank, counts)
    assert comparison.figures(columns, depth)["doublet_power"] > 0.9
    of_t = counts[TREE.node_at_level[nodes, 0] == TREE.labels.index("T")]
    pure, columns, depth, _ = compare(bank, of_t)
    assert "doublet_power" not in pure.figures(columns, depth)  # doublets need two lineages


def test_a_bank_survives_a_round_trip(bank):
    again = ReferenceBank.from_dict(bank.to_dict())
    assert (again.counts != bank.counts).nnz == 0
    for name in ("nodes", "shares", "n_cells"):
        np.testing.assert_array_equal(getattr(again, name), getattr(bank, name))


def test_results_are_reproducible(bank):
    counts, _ = known_cells(200, np.random.default_rng(10))
    one, other = (compare(bank, counts)[1] for _ in range(2))
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name])


def test_duplicated_cells_count_once(bank):
    counts, _ = known_cells(120, np.random.default_rng(15))
    once, few, *_ = compare(bank, counts)
    often, many, *_ = compare(bank, sparse.vstack([counts] * 16, format="csr"))
    assert often.similarity == once.similarity
    for name, values in few.items():
        np.testing.assert_array_equal(np.tile(values, 16), many[name])


@pytest.fixture
def novel_cells(taxonomy, annotated):
    """An annotation with random p-values."""
    rng = np.random.default_rng(8)
    result = annotated(taxonomy, n_cells=80)
    p = {name: rng.random(80) for name in ("type_p_value", "lineage_p_value")}
    return annotated(taxonomy, n_cells=80, novelty=pd.DataFrame(p, index=result.obs_names))


def test_rejection_only_moves_up_the_path(novel_cells):
    for unknown in ["lineage", "type"]:
        tree = novel_cells.taxonomy
        steps = [novel_cells.rejected(alpha, unknown=unknown) for alpha in (0.0, 0.1, 0.4, 1.0)]
        np.testing.assert_array_equal(steps[0].stop_nodes, novel_cells.stop_nodes)
        for lower, higher in pairwise(steps):
            for below, above in zip(lower.stop_nodes, higher.stop_nodes, strict=True):
                assert tree.lca(int(below), int(above)) == above
        assert (steps[-1].stop_nodes == 0).all()
        assert set(steps[-1].labels["stop_label"]) == {"Unknown"}
        np.testing.assert_array_equal(steps[-1].leaf_nodes, novel_cells.leaf_nodes)


def test_rejected_cells_stop_where_the_rule_says(novel_cells):
    p, tree = novel_cells.novelty, novel_cells.taxonomy
    at_root = (p["lineage_p_value"] <= 0.3).to_numpy()
    np.testing.assert_array_equal(
        novel_cells.rejected(0.3).stop_nodes, np.where(at_root, 0, novel_cells.stop_nodes)
    )
    far = (p["type_p_value"] <= 0.3).to_numpy() & ~at_root
    depth = tree.depth[novel_cells.rejected(0.3, unknown="type").stop_nodes]
    before = tree.depth[novel_cells.stop_nodes]
    np.testing.assert_array_equal(depth[far], np.minimum(before[far], 1))
    np.testing.assert_array_equal(depth[~far & ~at_root], before[~far & ~at_root])


def test_rejecting_twice_keeps_both(novel_cells):
    twice = novel_cells.rejected(0.1).rejected(0.3, unknown="type")
    back = novel_cells.rejected(0.3, unknown="type").rejected(0.1)
    np.testing.assert_array_equal(twice.stop_nodes, back.stop_nodes)


WRONG = [
    ({"alpha": -0.1}, "number from 0 to 1"),
    ({"alpha": 1.1}, "number from 0 to 1"),
    ({"unknown": "cell"}, "lineage"),
]


def test_bad_arguments_are_refused(novel_cells):
    for arguments, says in WRONG:
        with pytest.raises(ValueError, match=says):
            novel_cells.rejected(**arguments)


def test_rejection_without_novelty_is_refused(two_levels, annotated):
    with pytest.raises(ValueError, match=r"no novelty.*validation_size"):
        annotated(two_levels).rejected()


def test_p_values_follow_the_labels_in_the_frame(novel_cells):
    frame = novel_cells.to_frame()
    assert list(frame.columns[-2:]) == ["lineage_p_value", "type_p_value"]
    np.testing.assert_array_equal(frame["lineage_p_value"], novel_cells.novelty["lineage_p_value"])


def test_sorted_cells_are_not_called_empty_droplets():
    for cell_type in ["B", "NK", "CD4 T", "Monocyte"]:
        cells = hdi.datasets.pbmc3k()
        sorted_cells = cells[cells.obs["cell_type"] == cell_type].copy()
        result = hdi.hub.pull("pbmc").annotate(sorted_cells)
        assert result.verdict.light != "red"
        assert not result.novelty["is_ambient"].any()
        assert (result.stop_nodes == 0).mean() < 0.02


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::hdeepinsight.data.GeneCoverageWarning")
def test_progenitors_get_no_type_of_blood(hdi_data):
    cells = ad.read_h5ad(hdi_data / "bm_triana_citeseq.h5ad")
    result = hdi.hub.pull("pbmc").annotate(cells)
    novel = cells.obs["lineage"].isin(["Erythroid/Mk", "HSPC"]).to_numpy()
    has_type = np.isin(result.stop_nodes, result.taxonomy.leaves)
    assert has_type[novel].mean() < 0.1 < 0.75 < has_type[~novel].mean()
