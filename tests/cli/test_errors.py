"""Errors of the command line: one paragraph on stderr, an exit code, and unchanged files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
from scipy import sparse

from hdeepinsight import Taxonomy


class Bad(NamedTuple):
    """How a query is spoilt, and what the message has to say."""

    spoil: Callable[[ad.AnnData], ad.AnnData]
    says: str


def _set(value):
    def spoil(query):
        query.X = sparse.csr_matrix(query.X)
        query.X.data[:5] = value
        return query

    return spoil


def _logged(query):
    # A jitter, as smoothing leaves it: no unit is left of which the values are multiples.
    noise = np.random.default_rng(0).uniform(0.9, 1.1, query.X.nnz)
    query.X.data = np.log1p(query.X.data * noise).astype(np.float32)
    return query


def _scaled(query):
    dense = query.X.toarray()
    query.X = (dense - dense.mean(0)) / (dense.std(0) + 1e-6)
    return query


def _renamed(share):
    def spoil(query):
        kept = int(query.n_vars * share)
        names = [f"other_{i}" for i in range(query.n_vars - kept)]
        query.var_names = [*query.var_names[:kept], *names]
        return query

    return spoil


def _fractions(query):
    query.X = query.X + sparse.csr_matrix((query.X > 3) * 0.37).astype(np.float32)
    return query


BAD_QUERIES = {
    "no_cells": Bad(lambda q: q[:0].copy(), "0 cells"),
    "no_gene_in_common": Bad(_renamed(0), "0 of the model's"),
    "five_percent_in_common": Bad(_renamed(0.05), "At least 10% is needed"),
    "nan": Bad(_set(np.nan), "NaN"),
    "infinite": Bad(_set(np.inf), "infinite"),
    "negative": Bad(_set(-2.0), "negative"),
    "scaled": Bad(_scaled, "negative"),
    "log_without_counts": Bad(_logged, "log1p"),
    "fractions": Bad(_fractions, "fraction"),
    "all_zero": Bad(lambda q: _zeros(q), "all values are zero"),
}


def _zeros(query):
    query.X = sparse.csr_matrix(query.shape, dtype=np.float32)
    return query


def assert_readable(done, code: int, says: str = "") -> None:
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert says.lower() in done.stderr.lower()
    assert "\n\n" not in done.stderr.strip()


def test_bad_queries(files, halves, hdeepinsight, sha256, tmp_path_factory):
    for name in BAD_QUERIES:
        tmp_path = tmp_path_factory.mktemp("case")
        query = tmp_path / "query.h5ad"
        BAD_QUERIES[name].spoil(halves[1].copy()).write_h5ad(query)
        before = sha256(query)
        out = tmp_path / "out.h5ad"
        done = hdeepinsight("annotate", query, "--fast", "--model", files.model, "--out", out)
        assert_readable(done, 1, BAD_QUERIES[name].says)
        assert done.stderr.startswith("Error: ")
        assert not out.exists()
        assert sha256(query) == before


GOOD_QUERIES = {
    "one_cell": lambda q: q[:1].copy(),
    "permuted_genes": lambda q: q[:, np.random.default_rng(0).permutation(q.n_vars)].copy(),
    "logged_counts": lambda q: _normalised(q),
}


def _normalised(query):
    totals = np.asarray(query.X.sum(axis=1))
    query.X = sparse.csr_matrix(np.log1p(1e4 * query.X.toarray() / totals), dtype=np.float32)
    return query


def test_repaired_queries(files, halves, hdeepinsight, tmp_path_factory):
    for name in GOOD_QUERIES:
        tmp_path = tmp_path_factory.mktemp("case")
        good, query = tmp_path / "good.csv", tmp_path / "query.h5ad"
        GOOD_QUERIES[name](halves[1].copy()).write_h5ad(query)
        command = ["annotate", files.query, "--fast", "-m", files.model, "-o", good]
        assert hdeepinsight(*command).exit_code == 0
        out = tmp_path / "out.csv"
        done = hdeepinsight("annotate", query, "--fast", "--model", files.model, "--out", out)
        assert done.exit_code == 0, done.stderr
        lines, wanted = out.read_text().splitlines(), good.read_text().splitlines()
        labels = [line.split(",")[:4] for line in lines]
        assert labels == [line.split(",")[:4] for line in wanted[: len(lines)]]
        assert ("recovered" in done.stdout) == (name == "logged_counts")


def _damaged(model: Path, copy: Path) -> Path:
    copy.mkdir()
    content = (model / "model.pt").read_bytes()
    (copy / "model.pt").write_bytes(content[: len(content) // 2])
    return copy


def _foreign(model: Path, copy: Path) -> Path:
    import torch

    copy.mkdir()
    torch.save({"weight": torch.zeros(3)}, copy / "model.pt")
    return copy


def _no_torch_file(model: Path, copy: Path) -> Path:
    copy.mkdir()
    (copy / "model.pt").write_text("hello")
    return copy


def _empty(model: Path, copy: Path) -> Path:
    copy.mkdir()
    return copy


def test_bad_models(files, hdeepinsight, tmp_path_factory):
    for command in ["annotate", "evaluate", "info"]:
        for spoil in [_damaged, _foreign, _no_torch_file, _empty]:
            tmp_path = tmp_path_factory.mktemp("case")
            model = spoil(files.model, tmp_path / "model")
            arguments = {
                "annotate": [files.query, "--model", model, "--out", tmp_path / "out.csv"],
                "evaluate": [files.query, "--model", model],
                "info": [model],
            }
            done = hdeepinsight(command, *arguments[command])
            assert_readable(done, 1, str(model))


def test_bad_annotate_commands(files, hdeepinsight, sha256, tmp_path_factory):
    for arguments, code, says in [
        (["annotate", "{folder}/none.h5ad"], 1, "does not exist"),
        (["annotate", "{model}/model.pt"], 1, "cannot be opened"),
        (["annotate", "{query}", "--layer", "none"], 1, "layers['none']"),
        (
            ["annotate", "{query}", "--key-added", "a/b", "--out", "{folder}/x.h5ad"],
            2,
            "without a slash",
        ),
        (["annotate", "{query}", "--key-added", "x"], 2, "columns have none. Omit it."),
        (["annotate", "{query}", "--key-added", "x", "--stream"], 2, "columns have none. Omit it."),
        (["annotate", "{query}", "--fast", "--adapt", "on"], 2, "got --adapt on as well"),
        (["annotate", "{query}", "--fast", "--batch-key", "batch"], 2, "got --batch-key as well"),
        (["annotate", "https://x.org/q.h5ad"], 1, "Download the file first."),
        (["annotate", "{query}", "--threshold", "0.3"], 2, "0.5"),
        (["annotate", "{query}", "--scale", "log"], 2, "auto"),
        (["annotate", "{query}", "--out", "{query}", "--overwrite"], 2, "never changed"),
        (["annotate", "{query_zarr}", "--out", "{query_zarr}/x.csv"], 2, "never changed"),
        (["annotate", "{query}", "--out", "{folder}/x.loom"], 2, ".h5ad or .zarr"),
        (["annotate", "{query}", "--out", "{folder}"], 2, "ends in 'nothing'"),
        (["annotate", "{query}", "--out", "{reference}/x.csv"], 2, "is not a folder"),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        before = sha256(files.query), sha256(files.query_zarr)
        filled = [argument.format(**vars(files)) for argument in arguments]
        out = [] if "--out" in filled else ["--out", tmp_path / "out.csv"]
        done = hdeepinsight(*filled, "--model", files.model, *out)
        assert_readable_or_usage(done, code, says)
        assert (sha256(files.query), sha256(files.query_zarr)) == before


def assert_readable_or_usage(done, code: int, says: str) -> None:
    """Typer prints its own errors in a box, below a line on usage."""
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    assert says in " ".join(done.stderr.split())


def test_bad_train_commands(files, halves, hdeepinsight, tmp_path_factory):
    for arguments, code, says in [
        ([], 2, "No label column"),
        (["--labels-key", "none"], 1, "it has 'lineage', 'cell_type'"),
        (["--labels-keys", "lineage,"], 2, "empty name"),
        (["--labels-key", "depth"], 1, "got int in column 'depth'"),
        (["--labels-key", "cell_type", "--batch-key", "donor"], 1, "'donor'"),
        (["--labels-key", "cell_type", "--layer", "x"], 1, "layer"),
        (["--labels-key", "cell_type", "--backbone", "x"], 1, "backbone"),
        (
            ["--labels-key", "cell_type", "--n-members", "many"],
            1,
            "--n-members must be an integer >= 1, got 'many'",
        ),
        (
            ["--labels-keys", "cell_type,lineage", "--split-key", "batch", "--max-epochs", "0"],
            2,
            "epochs",
        ),
        (["--labels-key", "cell_type", "--taxonomy", "{folder}/no.json"], 1, "got no file"),
        (["--labels-key", "cell_type", "--taxonomy", "{query}"], 1, "not JSON"),
        (["--labels-key", "lineage", "--taxonomy", "{tree}"], 1, "Myeloid"),
        (
            ["--labels-key", "cell_type", "--taxonomy", "{cycle}"],
            1,
            "node 1 ('T') with the parent 2",
        ),
    ]:
        tmp_path = tmp_path_factory.mktemp("case")
        tree, cycle = tmp_path / "tree.json", tmp_path / "cycle.json"
        Taxonomy.from_nested({"T": ["CD4", "CD8"], "B": []}).to_json(tree)
        record = Taxonomy.from_nested({"T": ["CD4"]}).to_dict()
        record["nodes"][0]["parent"] = 2
        cycle.write_text(json.dumps(record))
        filled = [a.format(**vars(files), tree=tree, cycle=cycle) for a in arguments]
        reference, out = halves[0].copy(), tmp_path / "model"
        reference.obs["depth"] = np.arange(reference.n_obs)
        reference.write_h5ad(tmp_path / "reference.h5ad")
        done = hdeepinsight(
            "train", tmp_path / "reference.h5ad", "--out", out, "--layout", "random", *filled
        )
        assert_readable_or_usage(done, code, says)
        assert not out.exists()


def test_train_checks_the_output_before_reading(files, hdeepinsight, tmp_path):
    out = files.query / "model"
    done = hdeepinsight("train", tmp_path / "none.h5ad", "--labels-key", "cell_type", "--out", out)
    assert_readable(done, 2, "query.h5ad is not a folder")


def test_train_does_not_replace_a_model(files, hdeepinsight, sha256):
    before = sha256(files.model)
    done = hdeepinsight("train", files.reference, "--labels-key", "cell_type", "--out", files.model)
    assert_readable(done, 2, "--overwrite")
    assert sha256(files.model) == before


def test_evaluate_with_bad_labels(files, hdeepinsight):
    for columns, says in [
        (["--labels-key", "none"], "'none'"),
        (["--labels-key", "batch"], "first"),
        (["--labels-keys", "lineage,batch"], "first"),
    ]:
        done = hdeepinsight("evaluate", files.query, "--model", files.model, *columns)
        assert_readable(done, 1, says)


def test_evaluate_without_known_labels(files, halves, hdeepinsight, tmp_path):
    query = halves[1].copy()
    query.obs["cell_type"] = query.obs["lineage"] = "Unknown"
    query.write_h5ad(tmp_path / "query.h5ad")
    done = hdeepinsight("evaluate", tmp_path / "query.h5ad", "--model", files.model)
    assert_readable(done, 1, "No cell has a known label")


def test_debug_shows_the_traceback(files, hdeepinsight, tmp_path):
    command = ["annotate", files.query, "--layer", "none", "--model", files.model]
    done = hdeepinsight(*command, "--out", tmp_path / "out.csv", "--debug")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert "/hdeepinsight/data/_" in done.stderr
    assert "Error: The data holds no layers['none']" in done.stderr


def test_unexpected_error_is_a_paragraph(files, hdeepinsight, monkeypatch):
    from hdeepinsight import hub

    def broken(*_, **__):
        raise RuntimeError("tensors\n\nof different shapes " + "x " * 500)

    monkeypatch.setattr(hub, "load_model", broken)
    done = hdeepinsight("info", files.model)
    assert_readable(done, 1, "RuntimeError: tensors of different shapes")
    assert "--debug" in done.stderr
    assert len(done.stderr) < 600


def test_a_table_with_gaps_in_its_text_is_annotated(files, halves, hdeepinsight, tmp_path):
    table = halves[1].to_df().astype(int).assign(donor=["a", None, "b"] * 70)
    table.to_csv(tmp_path / "query.csv")
    done = hdeepinsight("annotate", tmp_path / "query.csv", "--model", files.model, "--fast")
    assert done.exit_code == 0, done.output
    copy = ad.read_h5ad(tmp_path / "query.annotated.h5ad")
    assert copy.obs["donor"].isna().sum() == 70


def test_names_that_look_like_markup_are_printed_unchanged(files, hdeepinsight):
    done = hdeepinsight("info", files.folder / "[bold]none[/bold].h5ad")
    assert done.exit_code == 1
    assert "[bold]none[/bold].h5ad does not exist" in done.stderr


def test_existing_columns_of_the_query_raise(files, halves, hdeepinsight, tmp_path):
    query = halves[1].copy()
    query.obs["hdi_confidence"] = 1.0
    query.write_h5ad(tmp_path / "query.h5ad")
    command = ["annotate", tmp_path / "query.h5ad", "--model", files.model]
    done = hdeepinsight(*command, "--out", tmp_path / "out.h5ad")
    assert_readable(done, 2, "hdi_confidence")
    assert hdeepinsight(*command, "--out", tmp_path / "out.csv").exit_code == 0
