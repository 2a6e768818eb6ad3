"""Error messages name command line options instead of Python arguments."""

import pytest

from hdeepinsight.cli._console import in_options


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("pass layer='counts'", "pass --layer counts", id="value"),
        pytest.param("pass layer=None", "pass no --layer", id="none"),
        pytest.param("Pass overwrite=True to", "Pass --overwrite to", id="flag"),
        pytest.param("pass reference=, or train", "pass --reference, or train", id="no_value"),
        pytest.param("threshold=0.3; valid", "--threshold 0.3; valid", id="number"),
        pytest.param("threshold must be 1", "--threshold must be 1", id="subject"),
        pytest.param("pass adata.raw.to_adata()", "pass --use-raw", id="raw"),
        pytest.param("leave batch_key out", "leave --batch-key out", id="name"),
        pytest.param("no obs['batch_key']", "no obs['batch_key']", id="name_in_the_data"),
        pytest.param("the 'layer=a' file", "the 'layer=a' file", id="quoted"),
        pytest.param("a scale, a layer", "a scale, a layer", id="words"),
        pytest.param("adata.layers=x", "adata.layers=x", id="attribute"),
        pytest.param("pass verify=False", "pass verify=False", id="no_option"),
    ],
)
def test_arguments_become_options(text, said):
    assert in_options(text) == said


@pytest.fixture
def logged(files, halves, tmp_path):
    """A query whose counts lie in a layer."""
    query = halves[1].copy()
    query.layers["counts"] = query.X.copy()
    query.X = query.X / 3
    query.write_h5ad(tmp_path / "query.h5ad")
    return tmp_path / "query.h5ad"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        pytest.param(
            ["--layer", "none"], "with `--layer` (None means X) or `--use-raw`", id="layer"
        ),
        pytest.param(
            ["--use-raw", "--layer", "counts"], "Both --use-raw and --layer counts", id="both"
        ),
        pytest.param([], "--layer counts", id="counts_elsewhere"),
    ],
)
def test_data_errors_name_options(files, hdeepinsight, logged, options, says):
    done = hdeepinsight("evaluate", logged, "--model", files.model, *options)
    assert done.exit_code == 1
    stderr = " ".join(done.stderr.split())
    assert says in stderr
    assert "use_raw" not in stderr
    assert "layer=" not in stderr


def test_training_without_held_out_cells_names_the_option(files, hdeepinsight, tmp_path):
    options = ["--labels-key", "cell_type", "--layout", "random", "--validation-size", "0"]
    done = hdeepinsight(
        "train", files.reference, *options, "--early-stopping", "-o", tmp_path / "m"
    )
    assert done.exit_code == 1
    assert "Raise --validation-size" in " ".join(done.stderr.split())
