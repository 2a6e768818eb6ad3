"""Adapter layers: identity initially, separate rows per batch, reference unchanged."""

import copy
import pickle
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hdeepinsight.adaptation import (
    AdapterSwitch,
    HeadAdapter,
    Moments,
    NormAdapter,
    insert_adapters,
    record_moments,
)
from hdeepinsight.nn import BatchNorm1d, LinearHead
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra


@pytest.fixture
def norm() -> BatchNorm1d:
    torch.manual_seed(0)
    norm = BatchNorm1d(3)
    norm.train()(torch.randn(50, 3) * 2 + 1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm.eval()


def adapted(norm: BatchNorm1d, shrinkage: list[float]) -> tuple[NormAdapter, AdapterSwitch]:
    switch = AdapterSwitch()
    return NormAdapter(norm, torch.tensor(shrinkage), switch), switch


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5)], ids=["features", "maps"])
def test_starts_as_the_identity(norm: BatchNorm1d, shape: tuple[int, ...]) -> None:
    adapter, switch = adapted(norm, [1.0, 0.5])
    cells = torch.randn(*shape)
    with switch.using(torch.tensor([0, 1, -1, 0, 1, -1])):
        torch.testing.assert_close(adapter(cells), norm(cells))
    assert torch.equal(adapter(cells), norm(cells))


def test_batches_are_changed_separately_and_unknown_ones_never(norm: BatchNorm1d) -> None:
    adapter, switch = adapted(norm, [1.0, 0.25])
    nn.init.ones_(adapter.shift)
    cells = torch.randn(3, 3)
    with switch.using(torch.tensor([0, 1, -1])):
        change = adapter(cells) - norm(cells)
    torch.testing.assert_close(change, torch.tensor([1.0, 0.25, 0.0]).view(3, 1).expand(3, 3))


def test_full_share_takes_the_weighted_moments(norm: BatchNorm1d) -> None:
    adapter, _switch = adapted(norm, [1.0])
    cells, weights = torch.randn(40, 3) * 3, torch.rand(40)
    moments = Moments()
    for part in (slice(0, 25), slice(25, 40)):
        with record_moments([adapter], [moments], weights[part]):
            adapter(cells[part])
    adapter.blend(0, moments, 1.0)
    share = (weights / weights.sum()).view(-1, 1)
    mean = (share * cells).sum(0)
    torch.testing.assert_close(adapter.mean[0], mean)
    variance = (share * (cells - mean) ** 2).sum(0)
    torch.testing.assert_close(adapter.variance[0], variance, rtol=1e-4, atol=1e-4)
    adapter.blend(0, moments, 0.0)
    assert torch.equal(adapter.mean[0], norm.running_mean)


def test_head_correction_starts_at_zero_and_spares_unknown_batches() -> None:
    tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    switch, head = AdapterSwitch(), LinearHead(4, tree).eval()
    adapter = HeadAdapter(head, 4, 2, torch.ones(1), switch)
    cells = torch.randn(2, 4)
    with switch.using(torch.tensor([0, -1])):
        assert torch.equal(adapter(cells), head(cells))
        nn.init.ones_(adapter.correction.bias)
        torch.testing.assert_close(
            adapter(cells) - head(cells), torch.tensor([[1.0, 1.0], [0.0, 0.0]])
        )


def test_every_norm_and_the_head_get_one_adapter_with_one_switch() -> None:
    network = nn.Sequential(BatchNorm1d(2), nn.Sequential(nn.Linear(2, 2), BatchNorm1d(2)))
    network.n_latent = 2
    tree = TreeAlgebra(Taxonomy.from_nested({"T": [], "B": []}))
    module = SimpleNamespace(
        backbone=network, head=LinearHead(2, tree), tree=tree, temperature=torch.ones(1)
    )
    parameters = insert_adapters(module, [1.0])
    norms = [layer for layer in network.modules() if isinstance(layer, NormAdapter)]
    assert [type(norm.norm) for norm in norms] == [BatchNorm1d] * 2
    assert all(norm.switch is module.head.switch for norm in norms)
    assert len(parameters) == 2 * len(norms) + 2


def test_switches_are_thread_local_and_copies_are_off(norm: BatchNorm1d) -> None:
    adapter, switch = adapted(norm, [1.0])
    nn.init.ones_(adapter.shift)
    cells, found = torch.randn(4, 3), []
    with switch.using(torch.zeros(4, dtype=torch.int64)):
        here = adapter(cells)
        other = threading.Thread(target=lambda: found.append(adapter(cells)))
        other.start()
        other.join()
        copies = [copy.deepcopy(adapter), pickle.loads(pickle.dumps(adapter))]
    assert torch.equal(found[0], norm(cells))
    torch.testing.assert_close(here, norm(cells) + 1)
    for each in copies:
        assert torch.equal(each(cells), norm(cells))
        with each.switch.using(torch.zeros(4, dtype=torch.int64)):
            assert torch.equal(each(cells), here)


def test_the_former_name_of_the_shrinkage_is_read(norm: BatchNorm1d) -> None:
    old, _switch = adapted(norm, [0.25])
    state = old.state_dict()
    state["trust"] = state.pop("shrinkage")
    new, _switch = adapted(norm, [1.0])
    new.load_state_dict(state)
    assert torch.equal(new.shrinkage, torch.tensor([0.25, 0.0]))
