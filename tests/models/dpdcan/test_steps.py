"""Private steps: per-cell gradients, clipping, noise and sampling."""

import numpy as np
import pytest
import torch
from scvi.distributions import ZeroInflatedNegativeBinomial

from hdeepinsight.models import PrivacyReport
from hdeepinsight.models.dpdcan._module import DPDCANModule, DPDCANPlan
from hdeepinsight.nn import PoissonSampler, clipped_sum, noise_generator

N_GENES, N_CELLS = 12, 70
HEADS = ["projected", "full", "compact"]


def make_module(heads: str, dtype: torch.dtype = torch.float64) -> DPDCANModule:
    torch.manual_seed(0)
    hidden = [7] if heads == "projected" else [7, 5]
    module = DPDCANModule(N_GENES, 4, hidden, heads).to(dtype)
    if heads == "projected":
        directions = torch.linalg.qr(torch.randn(N_GENES, 4, dtype=dtype))[0].T
        module.network.directions.copy_(directions)
        torch.nn.init.normal_(module.network.encoder.out.weight, std=0.3)
    return module


def make_inputs(module: DPDCANModule, n_cells: int = N_CELLS, seed: int = 0):
    rng = np.random.default_rng(seed)
    counts = torch.tensor(rng.poisson(2.0, (n_cells, N_GENES)) + 1.0)
    counts = counts.to(next(module.network.parameters()).dtype)
    return module.prepare({"X": counts})


def plan_of(module: DPDCANModule, mode: str = "whole", n_cells: int = 500, **given) -> DPDCANPlan:
    usual = {"noise_multiplier": 0.0, "max_grad_norm": 0.1, "sample_rate": 0.1, "delta": 1e-5}
    return DPDCANPlan(module, PrivacyReport(mode=mode, **usual | given), n_cells, noise_seed=0)


def noisy(plan: DPDCANPlan, inputs) -> None:
    plan.set_noisy_gradients(inputs, plan.report)


def sum_of(module: DPDCANModule, inputs, max_norm: float) -> dict[str, torch.Tensor]:
    return clipped_sum(module.network, module.weights, inputs, max_norm)


def flat(parts) -> torch.Tensor:
    return torch.cat([part.ravel() for part in parts])


def gradient_of(module, inputs, cell: int) -> torch.Tensor:
    losses = module.network(*(part[cell : cell + 1] for part in inputs))
    return flat(torch.autograd.grad((losses[0] @ module.weights), module.network.parameters()))


@pytest.mark.parametrize("heads", HEADS)
def test_sum_equals_a_loop_over_cells(heads, monkeypatch):
    monkeypatch.setattr("hdeepinsight.nn._privacy.MAX_VALUES", 4000)  # a few at once
    module = make_module(heads)
    inputs = make_inputs(module)
    rows = torch.stack([gradient_of(module, inputs, cell) for cell in range(N_CELLS)])
    sums, norms = sum_of(module, inputs, np.inf), rows.norm(dim=1)
    torch.testing.assert_close(flat(sums.values()), rows.sum(0), rtol=1e-10, atol=1e-10)
    limit = float(norms.median())
    clipped = rows * (limit / (norms[:, None] + 1e-6)).clamp(max=1)
    sums = sum_of(module, inputs, limit)
    torch.testing.assert_close(flat(sums.values()), clipped.sum(0), rtol=1e-10, atol=1e-10)
    assert clipped.norm(dim=1).max() <= limit


def test_another_cell_changes_the_gradient_of_no_other():
    for heads in HEADS:
        module = make_module(heads)
        inputs = make_inputs(module)
        other = make_inputs(module, seed=1)
        swapped = [torch.cat([new[:1], old[1:]]) for old, new in zip(inputs, other, strict=True)]
        for cell in (0, 1, N_CELLS - 1):
            before, after = (gradient_of(module, given, cell) for given in (inputs, swapped))
            assert torch.equal(before, after) == (cell > 0)


def test_one_cell_moves_the_sum_by_the_norm_at_most():
    for heads in HEADS:
        module = make_module(heads)
        inputs, other = make_inputs(module), make_inputs(module, seed=1)
        limit = 0.05
        whole = flat(sum_of(module, inputs, limit).values())
        less = flat(sum_of(module, [part[1:] for part in inputs], limit).values())
        swapped = [torch.cat([new[:1], old[1:]]) for old, new in zip(inputs, other, strict=True)]
        replaced = flat(sum_of(module, swapped, limit).values())
        assert 0 < (whole - less).norm() <= limit
        assert 0 < (whole - replaced).norm() <= 2 * limit


