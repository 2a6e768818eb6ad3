"""Error messages name command line options instead of Python arguments."""

import pytest

from hdeepinsight.cli._console import in_options


def test_arguments_become_options():
    for text, said in [
        ("pass layer='counts'", "pass --layer counts"),
        ("pass layer=None", "pass no --layer"),
        ("Pass overwrite=True to", "Pass --overwrite to"),
        ("threshold=0.3; valid", "--threshold 0.3; valid"),
        ("threshold must be 1", "--threshold must be 1"),
        ("pass adata.raw.to_adata()", "pass --use-raw"),
        ("leave batch_key out", "leave --batch-key out"),
        ("no obs['batch_key']", "no obs['batch_key']"),
        ("the 'layer=a' file", "the 'layer=a' file"),
        ("a scale, a layer", "a scale, a layer"),
        ("adata.layers=x", "adata.layers=x"),
        ("pass verify=False", "pass verify=False"),
        ("got types=['CD4 T', 'B'] and", "got --types CD4 T,B and"),
    ]:
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
            ["--layer", "none"],
            "To go on, pass --layer counts, or omit `--layer` to read X.",
            id="layer",
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
