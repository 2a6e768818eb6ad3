"""Annotation of batch-corrected values."""

import numpy as np
import pytest
import torch
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight.pp import StacasConfig


@pytest.fixture
def correct(model):
    def run(reference, query, **options):
        return hdi.pp.stacas(reference, query, normalizer=model.normalizer, **options)

    return run


def test_normalizer_is_what_the_network_computes(model, query):
    normalizer = model.normalizer
    counts = sparse.csr_matrix(query[:, list(normalizer.genes)].X)
    measured = np.ones(len(normalizer.genes))
    measured[:7] = 0
    found = normalizer.log_normalize(counts, measured).toarray()
    tensors = torch.from_numpy(counts.toarray()), torch.from_numpy(measured).float()
    np.testing.assert_array_equal(found, model.module.normalizer.log_normalize(*tensors).numpy())
    assert not found[:, :7].any()


def test_a_zero_correction_changes_no_probability(model, reference, correct):
    nothing = correct(reference, reference.copy(), config=StacasConfig(k_anchor=1))
    assert np.abs(nothing.correction()).max() == 0
    there = model.annotate(reference).node_probabilities
    found = model.annotate(reference, corrected=nothing).node_probabilities
    np.testing.assert_allclose(found, there, atol=1e-5)  # read by the network, not folded


@pytest.mark.usefixtures("network_alone")
def test_corrected_values_enter_before_the_scale(model, reference, query, correct):
    result = correct(reference, query)
    found = model.annotate(query, corrected=result, batch_size=50).node_probabilities
    genes = list(model.normalizer.genes)
    assert list(result.genes) == genes
    values = torch.from_numpy(np.concatenate([v for _, v in result.corrected()]))
    scaled = (values.clamp_min(0) / model.module.normalizer.scale).clamp_max(1)
    module = model.module.eval()
    with torch.inference_mode():
        logits = module.read(scaled, torch.ones(len(genes)))["logits"]
        wanted = module.tree.node_log_probs(module.generative(logits)["conditional"]).exp()
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)


def test_genes_that_the_query_lacks_stay_unmeasured(model, reference, query, correct):
    fewer = query[:, 20:].copy()
    result = correct(reference, fewer)
    missing = set(query.var_names[:20])
    assert not missing & set(result.genes)
    module, seen = model.module, []
    hook = module.raster.register_forward_pre_hook(lambda _, given: seen.append(given))
    annotation = model.annotate(fewer, corrected=result)
    hook.remove()
    at = [gene in missing for gene in model.normalizer.genes]
    assert not torch.cat([values for values, _ in seen])[:, at].any()
    assert len(annotation.labels) == fewer.n_obs


def test_a_strong_batch_effect_is_removed(model, reference, query, truth, correct):
    factors = np.exp(np.random.default_rng(1).normal(0, 3.0, size=query.n_vars))
    query.X = sparse.csr_matrix(np.rint(query.X.toarray() * factors), dtype=np.float32)
    before = model.annotate(query, threshold=None)
    after = model.annotate(query, threshold=None, corrected=correct(reference, query))
    right = [(a.labels["cell_type"].astype(str) == truth).mean() for a in (before, after)]
    assert right[1] > right[0] + 0.05


@pytest.mark.parametrize("wrong", ["no normalizer", "other cells", "other model"])
def test_corrections_for_something_else_are_refused(model, fit, reference, query, correct, wrong):
    if wrong == "no normalizer":
        result, says = hdi.pp.stacas(reference, query), "not computed with the normalisation"
    elif wrong == "other cells":
        result, says = correct(reference, query[::-1]), "not for these 120 cells"
    else:
        other = fit(reference[:150].copy(), train={"max_epochs": 1})
        result = hdi.pp.stacas(reference, query, normalizer=other.normalizer)
        says = "not computed with the normalisation"
    with pytest.raises(hdi.data.InputError, match=says):
        model.annotate(query, corrected=result)
    with pytest.raises(ValueError, match=r"must be a result of hdi\.pp\.stacas, got 'AnnData'"):
        model.annotate(query, corrected=query)
