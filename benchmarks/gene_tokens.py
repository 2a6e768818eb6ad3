"""SCLabelNet on gene tokens: what its network adds, what pretraining adds, and speed.

``python benchmarks/gene_tokens.py --pairs <pairs.json>`` measures ``pairs``: the
model, its network without the profiles of the types, and these profiles without any network.
``few_labels``: 1 % of the labels of sorted blood cells, pretrained on other cells or not, or with
the gene embeddings permuted after pretraining, scored on PBMC 3k; ``all_labels``: the same with all
labels; ``peer``: 1 % by a model of scvi-tools, in versions that have it. ``pretraining``: masked
values of unseen donors, and speed. ``leak``: scores by the protocol of public code, in which copies
of test cells are trained on, beside scores of unseen cells and of unseen donors. Rows that are
there already are kept.
`SCHDeepInsight` and logistic regression on the pairs are those of ``accuracy.json``.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from harness.pairs import read_pairs
from harness.prepare import Prepared, prepare
from harness.records import Records
from harness.scoring import macro_f1, score
from harness.summary import summarise
from harness.tables import figure
from harness.tables import table as markdown
from methods.interface import read_cells, read_reference
from methods.ours import SCLabelNet, profiles_alone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.utils import resample

import hdeepinsight as hdi
from hdeepinsight.data import log_normalize, open_counts

HERE = Path(__file__).resolve().parent
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
PARTS = "pairs", "few_labels", "all_labels", "peer", "pretraining", "leak"
#: Cells of the unlabelled sets, labelled cells, and epochs of pretraining, ours and the peer's.
SORTED_CELLS, QUERY_CELLS, SHARE, EPOCHS, PEER_EPOCHS = 2000, 1000, 0.01, 4, 60
DONOR_CELLS = 500
LEVELS = ["lineage", "cell_type"]
#: Sets and finest labels by which the leak is measured, and their greatest number of cells.
LEAK_SETS = {
    "lung_mouse_zilionis_immune": "cell_type_fine",
    "bm_triana_citeseq": "cell_type",
    "kang_ctrl_8donors": "cell_type_fine",
}
LEAK_CELLS = 2000
PROTOCOLS = {"leaky": "published (leaky)", "by cell": "split by cell", "by donor": "split by donor"}
OURS = {
    "sclabelnet": "SCLabelNet",
    "sclabelnet_network": "its network alone, without profiles",
    "profiles": "the profiles alone, without a network",
}
OTHERS = {
    "schdeepinsight": "SCHDeepInsight",
    "logistic_regression_balanced": "logistic regression, balanced",
    "joint_embedding": "scvi-tools' JointEmbeddingSCVI + logistic regression, balanced",
    "probe": "logistic regression, balanced, on features of the encoder",
}
PREFIXES = {
    "pretrained ": ", pretrained",
    "shuffled ": ", pretrained, then gene embeddings permuted",
}
#: Rows of ``few_labels`` and ``all_labels``; the profiles do not depend on pretraining.
WITH_LABELS = (
    "pretraining",
    "logistic_regression_balanced",
    *(f"{prefix}probe" for prefix in PREFIXES),
    *(prefix + name for prefix in ("", *PREFIXES) for name in OURS if name != "profiles"),
    "profiles",
)


def network_alone(model: hdi.SCLabelNet, query: ad.AnnData) -> np.ndarray:
    """Return node probabilities by the network, not combined with profiles."""
    profiles = model.profiles_
    model.profiles_ = replace(profiles, variance=None)
    found = model.annotate(query, threshold=None, reject="off").node_probabilities
    model.profiles_ = profiles
    return found


def combined(model: hdi.SCLabelNet, query: ad.AnnData) -> np.ndarray:
    """Return node probabilities of the model as it is."""
    return model.annotate(query, threshold=None, reject="off").node_probabilities


WAYS: dict[str, Callable[[hdi.SCLabelNet, ad.AnnData], np.ndarray]] = dict(
    zip(OURS, (combined, network_alone, profiles_alone), strict=True)
)


def on_pair(prepared: Prepared, seed: int) -> Iterator[dict]:
    """Train on a reference, and score the query in each way."""
    pair = prepared.pair
    reference = read_reference(str(prepared.reference), list(pair.levels), str(prepared.genes))
    query = read_cells(str(prepared.query)).anndata()
    method = SCLabelNet(seed=seed, threads=1, folder=prepared.folder)
    used = time.process_time()
    method.fit(reference)
    train_s = round(time.process_time() - used, 1)
    tree = method.model.taxonomy
    for name, way in WAYS.items():
        found = way(method.model, query)
        result = hdi.Annotation(taxonomy=tree, obs_names=query.obs_names, node_probabilities=found)
        predicted = method.prediction(result)
        *_, finest = score(
            prepared.truth(),
            reference.labels,
            predicted.table(reference.tree),
            predicted.probabilities,
            ignore=pair.ignore_labels,
            minimum=pair.min_reference_cells,
        )
        kept = {key: round(finest[key], 5) for key in ("accuracy", "macro_f1", "h_f1", "ece")}
        yield {"method": name, "level": finest["level"], **kept, "train_cpu_s": train_s}


def shuffle_genes(model: hdi.SCLabelNet) -> None:
    """Give each gene the learned embedding of another one."""
    table = model.module.backbone.genes.weight.data
    table.copy_(table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))])


def blood(
    data: Path, seed: int, share: float = SHARE
) -> tuple[ad.AnnData, list[ad.AnnData], ad.AnnData]:
    """Return labelled sorted cells, unlabelled cells of this and other studies, and a query."""
    rng = np.random.default_rng(seed)
    cells = ad.read_h5ad(data / "pbmc_zheng2017_facs.h5ad")
    order = rng.permutation(cells.n_obs)
    n_few = round(share * cells.n_obs)
    few, others = order[:n_few], np.roll(order, -n_few)[:SORTED_CELLS]
    query = ad.read_h5ad(data / "pbmc3k.h5ad")
    query = query[rng.permutation(query.n_obs)[:QUERY_CELLS]].copy()
    unlabelled = [cells[others].copy(), ad.read_h5ad(data / "pbmc_4studies_unlabelled.h5ad")]
    found = hdi.metrics.check_leakage(cells[few], query, pretrain=unlabelled)
    if not found.is_clean:
        raise ValueError(f"The query is in the training or pretraining cells: {found}")
    return cells[few].copy(), unlabelled, query


def with_labels(data: Path, seed: int, share: float, missing: set[str]) -> Iterator[dict]:
    """Train on a share of the labels, with and without pretraining, intact or permuted.

    Only the models of `missing` rows (a part of ``WITH_LABELS``) are trained.
    """
    few, unlabelled, query = blood(data, seed, share)
    truth = query.obs[LEVELS[-1]].astype(str).to_numpy()
    known = few.obs[LEVELS[-1]].astype(str).to_numpy()
    scored = np.isin(truth, known)

    def row(name: str, called: np.ndarray, started: float) -> dict:
        found = {"pair": "zheng_to_pbmc3k", "method": name, "n_cells": few.n_obs}
        f1 = round(macro_f1(truth[scored], np.asarray(called, dtype=object)[scored]), 5)
        return found | {"macro_f1": f1, "cpu_s": round(time.process_time() - started, 1)}

    used = time.process_time()
    hdi.SCLabelNet.setup_anndata(unlabelled[0])
    encoder = hdi.SCLabelNet(unlabelled[0], seed=seed, n_genes=2000)
    encoder.pretrain(unlabelled, max_epochs=EPOCHS, **QUIET)
    genes = [gene for gene in encoder.genes if gene in query.var_names]
    yield {"method": "pretraining", **encoder.pretraining} | {
        "cpu_s": round(time.process_time() - used, 1)
    }
    used = time.process_time()
    linear = LogisticRegression(max_iter=1000, class_weight="balanced")
    linear.fit(log_normalize(few[:, genes].X), known)
    yield row(
        "logistic_regression_balanced", linear.predict(log_normalize(query[:, genes].X)), used
    )
    hdi.SCLabelNet.setup_anndata(few, labels_keys=LEVELS)
    plain = hdi.SCLabelNet(few, seed=seed, genes=list(encoder.genes))
    models = {"": plain}
    for prefix in PREFIXES:
        if prefix == "shuffled ":
            shuffle_genes(encoder)
        used = time.process_time()
        known_z, query_z = (encoder.get_latent_representation(each) for each in (few, query))
        linear = LogisticRegression(max_iter=1000, class_weight="balanced").fit(known_z, known)
        yield row(f"{prefix}probe", linear.predict(query_z), used)
        models[prefix] = hdi.SCLabelNet.from_encoder(encoder, few, n_genes=2000, seed=seed)
    for prefix, model in models.items():
        if not missing.intersection(prefix + name for name in WAYS):
            continue
        used = time.process_time()
        model.train(validation_size=0, **QUIET)
        leaves = model.taxonomy.leaves
        names = np.array([model.taxonomy.names[leaf][-1] for leaf in leaves])
        for name, way in WAYS.items():
            if not (prefix and name == "profiles"):
                yield row(prefix + name, names[way(model, query)[:, leaves].argmax(1)], used)


def with_joint_embedding(data: Path, seed: int) -> Iterator[dict]:
    """Fit logistic regression to embeddings by scvi-tools' JointEmbeddingSCVI, where it has one."""
    from scvi import external, settings

    if not hasattr(external, "JointEmbeddingSCVI"):
        return
    few, unlabelled, query = blood(data, seed)
    genes = hdi.data.select_genes(open_counts(unlabelled[0]), 2000)
    for cells in (*unlabelled, query):
        genes = [gene for gene in genes if gene in cells.var_names]
    used, settings.seed = time.process_time(), seed
    cells = ad.concat([each[:, genes] for each in unlabelled], index_unique="_", keys=["a", "b"])
    external.JointEmbeddingSCVI.setup_anndata(cells)
    model = external.JointEmbeddingSCVI(cells)
    model.train(max_epochs=PEER_EPOCHS, **QUIET)
    few_z, query_z = (
        model.get_latent_representation(each[:, genes].copy()) for each in (few, query)
    )
    truth, known = (each.obs[LEVELS[-1]].astype(str).to_numpy() for each in (query, few))
    linear = LogisticRegression(max_iter=1000, class_weight="balanced").fit(few_z, known)
    scored = np.isin(truth, known)
    f1 = macro_f1(truth[scored], linear.predict(query_z).astype(object)[scored])
    yield {"pair": "zheng_to_pbmc3k", "method": "joint_embedding", "n_cells": few.n_obs} | {
        "macro_f1": round(f1, 5),
        "cpu_s": round(time.process_time() - used, 1),
    }


