"""``hdeepinsight train``: model classes, and the destinations of options."""

import anndata as ad
import pandas as pd

from hdeepinsight.models import load_model

LABELS = ["--labels-keys", "lineage,cell_type"]


def test_settings_are_passed_to_the_class(hdeepinsight, files, tmp_path):
    quick = ["--layout", "random", "--max-epochs", "1", "--seed", "3"]
    done = hdeepinsight(
        *("train", files.reference, *LABELS, *quick, "--out", tmp_path / "model"),
        *("--settings", "n_latent=8", "--settings", "batch_size=50"),
    )
    assert done.exit_code == 0, done.stderr
    model = load_model(tmp_path / "model")
    assert model.get_latent_representation(files.query).shape == (210, 8)
    assert (model.recipe["batch_size"], model.recipe["seed"]) == (50, 3)


def test_options_without_effect_raise(hdeepinsight, files, tmp_path_factory):
    for options, message in [
        ([*LABELS, "--settings", "n_topics=3"], "SCHDeepInsight has no option n_topics. It has"),
        ([*LABELS, "--settings", "n_latent"], "--settings must be KEY=VALUE, got 'n_latent'"),
        ([*LABELS, "--model", "scvi"], ", schdeepinsight, "),
        ([*LABELS, "--cells", "cells.csv"], "for a model that learns without labels"),
        ([], "No label column was given"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        done = hdeepinsight("train", files.reference, *options, "--out", tmp_path / "model")
        assert done.exit_code == 2
        assert message in " ".join(done.stderr.split())
        assert not (tmp_path / "model").exists()


def test_a_model_without_labels_writes_clusters_of_cells(hdeepinsight, files, tmp_path):
    cells, model = tmp_path / "cells.csv", tmp_path / "topics"
    options = ["--model", "SCE2TM", "--max-epochs", "2", "--settings", "n_topics=5"]
    options += ["--accelerator", "cpu"]
    done = hdeepinsight("train", files.reference, *options, "--cells", cells, "--out", model)
    assert done.exit_code == 0, done.stderr
    table = pd.read_csv(cells, index_col="cell")
    assert list(table) == ["cluster", *(f"latent_{i}" for i in range(5))]
    assert list(table.index) == list(ad.read_h5ad(files.reference).obs_names)

    done = hdeepinsight("train", files.reference, *options, "--cells", cells, "--out", f"{model}_2")
    assert (done.exit_code, "already exists" in done.stderr) == (2, True)

    done = hdeepinsight("info", model)
    assert done.exit_code == 0, done.stderr
    assert "SCE2TM of" in done.stdout
    assert "older release" not in done.stderr
    done = hdeepinsight("annotate", files.query, "--model", model, "--out", tmp_path / "x.csv")
    assert done.exit_code == 1
    assert "got a SCE2TM that has learned without labels" in " ".join(done.stderr.split())
    options += ["--labels-key", "cell_type"]
    done = hdeepinsight("train", files.reference, *options, "--out", tmp_path / "other")
    assert done.exit_code == 2
    assert "SCE2TM learns without labels, got --labels-keys" in " ".join(done.stderr.split())
