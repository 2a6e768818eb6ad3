"""Topic scores compared with loops and hand computations."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from hdeepinsight.metrics import (
    topic_coherence,
    topic_diversity,
    topic_enrichment,
    topic_stability,
)

GENES = [f"G{i}" for i in range(40)]


@pytest.fixture
def loadings() -> np.ndarray:
    return np.random.default_rng(0).gamma(0.3, size=(6, 40))


@pytest.fixture
def gene_sets() -> dict[str, list[str]]:
    rng = np.random.default_rng(1)
    return {f"set {i}": list(rng.choice(GENES, 12, replace=False)) for i in range(25)}


def test_coherence_equals_a_loop_over_pairs(loadings, gene_sets):
    documents = list(map(set, gene_sets.values()))

    def share(*genes: str) -> float:
        return np.mean([set(genes) <= document for document in documents])

    values = []
    for row in loadings:
        top = [GENES[i] for i in np.argsort(-row)[:5]]
        for a, b in combinations(top, 2):
            joint = share(a, b)
            values.append(np.log(joint / share(a) / share(b)) / -np.log(joint) if joint else 0.0)
    found = topic_coherence(loadings, GENES, gene_sets, n_top=5)
    assert found == pytest.approx(np.mean(values), abs=1e-6)


def test_genes_without_documents_count_as_zero():
    sets = {"a": ["A", "B"], "b": ["C"]}
    assert topic_coherence([[3, 2, 1, 0]], ["A", "B", "C", "MT-CO1"], sets, n_top=2) == 1.0
    assert topic_coherence([[3, 0, 0, 2]], ["A", "B", "C", "MT-CO1"], sets, n_top=2) == 0.0
    with pytest.raises(ValueError, match="without any of them"):
        topic_coherence([[3, 2]], ["X", "Y"], sets, n_top=2)


def test_diversity_counts_genes_of_one_topic_only():
    assert topic_diversity(np.eye(3, 12).repeat(1, 0) + np.eye(3, 12, 3), n_top=2) == 1.0
    assert topic_diversity(np.ones((4, 12)), n_top=10) == 0.0
    assert topic_diversity([[3, 2, 1, 0], [3, 0, 1, 2]], n_top=2) == 0.5


def test_enrichment_equals_one_sided_fisher_tests(loadings, gene_sets):
    found = topic_enrichment(loadings, GENES, gene_sets, n_top=10, fdr=0.9)
    assert len(found.table) == 6 * 25
    row = found.table.iloc[30]
    top = {GENES[i] for i in np.argsort(-loadings[row["topic"]])[:10]}
    chosen = set(gene_sets[row["gene_set"]])
    assert row["overlap"] == len(top & chosen)
    p = []
    for name in gene_sets:
        inside = len(top & set(gene_sets[name]))
        table = [[inside, 10 - inside], [12 - inside, 40 - 22 + inside]]
        p.append(fisher_exact(table, alternative="greater").pvalue)
    order = np.argsort(p)
    adjusted = np.minimum.accumulate((np.array(p)[order] * 25 / np.arange(1, 26))[::-1])[::-1]
    expected = np.empty(25)
    expected[order] = np.minimum(adjusted, 1)
    np.testing.assert_allclose(found.table["p_adjusted"].iloc[25:50], expected, rtol=1e-8)
    hits = found.table["p_adjusted"] <= 0.9
    assert found.n_hits == hits.sum()
    assert found.uniqueness == found.table[hits]["gene_set"].nunique() / hits.sum()


def test_stability_is_one_for_topics_in_another_order(loadings):
    order = [3, 1, 0, 5, 4, 2]
    assert topic_stability([loadings, loadings[order], 3 * loadings]) == pytest.approx(1.0)
    other = np.random.default_rng(5).gamma(0.3, size=(6, 40))
    assert topic_stability([loadings, other]) < 0.8
    with pytest.raises(ValueError, match="at least two tables"):
        topic_stability([loadings])


def test_tables_that_do_not_fit_are_refused(loadings):
    with pytest.raises(ValueError, match="n_top must be an integer >= 2"):
        topic_diversity(loadings, n_top=1)
    with pytest.raises(ValueError, match="a table of 3 genes per topic"):
        topic_coherence(loadings, ["A", "B", "C"], {"a": ["A"]}, n_top=2)
