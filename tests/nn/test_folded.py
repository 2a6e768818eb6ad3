"""A folded classifier against the module that it was folded from."""

import copy

import numpy as np
import pytest
import torch
from scipy import sparse

from hdeepinsight.adaptation import insert_adapters, use_adapters
from hdeepinsight.image import GeneLayout
from hdeepinsight.models import ModuleConfig
from hdeepinsight.nn import CountThinning, GeneImageClassifier, GeneMasking, SparseCounts
from hdeepinsight.taxonomy import Taxonomy

N_CELLS, N_GENES, N_PROTEINS, SIDE = 60, 90, 7, 12
TREE = Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": [], "Myeloid": ["CD14", "DC", "FCGR3A"]})


def module(proteins=False, backbone="compact", n_members=1, **config):
    """A classifier with random weights and statistics, as one that was trained."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    names = [f"G{i}" for i in range(N_GENES)]
    layout = GeneLayout(tuple(names), rng.permutation(SIDE**2)[:N_GENES], side=SIDE)
    panel = GeneLayout(tuple(f"P{i}" for i in range(N_PROTEINS)), np.arange(N_PROTEINS) * 3, SIDE)
    made = GeneImageClassifier(
        TREE,
        layout,
        ModuleConfig(**config),
        backbone=backbone,
        n_latent=24,
        n_members=n_members,
        masking=GeneMasking(),
        thinning=CountThinning(),
        proteins=panel if proteins else None,
    )
    for name, tensor in made.state_dict().items():
        if name.endswith("running_var") or name in ("normalizer.scale", "temperature"):
            tensor.uniform_(0.5, 2.0)
        elif tensor.is_floating_point() and "normalizer" not in name:
            tensor.normal_(0, 0.3)
    made.normalizer.library_gene[:5] = 0
    made.normalizer.mean_share.uniform_(0, 2 / N_GENES)
    return made.eval()


@pytest.fixture(scope="module")
def counts():
    rng = np.random.default_rng(1)
    dense = rng.poisson(rng.gamma(0.3, 2.0, N_GENES), (N_CELLS, N_GENES))
    dense[3], dense[4, 5:] = 0, 0  # an empty cell, and one without any gene of the library
    return sparse.csr_matrix(dense, dtype=np.float32)


@pytest.fixture(scope="module", params=[1.0, 0.6], ids=["all_genes", "some_genes"])
def measured(request):
    return (torch.rand(N_GENES, generator=torch.Generator().manual_seed(2)) < request.param).float()


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    """Let the first layer be computed for a few cells at a time, as for real numbers of genes."""
    monkeypatch.setattr("hdeepinsight.nn._folded.CACHED_VALUES", 2000)


def compare(plain, inputs, counts, measured, **extra):
    counts = sparse.csr_matrix(counts.multiply(measured.numpy()))
    folded = plain.folded(measured)
    for method in ("inference", "predict"):
        wanted = getattr(plain, method)(torch.from_numpy(counts.toarray()), measured, **inputs)
        found = getattr(folded, method)(SparseCounts.of(counts, "cpu"), measured, **inputs, **extra)
        assert set(found) == {*wanted, "seen"}
        for name, values in wanted.items():
            torch.testing.assert_close(found[name], values, atol=1e-4, rtol=1e-4)
    return found


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="compact"),
        pytest.param({"backbone": "mlp"}, id="mlp"),
        pytest.param({"wide": True}, id="wide"),
        pytest.param({"backbone": None, "wide": True}, id="wide_alone"),
        pytest.param({"channels": "single"}, id="no_mask"),
        pytest.param({"channels": "rgb", "head": "per_parent"}, id="as_published"),
        pytest.param({"n_members": 3}, id="members"),
    ],
)
def test_a_folded_classifier_predicts_what_its_module_does(options, counts, measured):
    found = compare(module(**options), {}, counts, measured)
    assert found["seen"].tolist() == (counts.toarray() @ measured.numpy() > 0).tolist()


@pytest.mark.parametrize("backbone", ["compact", "mlp"])
@pytest.mark.parametrize("wide", [False, True])
def test_proteins_are_drawn_beside_the_genes(backbone, wide, counts, measured):
    rng = torch.Generator().manual_seed(0)
    stained = torch.poisson(torch.full((N_CELLS, N_PROTEINS), 9.0), generator=rng)
    shown = (torch.rand(N_CELLS, N_PROTEINS, generator=rng) < 0.7).float()
    plain = module(proteins=True, backbone=backbone, wide=wide)
    inputs = {"proteins": stained, "proteins_measured": shown}
    assert compare(plain, inputs, counts, measured)["seen"][3]
    assert not compare(plain, {}, counts, measured)["seen"][3]


def test_cells_without_rna_have_no_mask(counts):
    plain, has_rna = module(proteins=True), (torch.arange(N_CELLS) % 3 > 0).float()
    per_cell = has_rna.unsqueeze(1).expand(-1, N_GENES)
    wanted = plain.inference(torch.from_numpy(counts.toarray()), per_cell)["logits"]
    folded = plain.folded(torch.ones(N_GENES))
    found = folded.inference(SparseCounts.of(counts, "cpu"), has_rna=has_rna.unsqueeze(1))
    torch.testing.assert_close(found["logits"], wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("backbone", ["compact", "mlp"])
def test_adapters_act_batch_by_batch_in_a_folded_classifier(backbone, counts, measured):
    plain = copy.deepcopy(module(backbone=backbone))
    for parameter in insert_adapters(plain, [0.4, 0.9]):
        torch.nn.init.normal_(parameter, std=0.5)
    for name, tensor in plain.named_buffers():
        if name.endswith(("norm.mean", "norm.variance", "2.mean", "2.variance")):
            tensor[:-1] *= 1.5
    with use_adapters(plain, torch.arange(N_CELLS) % 3 - 1):
        on = compare(plain, {}, counts, measured)
    off = compare(plain, {}, counts, measured)
    assert not torch.allclose(on["latent"], off["latent"])
    torch.testing.assert_close(on["latent"][::3], off["latent"][::3])  # cells of no batch


def test_what_is_no_gene_image_of_places_is_not_folded():
    assert module(backbone="efficientnet_b0").folded(torch.ones(N_GENES)) is None


def test_genes_twice_in_a_cell_are_summed():
    twice = sparse.csr_matrix((np.float32([1, 2, 4]), [1, 1, 0], [0, 2, 3]), shape=(2, 3))
    found = SparseCounts.of(twice, "cpu")
    assert found[:, torch.arange(3)].tolist() == [[0, 3, 0], [4, 0, 0]]
    assert twice.nnz == 3
    assert SparseCounts.of(twice[:0], "cpu")[:, torch.arange(2)].shape == (0, 2)


def test_no_cell_gives_no_row():
    found = (
        module()
        .folded(torch.ones(N_GENES))
        .predict(SparseCounts.of(sparse.csr_matrix((0, N_GENES), dtype=np.float32), "cpu"))
    )
    assert found["probabilities"].shape == (0, TREE.n_nodes)


@pytest.fixture
def medium_precision():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


def test_precision_of_products_is_that_of_torch(counts, medium_precision):
    plain, measured = module(), torch.ones(N_GENES)
    with torch.inference_mode():
        exact = plain.inference(torch.from_numpy(counts.toarray()), measured)["logits"]
    rounded = plain.folded(measured).inference(SparseCounts.of(counts, "cpu"))["logits"]
    assert rounded.dtype == torch.float32
    assert 1e-6 < float((rounded - exact).abs().mean() / exact.std()) < 0.01
