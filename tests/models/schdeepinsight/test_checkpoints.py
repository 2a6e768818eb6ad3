"""An interrupted training is resumed with the same result, or leaves the model unchanged."""

import json
import signal
import subprocess
import sys

import interrupted_training
import lightning.pytorch as pl
import numpy as np
import pandas as pd
import pytest
import torch
from interrupted_training import Interrupt, built, interrupted, train

from hdeepinsight import SCHDeepInsight
from hdeepinsight.models import ModelFileError


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    monkeypatch.setattr("hdeepinsight.models._base._training.MIN_SECONDS", 0.0)


@pytest.fixture(autouse=True)
def interruptible():
    """A shell's background jobs ignore SIGINT, and Python then raises no KeyboardInterrupt."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def fresh(reference):
    return lambda **options: built(reference, **options)


def state(model: SCHDeepInsight) -> dict:
    return {name: tensor.clone() for name, tensor in model.module.state_dict().items()}


def assert_same_weights(first: dict, second: dict) -> None:
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def killed(reference, folder, options: dict, kind: dict) -> None:
    """Kill a training in another process, of which only the checkpoint remains."""
    cells = folder.with_suffix(".h5ad")
    reference.write_h5ad(cells)
    threads = str(torch.get_num_threads())
    words = [interrupted_training.__file__, cells, folder, threads, json.dumps([options, kind])]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def refused(reference, folder, options: dict, kind: dict) -> None:
    """End a training by an error, which needs no other process."""
    with pytest.raises(MemoryError):
        interrupted(reference, folder, "raise", options, kind)


@pytest.mark.parametrize(
    ("options", "kind", "end"),
    [
        pytest.param({}, {}, killed, id="killed", marks=pytest.mark.slow),
        pytest.param({"config": {"weighting": "adaptive"}}, {}, refused, id="adaptive_levels"),
        pytest.param(
            {}, {"early_stopping": True, "plan_kwargs": {"lr": 0.05}}, refused, id="best_epoch"
        ),
    ],
)
def test_an_interrupted_training_resumes_with_the_same_result(
    fresh, reference, tmp_path, query, options, kind, end
):
    whole = train(fresh(**options), **kind)
    end(reference, tmp_path, options, kind)
    assert (tmp_path / "training.ckpt").is_file()
    resumed = fresh(**options)
    epochs = Epochs()
    train(resumed, checkpoint=tmp_path, callbacks=[epochs], **kind)
    assert epochs.seen == [3, 4, 5], "it did not start from the beginning"
    assert_same_weights(state(whole), state(resumed))
    pd.testing.assert_frame_equal(resumed.predict_proba(query), whole.predict_proba(query))
    novelty = [model.annotate(query).novelty for model in (whole, resumed)]
    pd.testing.assert_frame_equal(*novelty)
    assert resumed.recipe == whole.recipe
    for name, table in whole.history.items():
        np.testing.assert_array_equal(resumed.history[name], table, err_msg=name)
    assert list(tmp_path.iterdir()) == [], "a finished training leaves no checkpoint"


class Epochs(pl.Callback):
    """Epochs that were trained."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_epoch_start(self, trainer, pl_module) -> None:
        self.seen.append(trainer.current_epoch)


@pytest.mark.parametrize(("how", "error"), [("SIGINT", KeyboardInterrupt), ("raise", MemoryError)])
def test_an_interrupted_training_leaves_the_model_unchanged(fresh, query, how, error, capsys):
    model = train(fresh())
    before, probabilities = state(model), model.predict_proba(query)
    history = {name: table.copy() for name, table in model.history.items()}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        train(model, callbacks=[Interrupt(1, how)])
    assert capsys.readouterr().out == ""
    assert signal.getsignal(signal.SIGINT) is handler
    assert not model.module.training
    assert_same_weights(before, state(model))
    pd.testing.assert_frame_equal(model.predict_proba(query), probabilities)
    assert all(history[name].equals(table) for name, table in model.history.items())


def test_sigint_and_then_the_same_call_again(fresh, tmp_path):
    whole = train(fresh())
    model = fresh()
    with pytest.raises(KeyboardInterrupt):
        train(model, checkpoint=tmp_path, callbacks=[Interrupt(2, "SIGINT")])
    assert not model.is_trained_
    assert_same_weights(state(whole), state(train(model, checkpoint=tmp_path)))


@pytest.mark.parametrize("folder", ["", True, 3, "file"])
def test_a_checkpoint_path_must_be_a_folder(fresh, tmp_path, folder):
    (tmp_path / "file").touch()
    given = tmp_path / folder if folder == "file" else folder
    with pytest.raises(ValueError, match=r"checkpoint must be a folder, got .* Omit it"):
        train(fresh(), checkpoint=given)


def test_a_checkpoint_of_another_training_is_refused(fresh, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(fresh(), checkpoint=tmp_path, callbacks=[Interrupt(2, "SIGINT")])
    for other in (
        {"precision": "bf16-mixed"},
        {"gradient_clip_val": 0.1},
        {"accumulate_grad_batches": 2},
        {"datasplitter_kwargs": {"drop_last": True}},
    ):
        with pytest.raises(ValueError, match="belongs to a training with other cells"):
            train(fresh(), checkpoint=tmp_path, **other)
    with pytest.raises(ValueError, match="belongs to a training with other cells"):
        train(fresh(), checkpoint=tmp_path, plan_kwargs={"lr": 0.1})
    with pytest.raises(ValueError, match="belongs to a training with other cells"):
        train(fresh(seed=1), checkpoint=tmp_path)
    path = tmp_path / "training.ckpt"
    body = bytearray(path.read_bytes())
    body[len(body) // 2] ^= 1
    path.write_bytes(body)
    with pytest.raises(ModelFileError, match="damaged"):
        train(fresh(), checkpoint=tmp_path)


def test_a_checkpoint_changes_nothing(fresh, tmp_path):
    first, second = train(fresh()), train(fresh(), checkpoint=tmp_path)
    assert_same_weights(state(first), state(second))


def test_the_history_of_a_resumed_second_training_is_ordered(fresh, tmp_path):
    whole, model = train(fresh()), train(fresh())
    train(whole)
    with pytest.raises(MemoryError):
        train(model, checkpoint=tmp_path, callbacks=[Interrupt(3, "raise")])
    train(model, checkpoint=tmp_path)
    assert set(model.history) == set(whole.history)
    for name, table in whole.history.items():
        pd.testing.assert_frame_equal(model.history[name], table, check_dtype=False)