def test_without_noise_on_the_decoder_one_cell_moves_all_gradients_of_the_encoder():
    """Why the published guarantee fails: at the second step the decoder differs."""
    limit, moved = 0.05, {}
    for mode in ("paper", "whole"):
        sums = []
        for start in (0, 1):  # with the first cell, and without it
            module = make_module("compact")
            inputs = [part[start:] for part in make_inputs(module)]
            plan = plan_of(module, "paper", max_grad_norm=limit)
            noisy(plan, inputs)
            if mode == "paper":  # the encoder as if its noise were the same
                plan.configure_optimizers()["optimizer"].step()
            rest = [part[1 - start :] for part in inputs]  # the cells that both have
            found = sum_of(module, rest, limit)
            sums.append(flat(found[name] for name in found if name.startswith("encoder.")))
        moved[mode] = (sums[0] - sums[1]).norm()
    assert moved["paper"] > limit * 0.01  # though these cells are the same
    assert moved["whole"] < 1e-12


def test_noise_has_the_deviation_that_was_accounted_for():
    module = make_module("projected")
    plan = plan_of(module, noise_multiplier=3.0, max_grad_norm=0.2)
    nothing = make_inputs(module, 0)
    draws = []
    for _ in range(2000):
        noisy(plan, nothing)
        draws.append(module.network.encoder.hidden.bias.grad[0].item())
    expected = 3.0 * 0.2 / 50
    assert np.std(draws) == pytest.approx(expected, abs=3 * expected / np.sqrt(2 * 2000))
    assert np.mean(draws) == pytest.approx(0, abs=3 * expected / np.sqrt(2000))


def test_without_noise_and_bound_a_step_is_that_of_adam():
    for heads in HEADS:
        private, plain = make_module(heads), make_module(heads)
        inputs = make_inputs(private)
        plan = plan_of(private, n_cells=10 * N_CELLS, max_grad_norm=np.inf)
        noisy(plan, inputs)
        plan.configure_optimizers()["optimizer"].step()
        usual = torch.optim.Adam(plain.network.parameters(), lr=1e-3)
        (plain.network(*inputs) @ plain.weights).mean().backward()
        usual.step()
        torch.testing.assert_close(
            flat(private.network.parameters()).detach(),
            flat(plain.network.parameters()).detach(),
            rtol=1e-8,
            atol=1e-8,
        )


def test_a_step_of_no_cell_is_noise_divided_by_the_expected_number():
    module = make_module("compact")
    plan = plan_of(module, noise_multiplier=1.0, max_grad_norm=5.0)
    noisy(plan, make_inputs(module, 0))
    grads = flat(p.grad for p in module.network.parameters())
    assert grads.std() == pytest.approx(5.0 / 50, rel=0.15)


def test_cells_are_drawn_by_themselves():
    sampler = PoissonSampler(400, 0.1, 0)
    drawn = [cells for _ in range(3000) for cells in sampler]
    sizes = np.array([len(cells) for cells in drawn])
    assert sizes.mean() == pytest.approx(40, abs=3 * np.sqrt(36 / 3000))
    assert sizes.var() == pytest.approx(36, rel=0.1)
    counts = np.bincount(np.concatenate(drawn), minlength=400)
    assert counts.std() == pytest.approx(np.sqrt(3000 * 0.1 * 0.9), rel=0.15)
    rare = PoissonSampler(5, 0.01, 0)
    assert [] in [cells for _ in range(20) for cells in rare]


def test_unseeded_noise_differs():
    assert noise_generator(None).initial_seed() != noise_generator(None).initial_seed()


def test_widths_are_the_published_ones():
    module = DPDCANModule(2000, 32, [256, 64], "full")
    sizes = {name: p.numel() for name, p in module.network.named_parameters()}
    assert sum(sizes.values()) == 2_091_536
    assert sum(n for name, n in sizes.items() if name.startswith("encoder.")) == 530_784
    compact = DPDCANModule(2000, 32, [256, 64], "compact")
    assert sum(p.numel() for p in compact.network.parameters()) == 1_067_536


@pytest.mark.parametrize("heads", ["full", "compact"])
def test_reconstruction_is_the_likelihood_of_scvi_tools(heads):
    module = make_module(heads)
    features, views, counts, depth = make_inputs(module)
    network = module.network
    mean, dispersion, zeros = network.counts(
        network.decoder(network.encoder(features)), depth / 1e4
    )
    px = ZeroInflatedNegativeBinomial(mu=mean, theta=dispersion, zi_logits=zeros)
    losses = network(features, views, counts, depth)
    torch.testing.assert_close(losses[:, 0], -px.log_prob(counts).mean(dim=1))


def test_contrast_is_of_one_cell_and_bounded():
    for heads in HEADS:
        module = make_module(heads)
        features, views, counts, depth = make_inputs(module)
        contrast = module.network(features, views, counts, depth)[:, 1]
        assert contrast.min() >= -1 - 1e-9
        assert contrast.max() <= 1 + 1e-9
        module.mask_probability = 0.0
        complete = make_inputs(module)
        torch.testing.assert_close(
            module.network(*complete)[:, 1], -torch.ones(N_CELLS, dtype=torch.float64)
        )
