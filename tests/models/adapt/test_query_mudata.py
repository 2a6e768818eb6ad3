"""Adapting to, and refining, a query of RNA and proteins, or of one of them."""

import anndata as ad
import mudata as md
import numpy as np
import pytest
import torch
from paired import make_mudata, subset

import hdeepinsight as hdi
from hdeepinsight.adaptation import use_adapters
from hdeepinsight.data import own_columns

LEVELS = ["lineage", "cell_type"]
QUERY = slice(300, None)


@pytest.fixture(scope="module", autouse=True)
def _quiet_mudata():
    with own_columns():
        yield


@pytest.fixture(scope="module")
def paired(_synthetic_hierarchy: ad.AnnData) -> md.MuData:
    return make_mudata(_synthetic_hierarchy)


@pytest.fixture(scope="module")
def joint(paired: md.MuData) -> hdi.SCHDeepInsight:
    """Trained on RNA and proteins."""
    reference = paired[:300].copy()
    hdi.SCHDeepInsight.setup_mudata(reference, labels_keys=LEVELS)
    model = hdi.SCHDeepInsight(reference, layout="random", n_latent=256)
    model.train(12, validation_size=0.2, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture(scope="module")
def rna_model(paired: md.MuData) -> hdi.SCHDeepInsight:
    """Trained on the RNA of the same cells."""
    reference = paired.mod["rna"][:300].copy()
    reference.obs = paired.obs.iloc[:300].copy()
    hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=LEVELS)
    model = hdi.SCHDeepInsight(reference, layout="random")
    model.train(12, validation_size=0.2, enable_progress_bar=False, accelerator="cpu")
    return model


@pytest.fixture
def query(paired: md.MuData) -> md.MuData:
    return subset(paired, QUERY)


@pytest.fixture(scope="module")
def truth(paired: md.MuData) -> np.ndarray:
    return paired.obs["cell_type"].astype(str).to_numpy()[QUERY]


def adapted(query, model, **options):
    mapped = hdi.SCHDeepInsight.load_query_data(query, model, **options)
    mapped.train(max_steps=20, guard=False)
    return mapped


def accuracy(result, truth):
    return (result.label_column("cell_type").astype(str).to_numpy() == truth).mean()


def test_proteins_take_part_in_adapting(joint, query, truth):
    both, rna = adapted(query, joint), adapted(query.mod["rna"], joint)
    assert accuracy(both.annotate(threshold=None), truth) > 0.9
    assert not np.allclose(
        both.annotate().node_probabilities, rna.annotate().node_probabilities, atol=1e-3
    )


@pytest.mark.parametrize("as_mudata", [True, False], ids=["rna_of_a_mudata", "anndata"])
def test_a_joint_model_adapts_to_rna_alone(joint, paired, truth, as_mudata):
    """The same in either form."""
    rna = subset(paired, QUERY, ["rna"])
    expected = adapted(paired.mod["rna"][QUERY].copy(), joint).annotate(threshold=None)
    found = adapted(rna if as_mudata else rna.mod["rna"], joint).annotate(threshold=None)
    np.testing.assert_array_equal(found.node_probabilities, expected.node_probabilities)
    assert accuracy(found, truth) > 0.8


def test_a_model_of_rna_adapts_to_the_rna_of_a_mudata(rna_model, query):
    expected = adapted(query.mod["rna"], rna_model).annotate()
    found = adapted(query, rna_model).annotate()
    np.testing.assert_array_equal(found.node_probabilities, expected.node_probabilities)


@pytest.mark.parametrize("where", ["whole", "rna"])
def test_batches_and_labels_are_found_where_they_are(joint, query, paired, where):
    """In the obs of the MuData, and in that of its RNA."""
    columns = paired.obs.iloc[QUERY][["batch", "cell_type"]].astype(str)
    table = query.obs if where == "whole" else query.mod["rna"].obs
    for key in columns:
        table[key] = columns[key].to_numpy()
    mapped = adapted(query, joint, batch_key="batch", labels_key="cell_type")
    assert mapped.adapter_.batches == ("first", "second")
    assert mapped.adaptation.n_labeled == query.n_obs
    one = adapted(query, joint)
    assert not np.array_equal(
        mapped.annotate().node_probabilities, one.annotate().node_probabilities
    )


def test_cells_without_rna_keep_the_probabilities_of_the_network(joint, query, paired):
    some = md.MuData({"rna": query.mod["rna"][20:].copy(), "prot": query.mod["prot"].copy()})
    some = some[query.obs_names].copy()
    mapped = adapted(some, joint)
    found = mapped.annotate().node_probabilities
    proteins = mapped.open(some).extra.proteins[:20]
    inputs = {
        "counts": torch.zeros(20, len(mapped.layout.genes)),
        "measured": torch.zeros(20, len(mapped.layout.genes)),
        "proteins": torch.from_numpy(proteins.counts),
        "proteins_measured": torch.from_numpy(proteins.measured).float(),
    }
    with use_adapters(mapped.module, np.zeros(20)):
        network = mapped.module.predict(**inputs)["probabilities"]
    np.testing.assert_allclose(found[:20], network, atol=1e-6)


def test_proteins_alone_leave_the_model_as_it_is(joint, paired):
    alone = subset(paired, QUERY, ["prot"])
    mapped = hdi.SCHDeepInsight.load_query_data(alone, joint)
    mapped.train(max_steps=2)
    assert not mapped.is_adapted
    assert "none of the genes" in mapped.adaptation.reason
    np.testing.assert_array_equal(
        mapped.annotate().node_probabilities, joint.annotate(alone).node_probabilities
    )


def test_a_query_without_rna_is_refused_by_a_model_of_rna(rna_model, paired):
    with pytest.raises(hdi.data.InputError, match="no RNA and no protein"):
        hdi.SCHDeepInsight.load_query_data(subset(paired, QUERY, ["prot"]), rna_model)


def test_one_call_takes_a_mudata(joint, query, truth):
    result = hdi.annotate(query, joint, threshold=None)
    assert [d.step for d in result.decisions] == ["adapt", "refine"]
    assert accuracy(result, truth) > 0.9


def test_one_call_takes_a_file(joint, query, tmp_path):
    query.write_h5mu(tmp_path / "query.h5mu")
    expected = hdi.annotate(query, joint, adapt="off")
    found = hdi.annotate(tmp_path / "query.h5mu", joint, adapt="off")
    np.testing.assert_array_equal(found.node_probabilities, expected.node_probabilities)


@pytest.mark.parametrize("n_lacking", [20, 120], ids=["some", "all"])
def test_cells_without_rna_are_not_refined(joint, query, paired, n_lacking):
    if n_lacking == query.n_obs:
        query = subset(paired, QUERY, ["prot"])
    else:
        parts = {"rna": query.mod["rna"][n_lacking:].copy(), "prot": query.mod["prot"].copy()}
        query = md.MuData(parts)
    (refine,) = hdi.annotate(query, joint, adapt="off").decisions
    assert not refine.applied
    assert refine.reason.startswith(f"{n_lacking} cells have no RNA")
