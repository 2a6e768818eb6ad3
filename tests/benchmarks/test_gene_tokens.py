"""The benchmark of gene tokens: its ways to annotate, and its table."""

import gene_tokens
import numpy as np
from harness.records import Records

import hdeepinsight as hdi

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def test_the_network_and_the_profiles_are_measured_apart():
    data = hdi.datasets.demo()
    hdi.SCLabelNet.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
    model = hdi.SCLabelNet(data.reference, n_genes=200, seed=0)
    model.train(max_epochs=1, **QUIET)
    found = {name: way(model, data.query) for name, way in gene_tokens.WAYS.items()}
    for probabilities in found.values():
        np.testing.assert_allclose(
            probabilities[:, model.taxonomy.leaves].sum(axis=1), 1, atol=1e-4
        )
    np.testing.assert_allclose(
        found["sclabelnet"][:, 1:], model.predict_proba(data.query).to_numpy(), atol=1e-5
    )
    assert model.combined_profiles is not None
    network = found["sclabelnet_network"]
    assert not np.allclose(network, found["sclabelnet"], atol=1e-3)
    model.module.head.linear.bias.data[0] += 5
    again = gene_tokens.profiles_alone(model, data.query)
    np.testing.assert_array_equal(again, found["profiles"])  # no network has a part in it


def test_the_table_shows_each_method_on_each_pair_and_draw():
    rows = [
        {"part": "pairs", "pair": pair, "seed": 0, "level": "cell_type"}
        | {"method": name, "macro_f1": value}
        for pair, value in (("zheng_to_pbmc3k", 0.5), ("pbmc3k_to_pbmc4k", 0.7))
        for name in gene_tokens.OURS
    ]
    rows += [
        {"part": "few_labels", "seed": seed, "method": name, "macro_f1": 0.25 + seed}
        for seed in (0, 1)
        for name in ("sclabelnet", "pretrained sclabelnet", "shuffled probe")
    ]
    rows += [
        {"part": "leak", "set": cells, "protocol": protocol, "method": name}
        | {"accuracy": value, "macro_f1": value / 2}
        for cells in gene_tokens.LEAK_SETS
        for protocol, value in (("by donor", 0.5), ("by cell", 0.75), ("leaky", 1.0))
        for name in ("sclabelnet", "logistic_regression")
    ]
    text = gene_tokens.table(rows)
    assert "| SCLabelNet | 0.500 | 0.700 | 0.600 |" in text
    assert "| SCHDeepInsight |" in text
    assert "| SCLabelNet, pretrained | 0.250 | 1.250 | 0.750 ± 0.500 |" in text
    assert "encoder, pretrained, then gene embeddings permuted | 0.250 | 1.250 |" in text
    assert "| SCLabelNet | 1.000 / 0.500 | 0.750 / 0.375 | 0.500 / 0.250 |" in text


def test_only_rows_that_the_records_lack_are_measured(tmp_path, monkeypatch):
    records = Records(tmp_path / "found.json")
    run = {"part": "all_labels", "seed": 0}
    there = [run | {"method": name, "macro_f1": 0.5} for name in gene_tokens.WITH_LABELS[2:]]
    leaked = {"part": "leak", "set": "bm_triana_citeseq", "method": "sclabelnet"}
    records.replace([*there, leaked])
    wanted, sets = [], []

    def with_labels(data, seed, share, missing):
        wanted.append((seed, share, missing))
        yield from ({"method": name, "macro_f1": 1.0} for name in gene_tokens.WITH_LABELS[1:])

    def leak(data, name):
        sets.append(name)
        yield {"method": "sclabelnet"}

    monkeypatch.setattr(gene_tokens, "with_labels", with_labels)
    monkeypatch.setattr(gene_tokens, "leak", leak)
    command = ["--pairs", "data/pairs.json", "--parts", "all_labels", "leak"]
    gene_tokens.main([*command, "--out", str(records.path)])
    assert wanted == [(0, 1.0, set(gene_tokens.WITH_LABELS[:2]))]
    assert sets == ["lung_mouse_zilionis_immune", "kang_ctrl_8donors"]
    rows = Records(records.path).matching(**run)
    assert sorted(r["method"] for r in rows) == sorted(gene_tokens.WITH_LABELS[1:])
    assert [r["method"] for r in rows if r["macro_f1"] == 1] == ["logistic_regression_balanced"]
