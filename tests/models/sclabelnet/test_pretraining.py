"""Pretraining without labels, and saving, sharing and fine-tuning of encoders."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import hdeepinsight as hdi
from hdeepinsight import SCLabelNet
from hdeepinsight.data import GeneCoverageWarning
from hdeepinsight.models import load_model
from hdeepinsight.nn import bin_values, choose_tokens, masked_value_losses, token_sets

LEVELS = ["lineage", "cell_type"]
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module")
def encoder(_synthetic_hierarchy):
    """An encoder without a head."""
    cells = _synthetic_hierarchy[:200, :100].copy()
    SCLabelNet.setup_anndata(cells)
    model = SCLabelNet(cells)
    model.pretrain(max_epochs=2, **QUIET)
    return model


def test_the_share_of_hidden_values():
    real = torch.rand(4000, 40) < torch.linspace(0.1, 1.0, 4000).unsqueeze(1)
    real[:10] = False
    chosen, masked = choose_tokens(real, 0.15, 0.9)
    assert not (chosen & ~real).any()
    assert not (masked & ~chosen).any()
    assert bool((chosen.any(1) == real.any(1)).all())
    many = real.sum(1) > 30
    n_tokens, n_chosen = int(real[many].sum()), int(chosen[many].sum())
    assert abs(n_chosen / n_tokens - 0.15) < 4 * (0.15 * 0.85 / n_tokens) ** 0.5 + 2e-3
    n_masked = int(masked.sum())
    assert abs(n_masked / int(chosen.sum()) - 0.9) < 4 * (0.09 / int(chosen.sum())) ** 0.5


def test_a_hidden_value_is_not_in_the_input(encoder):
    network = encoder.module.backbone.eval()
    tokens = token_sets(bin_values(torch.poisson(torch.full((6, 100), 1.0)).log1p()))
    chosen, masked = choose_tokens(tokens.real, 0.15, 0.9)
    other = torch.where(masked, 1 + tokens.bins % 5, tokens.bins)
    changed = tokens._replace(bins=other)
    assert torch.equal(network(tokens, masked), network(changed, masked))
    assert not torch.equal(network(tokens, chosen & ~masked), network(changed, chosen & ~masked))
    head = encoder.module.value_head
    found = masked_value_losses(network, head, tokens, chosen, masked)
    hidden = network.hidden(network.embed(tokens, masked), tokens.real)[:, 1:]
    every = (
        -head(hidden).log_softmax(2).gather(2, (tokens.bins - 1).clamp_min(0)[..., None])[..., 0]
    )
    torch.testing.assert_close(found, every[chosen])  # no other token has a part in the loss


def cells_of(counts):
    names = [f"GENE{i}" for i in range(counts.shape[1])]
    return ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), var=pd.DataFrame(index=names))


def pretrained(counts):
    cells = cells_of(counts)
    SCLabelNet.setup_anndata(cells)
    model = SCLabelNet(cells, dropout=0.0)
    model.pretrain(max_epochs=12, plan_kwargs={"lr": 3e-3}, **QUIET)
    return model.pretraining


def test_only_correlated_genes_predict_masked_values():
    rng = np.random.default_rng(0)
    values = rng.choice([2, 5, 12], size=(1200, 12))
    # Genes that are nearly alike in all cells fill these up, so that depth tells nothing either.
    constant = rng.integers(19, 22, size=(1200, 25))
    independent = pretrained(np.hstack([values, constant]))
    base = independent["baseline_per_gene"]
    assert abs(independent["validation_loss"] - base) < 0.05
    assert base < independent["baseline_all_genes"] - 0.2
    linked = values.copy()
    linked[:, 6:] = linked[:, :6]
    found = pretrained(np.hstack([linked, constant]))
    assert found["validation_loss"] < found["baseline_per_gene"] - 0.1


def test_held_out_cells_are_never_trained_on(reference):
    SCLabelNet.setup_anndata(reference, labels_keys=LEVELS)
    model = SCLabelNet(reference)
    held_out = model._split(split_key="batch")[0][1]
    model.pretrain(max_epochs=1, split_key="batch", **QUIET)
    assert model.pretraining["n_held_out"] == len(held_out)
    assert not model.is_trained_
    model.train(max_epochs=1, split_key="batch", **QUIET)
    np.testing.assert_array_equal(model.validation_indices_, held_out)


def test_shared_genes_keep_their_embeddings(encoder, reference):
    SCLabelNet.setup_anndata(reference, labels_keys=LEVELS)
    model = SCLabelNet.from_encoder(encoder, reference, n_genes=120)
    assert model.pretraining["n_new_genes"] == 20
    mine, theirs = (each.get_gene_embedding() for each in (model, encoder))
    assert mine.loc[theirs.index].equals(theirs)
    for name, weight in encoder.module.backbone.state_dict().items():
        if name != "genes.weight":
            assert torch.equal(model.module.backbone.state_dict()[name], weight)
    other = reference.copy()
    other.var_names = [f"MOUSE{i}" for i in range(other.n_vars)]
    SCLabelNet.setup_anndata(other, labels_keys=LEVELS)
    with pytest.raises(ValueError, match="None of the 100 genes"):
        SCLabelNet.from_encoder(encoder, other)


def test_saving_between_pretraining_and_training_changes_nothing(reference, query, tmp_path):
    SCLabelNet.setup_anndata(reference, labels_keys=LEVELS)
    model = SCLabelNet(reference)
    model.pretrain(max_epochs=1, **QUIET)
    model.save(tmp_path / "pretrained")
    loaded = load_model(tmp_path / "pretrained", reference)
    for each in (model, loaded):
        each.train(max_epochs=2, validation_size=0.2, **QUIET)
    left, right = (each.predict_proba(query).to_numpy() for each in (model, loaded))
    np.testing.assert_array_equal(left, right)


def test_an_encoder_without_a_head_can_be_shared_but_not_annotate(encoder, query, tmp_path):
    card = {"title": "Encoder", "license": "mit", "organism": "human", "tissues": ["blood"]}
    published = hdi.hub.publish(encoder, str(tmp_path / "encoder"), card=card)
    pulled = hdi.hub.pull(published.address)
    cells = query[:, list(encoder.genes)].copy()
    left, right = (each.get_latent_representation(cells) for each in (encoder, pulled))
    np.testing.assert_allclose(left, right, atol=1e-6)
    assert left.shape == (query.n_obs, 64)
    assert "without a head" in repr(pulled)
    for call in (pulled.annotate, pulled.predict_proba, pulled.evaluate):
        with pytest.raises(ValueError, match="encoder without a head"):
            call(cells)
    with pytest.raises(ValueError, match="from_encoder"):
        pulled.train()


def test_several_files_with_other_genes_are_read_together(encoder, synthetic_hierarchy):
    model = load_model_of(encoder)
    first, second = synthetic_hierarchy[:150].copy(), synthetic_hierarchy[150:, 30:].copy()
    empty = np.arange(150)[:, None] < 3  # cells without expressed genes
    first.X = sparse.csr_matrix(np.where(empty, 0, first.X.toarray()))
    with pytest.warns(GeneCoverageWarning):
        model.pretrain([first, second], max_epochs=1, split_key="batch", **QUIET)
    assert model.pretraining["n_files"] == 2
    assert model.pretraining["n_cells"] == synthetic_hierarchy.n_obs
    assert model.pretraining["baseline_per_gene"] > 0
    assert np.isfinite(model.pretraining["validation_loss"])
    assert np.isfinite(model.get_latent_representation(first)).all()
    model.pretrain(first[5:10].copy(), max_epochs=1, **QUIET)  # fewer than a mini-batch
    assert model.pretraining["n_held_out"] == 0
    assert "validation_loss" not in model.pretraining
    assert repr(model).endswith("pretrained on 5 cells without labels")


def load_model_of(encoder):
    SCLabelNet.setup_anndata(encoder.adata)
    return SCLabelNet(encoder.adata)