def of_unseen_donors(data: Path) -> Iterator[dict]:
    """Pretrain on some donors, predict masked values of others, and time both steps."""
    cells = ad.read_h5ad(data / "kang_ctrl_8donors.h5ad")
    rng = np.random.default_rng(0)
    turn = pd.Series(rng.permutation(cells.n_obs)).groupby(cells.obs["donor"].to_numpy()).rank()
    cells = cells[turn.to_numpy() <= DONOR_CELLS].copy()
    hdi.SCLabelNet.setup_anndata(cells)
    encoder = hdi.SCLabelNet(cells, seed=0)
    started = time.process_time()
    encoder.pretrain(cells, max_epochs=EPOCHS, split_key="donor", **QUIET)
    spent = time.process_time() - started
    record = encoder.pretraining
    each = spent / EPOCHS / record["n_cells"]
    shuffle_genes(encoder)
    encoder.pretrain(  # learns nothing at this rate
        cells, max_epochs=1, split_key="donor", plan_kwargs={"lr": 1e-12}, **QUIET
    )
    record["shuffled_loss"] = encoder.pretraining["validation_loss"]
    yield {"method": "unseen donors", **record, "ms_per_cell_and_epoch": round(1e3 * each, 2)}


def leak(data: Path, name: str) -> Iterator[dict]:
    """Score cells of a set by the published protocol, by unseen cells, and by unseen donors."""
    cells = ad.read_h5ad(data / f"{name}.h5ad")
    cells = cells[np.random.default_rng(0).permutation(cells.n_obs)[:LEAK_CELLS]].copy()
    labels, logged = cells.obs[LEAK_SETS[name]].astype(str).to_numpy(), log_normalize(cells.X)
    hdi.SCLabelNet.setup_anndata(cells, labels_key=LEAK_SETS[name])
    for protocol in PROTOCOLS:
        model = hdi.SCLabelNet(cells, seed=0)
        if protocol == "leaky":
            found = model.evaluate(protocol="published_leaky", **QUIET)
            types, sizes = np.unique(labels, return_counts=True)
            copied = {"n_samples": sizes.max(), "random_state": 0}
            rows = [resample(np.flatnonzero(labels == each), **copied) for each in types]
            train, test = train_test_split(np.concatenate(rows), test_size=0.2, random_state=0)
        else:
            split_key = "donor" if protocol == "by donor" else None
            model.train(validation_size=0.2, split_key=split_key, **QUIET)
            found = model.evaluate()
            train, test = model.train_indices, model.validation_indices
        linear = LogisticRegression(max_iter=1000).fit(logged[train], labels[train])
        called, truth = linear.predict(logged[test]).astype(object), labels[test]
        run = {"protocol": protocol, "note": found.note}
        for method, scores in (
            ("sclabelnet", found.levels.iloc[-1][["accuracy", "macro_f1"]]),
            ("logistic_regression", ((called == truth).mean(), macro_f1(truth, called))),
        ):
            accuracy, f1 = (round(float(score), 4) for score in scores)
            yield run | {"method": method, "accuracy": accuracy, "macro_f1": f1}


