"""Train by the command: which class, and which options go where."""

import pytest

from hdeepinsight.models import load_model

LABELS = ["--labels-keys", "lineage,cell_type"]


def test_a_setting_without_an_option_reaches_the_class(hdeepinsight, files, tmp_path):
    quick = ["--layout", "random", "--max-epochs", "1", "--seed", "3"]
    done = hdeepinsight(
        *("train", files.reference, *LABELS, *quick, "--out", tmp_path / "model"),
        *("--settings", "n_latent=8", "--settings", "batch_size=50"),
    )
    assert done.exit_code == 0, done.stderr
    model = load_model(tmp_path / "model")
    assert model.get_latent_representation(files.query).shape == (210, 8)
    assert (model.recipe["batch_size"], model.recipe["seed"]) == (50, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*LABELS, "--settings", "n_topics=3"], "SCHDeepInsight has no option n_topics. It has"),
        ([*LABELS, "--settings", "n_latent"], "--settings must be KEY=VALUE, got 'n_latent'"),
        ([*LABELS, "--model", "scvi"], "--model must be one of schdeepinsight"),
        ([*LABELS, "--cells", "cells.csv"], "of a model that learns without labels"),
        ([], "No label column was given"),
    ],
)
def test_what_has_no_effect_is_refused(hdeepinsight, files, tmp_path, options, message):
    done = hdeepinsight("train", files.reference, *options, "--out", tmp_path / "model")
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "model").exists()
