"""Topics of a trained model."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.stats import mannwhitneyu
from sklearn.metrics import adjusted_rand_score

from hdeepinsight import SCE2TM
from hdeepinsight.metrics import topic_diversity

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_proportions_scores_and_labels_agree(trained):
    theta, z = trained.get_topic_proportions(), trained.get_latent_representation()
    assert theta.shape == z.shape == (420, 12)
    assert theta.index.equals(trained.adata.obs_names)
    exponents = np.exp(z - z.max(1, keepdims=True))
    assert_allclose(theta, exponents / exponents.sum(1, keepdims=True), rtol=1e-4, atol=1e-7)
    assert trained.predict().tolist() == [f"topic_{k}" for k in z.argmax(1)]
    some = np.array([5, 3, 3, 400])
    part = trained.get_topic_proportions(indices=some)
    assert list(part.index) == list(trained.adata.obs_names[some])
    assert_allclose(part, theta.iloc[some], rtol=1e-5, atol=1e-7)


def test_topics_follow_the_types(trained):
    types = trained.adata.obs["cell_type"]
    assert adjusted_rand_score(types, trained.predict()) > 0.4
    knowledge = trained.get_knowledge_assignments()
    assert_allclose(knowledge.sum(axis=1), 1, rtol=1e-5)
    agree = (knowledge.idxmax(axis=1) == trained.predict()).mean()
    assert agree > 0.3  # 0.08 by chance


def test_tables_of_genes(trained):
    loadings = trained.get_topic_gene()
    assert_allclose(loadings.sum(axis=0), 1, rtol=1e-5)
    top = trained.top_genes(3)
    assert top.shape == (12, 3)
    for topic, names in top.iterrows():
        assert list(names) == list(loadings.loc[topic].nlargest(3).index)
    topics, genes = trained.get_topic_embeddings(), trained.get_gene_embeddings()
    apart = ((topics.loc["topic_2"] - genes.loc["GENE7"]) ** 2).sum()
    ratio = loadings.loc["topic_2", "GENE7"] / loadings.loc["topic_0", "GENE7"]
    other = ((topics.loc["topic_0"] - genes.loc["GENE7"]) ** 2).sum()
    assert ratio == pytest.approx(np.exp((other - apart) / 0.2), rel=1e-3)


def test_differential_topics_are_those_of_a_test_per_group(trained):
    table = trained.differential_topics("lineage")
    assert set(table["group"]) == {"B", "T", "Myeloid"}
    z = trained.get_latent_representation()
    row = table.iloc[4]
    inside = (trained.adata.obs["lineage"] == row["group"]).to_numpy()
    scores = z[:, int(row["topic"].removeprefix("topic_"))]
    assert row["difference"] == pytest.approx(
        scores[inside].mean() - scores[~inside].mean(), rel=1e-4
    )
    assert row["p_value"] == pytest.approx(
        mannwhitneyu(scores[inside], scores[~inside]).pvalue, rel=1e-6
    )
    assert (table["p_adjusted"] >= table["p_value"]).all()
    assert table[table["differential"]]["difference"].min() > 1
    shuffled = np.random.default_rng(0).permutation(trained.adata.obs["lineage"])
    assert not trained.differential_topics(shuffled)["differential"].any()
    lineage = trained.adata.obs["lineage"]
    assert trained.differential_topics(lineage.astype("category")).equals(table)
    with pytest.raises(ValueError, match="an index of other cells, or in another order"):
        trained.differential_topics(lineage[::-1])
    with pytest.raises(ValueError, match="2 entries for 420 cells"):
        trained.differential_topics(["a", "b"])
    with pytest.raises(ValueError, match="at least two groups"):
        trained.differential_topics(["a"] * 420)


def test_perturbations_that_change_nothing(trained):
    same = trained.perturb_topics([0, 1, 2], ["topic_0", np.int64(3)], mode="shift", delta=0.0)
    assert same.before.equals(same.after)
    assert list(same.before.index) == list(trained.adata.obs_names[:3])
    assert_allclose(np.exp(same.before).sum(axis=1), 1, rtol=1e-4)
    theta = trained.get_topic_proportions()
    least = theta.iloc[:20].max().idxmin()
    gone = trained.perturb_topics(np.arange(420) < 20, [least])
    assert gone.log_fold_change.abs().max() < 20 * theta.iloc[:20][least].max() + 1e-6


def test_perturbations_move_cells_to_a_target(trained):
    lineage = trained.adata.obs["lineage"]
    source, target = (trained.adata[lineage == name] for name in ("B", "T"))
    every = trained.topic_names
    found = trained.perturb_topics(source, every, mode="set", target=target)
    assert found.shift_score > 0.5
    none = trained.perturb_topics(source, every, mode="shift", delta=0.0, target=target)
    assert none.shift_score == pytest.approx(0.0, abs=1e-6)
    assert found.log_fold_change.shape == (120,)
    assert trained.perturb_topics(source, [0]).towards is None
    with pytest.raises(ValueError, match="requires target cells"):
        _ = trained.perturb_topics(source, [0]).shift_score


def test_invalid_perturbations_are_refused(trained):
    for call, message in [
        ({"topics": ["topic_99"]}, "names or positions up to topic_11"),
        ({"topics": [12]}, "names or positions up to topic_11"),
        ({"topics": list(range(12))}, "Keep at least one topic"),
        ({"topics": [0], "mode": "set"}, "requires target cells"),
        ({"topics": [0], "mode": "double"}, "mode must be one of"),
    ]:
        with pytest.raises(ValueError, match=message):
            trained.perturb_topics([0, 1], **call)


def test_metrics_are_those_of_the_loadings(trained):
    sets = {"first": [f"GENE{i}" for i in range(10)], "second": [f"GENE{i}" for i in range(5, 40)]}
    found = trained.topic_metrics(sets, n_top=5)
    assert found["diversity"] == topic_diversity(trained.get_topic_gene(), n_top=5)
    assert found["quality"] == pytest.approx(found["coherence"] * found["diversity"])
    assert 0 <= found["n_sets"] <= found["n_hits"]


def test_numbers_of_topics_are_compared_between_seeds(cells):
    SCE2TM.setup_anndata(cells)
    model = SCE2TM(cells, n_topics=4, n_hidden=16, n_embed=8)
    found = model.select_n_topics([4, 8], seeds=(0, 1), max_epochs=2, **QUIET)
    assert list(found.index) == [4, 8]
    assert list(found.columns) == ["stability", "diversity", "loss"]
    assert found["stability"].between(0, 1.001).all()
    with pytest.raises(ValueError, match="two or more seeds"):
        model.select_n_topics([4], seeds=(0,))


def fitted(cells, key, seed, **options):
    SCE2TM.setup_anndata(cells, embedding_obsm_key=key)
    model = SCE2TM(cells, n_topics=12, n_hidden=32, n_embed=16, seed=seed, **options)
    model.train(60, batch_size=128, **QUIET)
    return model


@pytest.mark.slow
def test_transport_makes_topics_diverse_and_a_permuted_embedding_gains_nothing(cells):
    rng, types = np.random.default_rng(0), cells.obs["cell_type"]
    cells.obsm["X_permuted"] = rng.permutation(cells.obsm["X_other"])
    rows = []
    for seed in range(5):
        alone, flat = fitted(cells, None, seed), fitted(cells, None, seed, ecr_weight=0.0)
        misled = fitted(cells, "X_permuted", seed)
        transport = alone.history["ecr_train"].to_numpy().ravel()
        rows.append(
            {
                "gain": topic_diversity(alone.get_topic_gene(), n_top=5)
                - topic_diversity(flat.get_topic_gene(), n_top=5),
                "fall": transport[0] - transport[-1],
                "alone": adjusted_rand_score(types, alone.predict()),
                "permuted": adjusted_rand_score(types, misled.predict()),
            }
        )
    table = pd.DataFrame(rows)
    assert table["gain"].mean() > 0
    assert (table["fall"] > 0).all()
    assert table["permuted"].mean() < table["alone"].mean() + 0.02