def speed(data: Path) -> Iterator[dict]:
    """Time the annotation of cells with the present number of threads."""
    cells = ad.read_h5ad(data / "pbmc3k.h5ad")
    hdi.SCLabelNet.setup_anndata(cells, labels_keys=LEVELS)
    for n_genes in (2000, 4096):
        model = hdi.SCLabelNet(cells, n_genes=n_genes)
        model.train(max_steps=1, **QUIET)  # an untrained network is as fast as a trained one
        model.annotate(cells[:200])
        started, used = time.perf_counter(), time.process_time()
        model.annotate(cells)
        seconds, cpu = time.perf_counter() - started, time.process_time() - used
        yield {"method": "annotation", "n_genes": n_genes, "threads": torch.get_num_threads()} | {
            "cells_per_s": round(cells.n_obs / seconds),
            "cells_per_cpu_s": round(cells.n_obs / cpu),
        }


def table(rows: list[dict]) -> str:
    """Show macro-F1 on the pairs, with few labels, and the figures of pretraining."""
    parts = [_pairs_table([row for row in rows if row["part"] == "pairs"])]
    few = [row for row in rows if row["part"] in ("few_labels", "peer")]
    every = [row for row in rows if row["part"] == "all_labels"]
    if few:
        parts.append(_few_table(few, "**1 % of the labels**: 39 sorted cells → "))
    if every:
        parts.append(_few_table(every, "**All labels** of the sorted cells → "))
    if leaks := [row for row in rows if row["part"] == "leak"]:
        parts.append(_leak_table(leaks))
    for row in rows:
        if row["method"] == "unseen donors":
            parts.append(
                f"**Masked values of unseen donors** ({row['n_held_out']:,} of {row['n_cells']:,} "
                f"cells, {row['max_epochs']} epochs): cross-entropy {row['validation_loss']:.3f}; "
                f"of each gene's own bins {row['baseline_per_gene']:.3f}, of those of all genes "
                f"{row['baseline_all_genes']:.3f}; with the gene embeddings permuted "
                f"{row.get('shuffled_loss', np.nan):.3f}. Pretraining took "
                f"{row['ms_per_cell_and_epoch']} CPU-ms per cell and epoch."
            )
        if row["method"] == "annotation":
            parts.append(
                f"**Annotation** with {row['n_genes']:,} genes: {row['cells_per_cpu_s']:,} cells "
                "per CPU-second."
            )
    return "\n\n".join(parts)


