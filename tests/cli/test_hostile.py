"""Hostile files and machines: escape sequences, encodings, full disks, no memory."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import unquote

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from hdeepinsight.models import Annotator

#: Clear the screen, set the title, ring, end a line early, turn the direction of writing.
ATTACK = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e\u2066\u200b"
LABEL = "T\u202ecell\u2066"
HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069]")


def hostile(cells: ad.AnnData) -> ad.AnnData:
    """Put the attack into every name and text that a file of data holds."""
    cells = cells.copy()
    lineage = cells.obs["lineage"].astype(str).replace("T", LABEL)
    cells.obs["lineage"] = pd.Categorical(lineage)
    cells.obs[f"col{ATTACK}"] = pd.Categorical([f"{ATTACK}{i % 3}" for i in range(cells.n_obs)])
    cells.obs[f"hdi_{ATTACK}"] = 1.0
    cells.obs_names = [f"{ATTACK}{name}" for name in cells.obs_names]
    names = cells.var_names.to_numpy().astype(object)
    names[:4] = f"GENE{ATTACK}"
    cells.var_names = names
    cells.layers[f"layer{ATTACK}"] = cells.X.copy()
    cells.obsm[f"X_{ATTACK}"] = np.zeros((cells.n_obs, 2))
    cells.uns[f"note{ATTACK}"] = ATTACK
    return cells


@pytest.fixture(scope="module")
def evil(halves, tmp_path_factory, hdeepinsight):
    """A hostile query, a hostile reference, and a model of the latter."""
    folder = tmp_path_factory.mktemp("hostile")
    for name, cells in zip(("reference", "query"), halves, strict=True):
        hostile(cells).write_h5ad(folder / f"{name}.h5ad")
    other = halves[1].copy()
    other.var_names = [f"{ATTACK}{i}" for i in range(other.n_vars)]
    other.write_h5ad(folder / "other.h5ad")
    done = hdeepinsight(
        "train",
        folder / "reference.h5ad",
        "--labels-keys",
        "lineage,cell_type",
        "--layout",
        "random",
        "--max-epochs",
        2,
        "--validation-size",
        0.2,
        "--out",
        folder / "model",
    )
    assert done.exit_code == 0, done.output
    return folder, done


COMMANDS = {
    "info": (0, "info {query}"),
    "info_of_a_model": (0, "info {model}"),
    "annotate": (0, "annotate {query} --fast -m {model} -o {out}.csv --report {out}.html"),
    "annotate_clash": (2, "annotate {query} -m {model} -o {out}.h5ad"),
    "annotate_no_layer": (1, "annotate {query} -m {model} -o {out}.csv --layer none"),
    "annotate_other_genes": (1, "annotate {other} -m {model} -o {out}.csv"),
    "evaluate": (0, "evaluate {query} -m {model}"),
    "evaluate_no_column": (1, "evaluate {query} -m {model} --labels-key none"),
    "evaluate_debug": (1, "evaluate {query} -m {model} --labels-key none --debug"),
    "evaluate_other_labels": (1, "evaluate {query} -m {model} --labels-key {column}"),
    "explain": (0, "explain {query} -m {model} -o {out}.csv --n-samples 2"),
    "train_no_column": (1, "train {query} --labels-key none --out {out}"),
    "models": (0, "models --where bundled"),
    "convert": (0, "convert {model} {out}"),
    "publish": (0, "publish -m {model} --card {card} {out}"),
}


@pytest.mark.filterwarnings("ignore:Variable names are not unique:UserWarning")
def test_no_escape_sequence_reaches_the_terminal_or_a_page(evil, hdeepinsight, tmp_path_factory):
    for name in COMMANDS:
        tmp_path = tmp_path_factory.mktemp("case")
        folder, trained = evil
        code, command = COMMANDS[name]
        card = tmp_path / "card.json"
        card.write_text(
            '{"title": "\\u001b[2J", "license": "mit", "organism": "human", "tissues": []}'
        )
        places = {
            "query": folder / "query.h5ad",
            "model": folder / "model",
            "out": tmp_path / "out",
            "column": f"col{ATTACK}",
            "other": folder / "other.h5ad",
            "card": card,
        }
        done = hdeepinsight(*(word.format(**places) for word in command.split()))
        if name != "publish":  # a hub may refuse the card, in words
            assert done.exit_code == code, done.output
        for text in (done.stdout, done.stderr, trained.stdout, trained.stderr):
            assert HIDDEN.findall(text) == []
        for page in tmp_path.glob("*.html"):
            assert HIDDEN.findall(unquote(page.read_text(encoding="utf-8"))) == []


def test_escaped_names_are_readable(evil, hdeepinsight):
    shown = hdeepinsight("info", evil[0] / "query.h5ad").stdout
    assert r"col\x1b[2J\x1b]0;owned\x9b31m\u202e" in shown  # rich drops the bell
    assert r"T\u202ecell\u2066" in hdeepinsight("info", evil[0] / "model").stdout


def start(*arguments, **environment):
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "hdeepinsight", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, check=False, timeout=300, env={**os.environ, **environment}
    )


@pytest.mark.parametrize(
    ("encoding", "command"),
    [
        pytest.param("ascii", "--help", id="help"),
        pytest.param("ascii", "info {query}", id="data"),
        pytest.param("latin-1", "info {model}", id="model", marks=pytest.mark.slow),
    ],
)
def test_commands_run_with_any_encoding(files, encoding, command):
    done = start(*command.format(**vars(files)).split(), PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode(encoding)


@pytest.mark.slow
def test_sigterm_ends_training_by_the_signal(files, tmp_path):
    checkpoint, out = tmp_path / "checkpoint", tmp_path / "model"
    training = (
        "--labels-keys lineage,cell_type --layout random --max-epochs 100000 --validation-size 0.2"
    )
    command = [sys.executable, "-m", "hdeepinsight", "train", files.reference, *training.split()]
    process = subprocess.Popen([*command, "--checkpoint", checkpoint, "--out", out])
    deadline = time.monotonic() + 240
    while not (checkpoint.is_dir() and any(checkpoint.iterdir())):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == -signal.SIGTERM
    assert any(checkpoint.iterdir())
    assert not out.exists()


def test_package_runs_as_a_module():
    done = start("--version")
    assert (done.returncode, done.stdout.split()[0]) == (0, b"hdeepinsight")


def test_output_link_stays_a_link(files, hdeepinsight, tmp_path):
    target, link = tmp_path / "target.csv", tmp_path / "link.csv"
    target.write_text("old")
    link.symlink_to(target)
    command = ["annotate", files.query, "--fast", "-m", files.model, "-o", link]
    assert hdeepinsight(*command).exit_code == 2
    assert target.read_text() == "old"
    assert hdeepinsight(*command, "--overwrite").exit_code == 0
    assert link.is_symlink()
    assert target.read_text().startswith("cell,")


def test_output_link_to_the_input_raises(files, hdeepinsight, sha256, tmp_path):
    link, before = tmp_path / "link.h5ad", sha256(files.query)
    link.symlink_to(files.query)
    done = hdeepinsight("annotate", files.query, "-m", files.model, "-o", link, "--overwrite")
    assert done.exit_code == 2
    assert "never changed" in " ".join(done.stderr.split())
    assert sha256(files.query) == before


WRITERS = {
    "annotated.csv": (pd.DataFrame, "to_csv"),
    "annotated.html": (Path, "write_text"),
    "annotated.h5ad": ("shutil", "copyfile"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_full_disk_keeps_the_old_file(files, hdeepinsight, tmp_path, monkeypatch, name):
    out = tmp_path / name
    out.write_text("precious")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    owner, function = WRITERS[name]
    page = name.endswith(".html")
    options = ["-o", tmp_path.with_suffix(".csv"), "--report", out] if page else ["-o", out]
    with monkeypatch.context() as patched:
        patched.setattr(
            *((f"{owner}.{function}",) if owner == "shutil" else (owner, function)), full
        )
        words = [files.query, "--fast", "-m", files.model, *options, "--overwrite"]
        done = hdeepinsight("annotate", *words)
    assert done.exit_code == 1
    assert "No space left on device" in done.stderr
    assert out.read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("Unable to allocate 3.00 GiB for an array"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    ],
    ids=["plain", "numpy", "torch", "cuda"],
)
def test_out_of_memory_is_one_sentence(files, hdeepinsight, monkeypatch, error):
    def greedy(*_, **__):
        raise error

    monkeypatch.setattr(Annotator, "evaluate", greedy)
    done = hdeepinsight("evaluate", files.query, "--model", files.model)
    assert done.exit_code == 1
    assert "Not enough memory" in done.stderr
    assert "unexpected" not in done.stderr


def test_missing_extra_is_an_expected_error(files, hdeepinsight, monkeypatch):
    def lacking(*_, **__):
        raise ImportError("Explaining needs the package shap. Install it with `pip install shap`.")

    monkeypatch.setattr(Annotator, "evaluate", lacking)
    done = hdeepinsight("evaluate", files.query, "--model", files.model)
    assert done.stderr.startswith("Error: Explaining needs the package shap.")
