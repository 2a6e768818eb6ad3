"""Identities of the network and its losses."""

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Normal, kl_divergence
from torch.nn import functional
from torch.testing import assert_close

from hdeepinsight import SCE2TM
from hdeepinsight.nn import cluster_contrast


@pytest.fixture
def module(cells):
    SCE2TM.setup_anndata(cells, embedding_obsm_key="X_other")
    return SCE2TM(cells, n_topics=8, n_hidden=16, n_embed=16).module


@pytest.fixture
def tensors(cells):
    counts, view = torch.tensor(cells.X[:64].toarray()), torch.tensor(cells.obsm["X_other"])
    return {
        REGISTRY_KEYS.X_KEY: counts,
        "embedding": view[:64],
        "X_of_neighbor": counts.roll(1, 0),
        "embedding_of_neighbor": view[64:128],
    }


def test_shares_sum_to_one(module, tensors):
    found, decoded, _ = module(tensors)
    ones = torch.ones(64)
    for name in ("theta", "theta_near", "assigned", "assigned_near"):
        assert_close(found[name].sum(1), ones, atol=1e-5, rtol=0)
    assert_close(decoded["log_share"].exp().sum(1), ones, atol=1e-5, rtol=0)
    assert_close(module.loadings().sum(0), torch.ones(120), atol=1e-5, rtol=0)


def test_distances_and_loadings_by_hand(module):
    topics, genes = module.positions()
    assert_close(topics.norm(dim=1), torch.ones(8))
    assert_close(genes, module.genes / module.genes.norm(dim=1, keepdim=True))
    assert_close(module.distances()[3, 50], (topics[3] - genes[50]).square().sum())
    weights = torch.exp(-module.distances()[:, 50] / 0.2)
    assert_close(module.loadings()[:, 50], weights / weights.sum())


def test_terms_of_the_loss(module, tensors):
    found, decoded, loss = module(tensors)
    x = torch.log1p(tensors["X"] * 1e4 / tensors["X"].sum(1, keepdim=True))
    assert_close(found["x"], x)
    soft = functional.cross_entropy(
        decoded["log_share"], x / x.sum(1, keepdim=True), reduction="none"
    )
    reconstruction = loss.reconstruction_loss["reconstruction_loss"]
    assert_close(reconstruction, soft * x.sum(1))
    q = Normal(found["mean"], (found["log_variance"] / 2).exp())
    prior = Normal(torch.zeros(8), torch.full((8,), (1 - 1 / 8) ** 0.5))
    divergence = loss.kl_local["kl_local"]
    assert_close(divergence, kl_divergence(q, prior).sum(1))
    v = found["log_variance"].exp()
    by_hand = ((v + found["mean"] ** 2) / 0.875 + torch.log(0.875 / v)).sum(1) / 2 - 4
    assert_close(divergence, by_hand, atol=1e-4, rtol=1e-5)
    extra = loss.extra_metrics
    total = (reconstruction + divergence).mean() + 100 * extra["ecr"] + extra["cross_view"]
    assert_close(loss.loss, total)


def test_the_cross_view_loss_by_hand(module, tensors):
    found, *_ = module(tensors)
    p, p_near, q, q_near = (found[n] for n in ("theta", "theta_near", "assigned", "assigned_near"))
    evenness = sum(-(m * m.log()).sum() for m in (p.mean(0), q.mean(0)))
    expected = cluster_contrast(q, p_near) + cluster_contrast(p, q_near)
    expected = expected - (p * q).sum(1).log().mean() - 5 * evenness
    assert_close(module.cross_view(p, p_near, q, q_near), expected)
    even = torch.full((64, 8), 1 / 8)
    most = (
        cluster_contrast(even, even) * 2
        + torch.log(torch.tensor(8.0))
        - 10 * torch.log(torch.tensor(8.0))
    )
    assert_close(module.cross_view(even, even, even, even), most)


def gradients(module, term):
    module.zero_grad()
    term.backward(retain_graph=True)
    parts = {"encoder": module.encoder[0].weight, "topics": module.topics, "genes": module.genes}
    parts["knowledge"] = module.knowledge[0].weight
    return {name for name, p in parts.items() if p.grad is not None and p.grad.abs().sum() > 0}


def test_which_weights_learn_from_which_term(module, tensors):
    _, _, loss = module(tensors)
    reconstruction = loss.reconstruction_loss["reconstruction_loss"].mean()
    assert gradients(module, reconstruction) == {"encoder", "topics", "genes"}
    assert gradients(module, loss.kl_local["kl_local"].mean()) == {"encoder"}
    assert gradients(module, loss.extra_metrics["ecr"]) == {"topics", "genes"}
    assert gradients(module, loss.extra_metrics["cross_view"]) == {"encoder", "knowledge"}


def test_prediction_draws_nothing_and_needs_no_neighbours(module, tensors):
    module.eval()
    only = {"X": tensors["X"]}
    first, _, loss = module(only)
    again, *_ = module(tensors)
    assert torch.equal(first["theta"], again["theta"])
    assert_close(first["theta"], first["mean"].softmax(1))
    assert loss.extra_metrics == {}
    assert not torch.equal(first["theta"][:-1], first["theta"][1:])


def test_a_bias_per_batch_moves_the_genes(cells):
    SCE2TM.setup_anndata(cells, batch_key="batch")
    module = SCE2TM(cells, n_topics=8).module.eval()
    assert module.batch_bias.shape == (2, 120)
    with torch.no_grad():
        module.batch_bias[1, 5] = 2.0
    theta = torch.full((2, 8), 1 / 8)
    shares = module.generative(theta, torch.tensor([[0.0], [1.0]]))["log_share"]
    assert shares[1, 5] - shares[0, 5] > 1.9
    middle = module.generative(theta)["log_share"][0, 5]
    assert shares[0, 5] < middle < shares[1, 5]
    new = module.generative(theta, torch.tensor([[2.0], [7.0]]))["log_share"]
    assert_close(new[:, 5], middle.expand(2))