def _pairs_table(rows: list[dict]) -> str:
    pairs = list(dict.fromkeys(row["pair"] for row in rows))
    finest = {row["pair"]: row["level"] for row in rows}
    others = json.loads((HERE / "results" / "accuracy.json").read_text())
    seeds = {row["seed"] for row in rows}
    rows = rows + [row for row in others if row["level"] == finest.get(row["pair"])]
    lines = []
    for name, title in (OURS | OTHERS).items():
        own = [row for row in rows if row["method"] == name and row["seed"] in seeds]
        found = [
            summarise([row for row in own if row["pair"] == pair], "macro_f1") for pair in pairs
        ]
        if any(found):
            mean = f"{np.mean([each.mean for each in found]):.3f}" if all(found) else "–"
            lines.append([title, *map(figure, found), mean])
    text = (
        f"Macro-F1 of the query at its finest level, all labels of the reference, {len(seeds)} "
        "seeds. Both models are combined with the same profiles of the types."
    )
    return f"{text}\n\n{markdown(['method', *pairs, 'mean'], lines)}"


def _few_table(rows: list[dict], cells: str) -> str:
    seeds = sorted({row["seed"] for row in rows})
    lines = []
    for name in (*WITH_LABELS, "joint_embedding"):
        own = [row for row in rows if row["method"] == name and "macro_f1" in row]
        if not own:
            continue
        prefix = next((each for each in PREFIXES if name.startswith(each)), "")
        title = (OURS | OTHERS)[name.removeprefix(prefix)] + PREFIXES.get(prefix, "")
        found = [
            summarise([row for row in own if row["seed"] == seed], "macro_f1") for seed in seeds
        ]
        lines.append([title, *map(figure, found), figure(summarise(own, "macro_f1"))])
    text = (
        f"{cells}1,000 cells of PBMC 3k, macro-F1 over the cell types among them. Pretraining "
        f"reads {SORTED_CELLS:,} sorted cells and 1,500 cells of five runs without labels, for "
        f"{EPOCHS} epochs; no test cell is among them."
    )
    return f"{text}\n\n{markdown(['method', *(f'draw {seed}' for seed in seeds), 'mean'], lines)}"


def _leak_table(rows: list[dict]) -> str:
    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        for method, title in (("sclabelnet", "SCLabelNet"), ("logistic_regression", "logistic")):
            own = {r["protocol"]: r for r in rows if (r["set"], r["method"]) == (name, method)}
            found = (own[protocol] for protocol in PROTOCOLS)
            scores = [f"{each['accuracy']:.3f} / {each['macro_f1']:.3f}" for each in found]
            lines.append([name, title, *scores])
    text = (
        "**What a leak is worth**: accuracy / macro-F1 of the same cells (at most "
        f"{LEAK_CELLS:,}) by three protocols. In the published one, cells of rare types are copied "
        "before 20 % are split off for the test, so that copies of test cells are trained on: its "
        "figures measure the leak, not a method. Split by cell, types with fewer than 25 cells are "
        "not tested."
    )
    return f"{text}\n\n{markdown(['cells', 'method', *PROTOCOLS.values()], lines)}"


def main(argv: list[str] | None = None) -> None:
    """Measure what the records lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--only", nargs="+", metavar="PAIR")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the pairs")
    parser.add_argument("--draws", type=int, nargs="+", default=[0, 1, 2], help="of few labels")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gene_tokens.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    records, data = Records(args.out), args.data or args.pairs.parent

    def keep(rows: Iterable[dict], **run: object) -> None:
        found = [{**run, **row} for row in rows]
        records.replace([*records.matching(**run), *found], **run)
        for row in found:
            print(*row.values(), flush=True)

    def measure(make: Callable[[], Iterator[dict]], **run: object) -> None:
        if not records.matching(**run):
            keep(make(), **run)

    def measure_labels(part: str, seed: int, share: float) -> None:
        run = {"part": part, "seed": seed}
        missing = set(WITH_LABELS) - {row["method"] for row in records.matching(**run)}
        if missing:
            rows = with_labels(data, seed, share, missing)
            keep((row for row in rows if row["method"] in missing), **run)

    if "pairs" in args.parts:
        for pair in read_pairs(args.pairs, args.only):
            prepared = prepare(pair, data, args.work)
            for seed in args.seeds:
                run = {"part": "pairs", "pair": pair.name, "seed": seed}
                measure(partial(on_pair, prepared, seed), **run)
    if "few_labels" in args.parts:
        for seed in args.draws:
            measure_labels("few_labels", seed, SHARE)
    if "all_labels" in args.parts:
        measure_labels("all_labels", 0, 1.0)
    if "leak" in args.parts:
        for name in LEAK_SETS:
            measure(partial(leak, data, name), part="leak", set=name)
    if "peer" in args.parts:
        for seed in args.draws:
            measure(partial(with_joint_embedding, data, seed), part="peer", seed=seed)
    if "pretraining" in args.parts:
        for make in (of_unseen_donors, speed):
            measure(partial(make, data), part=make.__name__)


if __name__ == "__main__":
    main()
