"""Measure verdicts, rejection, novelty, prediction sets, and agreement of levels.

``python benchmarks/trust.py --pairs <pairs.json> --seeds 0 1 2`` computes all rows: known cells,
foreign tissue, noise, empty droplets, doublets, left-out types, coverage of label sets, and
contradicting levels. Rows that exist are kept; ``--page`` writes the tables into a page of the
docs. The bundled model annotates all files, and a model of each pair of human blood its query; for
any other pair named after ``--only``, label sets and levels are scored. Labels of queries serve
for scoring only. The controls are a threshold of 0.5 on the largest probability of a type, and two
logistic regressions trained separately on lineages and types.
"""

from __future__ import annotations

import argparse
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import anndata as ad
import numpy as np
from harness.pairs import read_pairs
from harness.prepare import Prepared, prepare
from harness.records import Records
from harness.scoring import auroc
from methods.interface import read_reference
from methods.matrix import log_cp10k
from methods.ours import SCHDeepInsight
from scipy import sparse
from sklearn.linear_model import LogisticRegression

import hdeepinsight as hdi

HERE = Path(__file__).resolve().parent
logger = logging.getLogger("benchmarks")
BEGIN, END = "<!-- trust: begin -->", "<!-- trust: end -->"

N_CELLS = 1500
N_MADE = 400
BUNDLED = "bundled"
#: Pairs of human blood.
BLOOD = ("zheng_to_pbmc3k", "pbmc3k_to_pbmc4k", "kang_donors", "kang_ctrl_to_stim")
#: Per file: whether to convert gene names to upper case, label column, labels of the bundled model.
FILES = {
    "pbmc4k": (
        False,
        "cell_type",
        ["CD4 T", "CD8 T", "B", "NK", "Monocyte", "DC", "Megakaryocyte"],
    ),
    "pbmc_4studies_unlabelled": (False, None, None),
    "pbmc_citeseq_10x_400": (False, "cell_type", ["CD4 T", "CD8 T", "B", "NK", "Monocyte", "DC"]),
    "kang_ctrl_8donors": (False, "lineage", ["T", "NK", "B", "Myeloid", "Megakaryocyte"]),
    "kang_ifnb_fullgenes": (False, "lineage", ["T", "NK", "B", "Myeloid", "Megakaryocyte"]),
}
FOREIGN = {
    "pancreas_human_3tech": False,
    "lung_mouse_zilionis_immune": True,
    "oligodendrocyte_mouse_marques": True,
}
#: Lineages of bone marrow that models of blood lack.
MARROW, MARROW_NOVEL = "bm_triana_citeseq", ["Erythroid/Mk", "HSPC"]
#: Pair, level and label of the cells that are left out of its reference.
LEFT_OUT = (
    *(("zheng_to_pbmc3k", "lineage", label) for label in ("B", "NK")),
    *(("kang_donors", "lineage", label) for label in ("NK", "B", "Myeloid")),
    ("zheng_to_pbmc3k", "cell_type", "CD8 T"),
    ("kang_donors", "cell_type_fine", "CD16 Mono"),
)

#: Share of label sets that may miss the truth.
ALPHA = 0.1
#: Calibration cells drawn with the weights of their types.
RESAMPLED = 4000

#: Kind, name, cells, and which of them are scored.
Query = tuple[str, str, ad.AnnData, np.ndarray]


def read(data: Path, name: str, *, upper: bool = False, n_cells: int = N_CELLS) -> ad.AnnData:
    """Read a random sample of the cells of a file."""
    cells = ad.read_h5ad(data / f"{name}.h5ad")
    if upper:
        cells.var_names = cells.var_names.str.upper()
        cells = cells[:, ~cells.var_names.duplicated()]
    rows = np.random.default_rng(0).permutation(cells.n_obs)[:n_cells]
    return cells[np.sort(rows)].copy()


def with_counts(cells: ad.AnnData, counts: object) -> ad.AnnData:
    """Return a query with these counts in the genes of other cells."""
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    query = ad.AnnData(counts, var=cells.var[[]].copy())
    query.obs_names = [f"made_{i}" for i in range(query.n_obs)]
    return query


def synthetic(cells: ad.AnnData, lineage: np.ndarray) -> Iterator[Query]:
    """Yield noise, empty droplets and doublets simulated from the cells of a query."""
    rng = np.random.default_rng(0)
    counts = sparse.csr_matrix(cells.X)
    few = counts[:N_MADE].toarray()
    every = np.ones(N_MADE, dtype=bool)
    noise = {
        "genes shuffled within each cell": rng.permuted(few, axis=1),
        "gene names permuted": few[:, rng.permutation(few.shape[1])],
        "random negative binomial counts": rng.negative_binomial(0.5, 0.5, size=few.shape),
        "each gene shuffled across cells": rng.permuted(few, axis=0),
    }
    for name, values in noise.items():
        yield "noise", name, with_counts(cells, values), every[: len(few)]
    soup = np.asarray(counts.sum(axis=0), dtype=np.float64).ravel()
    for depth in (20, 100, 500):
        droplets = rng.multinomial(depth, soup / soup.sum(), size=N_MADE)
        yield "ambient", f"{depth} UMI, alone", with_counts(cells, droplets), every
        among = sparse.vstack([counts, sparse.csr_matrix(droplets[:100])])
        empty = np.arange(among.shape[0]) >= counts.shape[0]
        yield "ambient", f"{depth} UMI, one in ten", with_counts(cells, among), empty
    # Without unlabelled cells: in pbmc4k most of them are doublets.
    counts, lineage = counts[lineage != ""], lineage[lineage != ""]
    one, other = rng.integers(len(lineage), size=(2, 4 * len(lineage)))
    two = np.flatnonzero(lineage[one] != lineage[other])[: max(len(lineage) // 10, 20)]
    both = sparse.vstack([counts, counts[one[two]] + counts[other[two]]])
    yield (
        "doublets",
        "one in ten",
        with_counts(cells, both),
        np.arange(both.shape[0]) >= len(lineage),
    )


def row(kind: str, name: str, result: hdi.Annotation, cells: np.ndarray) -> dict:
    """Score the annotation of some cells of a query."""
    tree, leaves = result.taxonomy, np.asarray(result.taxonomy.leaves)
    probabilities = result.node_probabilities
    lineages = np.flatnonzero(tree.depth == 1)
    found = {
        "kind": kind,
        "query": name,
        "n_cells": int(cells.sum()),
        "light": result.verdict.light,
        "similarity": round(result.verdict.figures.get("similarity", 0.0), 3),
        "unknown": float((result.stop_nodes == 0)[cells].mean()),
        "leaf": float(np.isin(result.stop_nodes, leaves)[cells].mean()),
        "control_unknown": float((probabilities[cells][:, lineages].max(axis=1) < 0.5).mean()),
        "control_leaf": float((probabilities[cells][:, leaves].max(axis=1) >= 0.5).mean()),
    }
    if kind == "doublets":
        flagged = result.novelty["is_doublet"].to_numpy()
        found |= {"found": float(flagged[cells].mean()), "alarms": float(flagged[~cells].mean())}
        found["power"] = result.verdict.figures.get("doublet_power", 0.0)
    if not cells.all() and kind in ("doublets", "ambient"):
        found["beside"] = float(np.isin(result.stop_nodes, leaves)[~cells].mean())
    return found


def annotate_missing(
    model: hdi.SCHDeepInsight, queries: Iterator[Query], records: Records, run: dict
) -> None:
    """Annotate queries that have no row yet."""
    for kind, name, query, cells in queries:
        for way in ("plain", "adapted") if kind in ("noise", "known") else ("plain",):
            key = run | {"kind": kind, "query": name, "way": way}
            if records.matching(**key):
                continue
            logger.info("%s · %s · %s · %s", run["model"], kind, name, way)
            result = model.annotate(query) if way == "plain" else hdi.annotate(query, model)
            scores = run | {"way": way} | row(kind, name, result, cells)
            if "cell_type_fine" in query.obs and kind == "known":
                called = result.labels["stop_label"].astype(str).to_numpy() == "CD16 Mono"
                cd14 = (query.obs["cell_type_fine"].astype(str) == "CD14 Mono").to_numpy()
                scores |= {"n_cd14": int(cd14.sum()), "cd14_as_cd16": int((cd14 & called).sum())}
            records.replace([scores], **key)


def queries_of_bundled(data: Path) -> Iterator[Query]:
    """Yield the queries of the bundled model."""
    for name, (upper, column, known) in FILES.items():
        cells = read(data, name, upper=upper, n_cells=2000)
        labels = cells.obs[column].astype(str).to_numpy() if column else None
        meant = np.ones(cells.n_obs, dtype=bool) if labels is None else np.isin(labels, known)
        yield "known", name, cells, meant
    for name, upper in FOREIGN.items():
        cells = read(data, name, upper=upper)
        yield "foreign", name, cells, np.ones(cells.n_obs, dtype=bool)
    marrow = read(data, MARROW, n_cells=3000)
    lineage = marrow.obs["lineage"].astype(str).to_numpy()
    yield "foreign", f"{MARROW}: {', '.join(MARROW_NOVEL)}", marrow, np.isin(lineage, MARROW_NOVEL)
    cells = read(data, "pbmc4k")
    yield from synthetic(cells, _lineage(cells.obs["lineage"]))


def queries_of_pair(prepared: Prepared) -> Iterator[Query]:
    """Yield the query of a pair, and queries simulated from it."""
    pair, query, truth = prepared.pair, ad.read_h5ad(prepared.query), prepared.truth()
    counts = prepared.reference_labels()[pair.levels[-1]].value_counts()
    known = truth[pair.levels[-1]].isin(counts[counts >= pair.min_reference_cells].index)
    known &= ~truth.isin(pair.ignore_labels).any(axis=1)
    few = np.arange(query.n_obs) < 3000
    yield "known", pair.name, query[few].copy(), known.to_numpy()[few]
    cells = np.arange(query.n_obs) < N_CELLS
    lineage = _lineage(truth[pair.levels[0]])[cells]
    yield from synthetic(query[cells].copy(), lineage)


def _lineage(labels) -> np.ndarray:
    names = np.asarray(labels.astype(str), dtype=object)
    return np.where(np.isin(names, ["unknown", "nan", ""]), "", names)


def trained(
    prepared: Prepared,
    seed: int,
    models: Path,
    without: tuple[str, str] = ("", ""),
    accelerator: str = "cpu",
) -> hdi.SCHDeepInsight:
    """Train with default settings, or load the model of an earlier run.

    Parameters
    ----------
    prepared
        Files of the pair.
    seed
        Seed of the training.
    models
        Folder of trained models, with a folder for each pair.
    without
        Level and label of cells that are left out of the reference.
    accelerator
        Device for training, as in Lightning.
    """
    pair, (level, label) = prepared.pair, without
    reference = read_reference(str(prepared.reference), list(pair.levels), str(prepared.genes))
    folder = models / pair.name
    if label:
        reference = reference[(reference.labels[level] != label).to_numpy()]
        folder = models / f"{pair.name}_without_{''.join(c if c.isalnum() else '_' for c in label)}"
    method = SCHDeepInsight(
        seed=seed,
        threads=1,
        folder=folder,
        variant="schdeepinsight",
        models=folder,
        accelerator=accelerator,
    )
    method.fit(reference)
    return method.model


def leave_out(prepared: Prepared, level: str, label: str, model: hdi.SCHDeepInsight) -> dict:
    """Return AUROCs of novelty scores of a model without a label, for cells with this label."""
    pair, truth = prepared.pair, prepared.truth()
    novel = (truth[level] == label).to_numpy()
    counts = prepared.reference_labels()[pair.levels[-1]].value_counts()
    known = truth[pair.levels[-1]].isin(counts[counts >= pair.min_reference_cells].index)
    known = known.to_numpy() & ~truth.isin(pair.ignore_labels).any(axis=1).to_numpy() & ~novel
    result = model.annotate(ad.read_h5ad(prepared.query))
    leaves = result.taxonomy.leaves
    scores = {
        "lineage_p_value": -result.novelty["lineage_p_value"].to_numpy(),
        "type_p_value": -result.novelty["type_p_value"].to_numpy(),
        "control": 1 - result.node_probabilities[:, leaves].max(axis=1),
    }
    found = {n: float(auroc(values[known], values[novel])) for n, values in scores.items()}
    return {"n_cells": int(novel.sum()), **found}


def coverage(model: hdi.SCHDeepInsight, prepared: Prepared) -> dict:
    """Score label sets calibrated with held-out cells, unweighted and weighted by type.

    The weights are the frequencies of types that the network finds in the query.
    """
    result = model.annotate(ad.read_h5ad(prepared.query), reject="off")
    tree, calibration, truth = result.taxonomy, result.calibration, prepared.truth()
    finest = prepared.pair.levels[-1]
    leaf = np.asarray([tree.label(int(node)) for node in tree.leaves])
    known = truth[finest].isin(leaf) & ~truth.isin(prepared.pair.ignore_labels).any(axis=1)
    nodes = np.zeros(len(truth), dtype=int)
    nodes[known] = tree.encode(truth.loc[known, finest])
    often = np.zeros(tree.n_nodes)
    often[tree.leaves] = result.node_probabilities[:, tree.leaves].mean(axis=0)
    held = np.bincount(calibration.true_nodes, minlength=tree.n_nodes)
    weights = (often / np.maximum(held, 1))[calibration.true_nodes]
    drawn = np.random.default_rng(0).choice(len(weights), RESAMPLED, p=weights / weights.sum())
    names = ("true_nodes", "predicted", "node_scores", "leaf_scores")
    weighted = replace(calibration, **{name: getattr(calibration, name)[drawn] for name in names})
    found = {"n_cells": int(known.sum()), "n_calibration": len(calibration)}
    for name, used in (("plain", calibration), ("weighted", weighted)):
        for kind in ("nodes", "leaves"):
            sets = result.label_sets(ALPHA, kind=kind, calibration=used)
            found[f"{name}_{kind}"] = sets.coverage(nodes)
            found[f"{name}_{kind}_size"] = float(sets.size[known.to_numpy()].mean())
    return found


def contradictions(model: hdi.SCHDeepInsight, prepared: Prepared) -> dict:
    """Return the share of cells whose type contradicts their lineage, and that of the control."""
    reference, query = ad.read_h5ad(prepared.reference), ad.read_h5ad(prepared.query)
    finest, lineage = prepared.pair.levels[-1], prepared.pair.levels[0]
    labels = reference.obs[[lineage, finest]].astype(str)
    parent = labels.drop_duplicates(finest).set_index(finest)[lineage]
    genes = [g for g in json.loads(prepared.genes.read_text()) if g in query.var_names]
    learned, asked = (log_cp10k(cells[:, genes].X) for cells in (reference, query))
    said = {
        level: LogisticRegression(max_iter=200).fit(learned, labels[level]).predict(asked)
        for level in (lineage, finest)
    }
    ours = model.annotate(query).labels.astype(str)
    both = ours[finest].isin(parent.index) & ours[lineage].isin(parent)
    return {
        "n_cells": query.n_obs,
        "ours": float((parent.reindex(ours[finest]).to_numpy() != ours[lineage])[both].mean()),
        "apart": float((parent.loc[said[finest]].to_numpy() != said[lineage]).mean()),
    }


def table(rows: list[dict]) -> str:
    """Return the tables in Markdown, with one line per model and query."""
    lines = [
        "| model | query | light | similarity | Unknown | with a type | by p ≥ .5 |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    asked = [r for r in rows if "light" in r]
    for each in (r for r in asked if r["seed"] == min(q["seed"] for q in asked)):
        key = {name: each[name] for name in ("model", "kind", "query", "way")}
        seeds = [r for r in asked if all(r[name] == value for name, value in key.items())]
        unknown, leaf, control = (
            f"{np.mean([r[name] for r in seeds]):.1%}"
            for name in ("unknown", "leaf", "control_leaf")
        )
        way = " (adapted)" * (each["way"] == "adapted")
        extra = ""
        if "found" in each:
            found, alarms = (np.mean([r[name] for r in seeds]) for name in ("found", "alarms"))
            power = np.mean([r["power"] for r in seeds])
            extra = f"; {found:.0%} found ({power:.0%} expected), {alarms:.1%} false"
        if "beside" in each:
            beside = np.mean([r["beside"] for r in seeds])
            extra += f"; cells beside them with a type: {beside:.1%}"
        if each.get("n_cd14"):
            extra = f"; CD14 called CD16: {each['cd14_as_cd16']} of {each['n_cd14']}"
        light = "/".join(sorted({r["light"] for r in seeds}))
        lines.append(
            f"| {each['model']} | {each['kind']}: {each['query']}{way}{extra} | {light} "
            f"| {each['similarity']:.2f} | {unknown} | {leaf} | {control} |"
        )
    for kind, head, names in TABLES:
        of_kind = [r for r in rows if r["kind"] == kind]
        if not of_kind:
            continue
        lines += ["", head, "|---|---:|" + "---:|" * len(names)]
        for model, query in dict.fromkeys((r["model"], r["query"]) for r in of_kind):
            same = [r for r in of_kind if (r["model"], r["query"]) == (model, query)]
            cells = " | ".join(f"{np.mean([r[name] for r in same]):.3f}" for name in names)
            lines.append(f"| {query} ({model}, {len(same)}) | {same[0]['n_cells']} | {cells} |")
    return "\n".join(lines)


#: Kind of row, head of its table, and its columns; models and numbers of seeds are in brackets.
TABLES = (
    (
        "left out",
        "| left out | cells | lineage p | type p | 1 − p |",
        ("lineage_p_value", "type_p_value", "control"),
    ),
    (
        "coverage",
        "| coverage of label sets, 90 % asked | cells | nodes | size | nodes, weighted | size "
        "| leaves | leaves, weighted |",
        (
            *("plain_nodes", "plain_nodes_size", "weighted_nodes", "weighted_nodes_size"),
            *("plain_leaves", "weighted_leaves"),
        ),
    ),
    (
        "contradictions",
        "| share of contradicting levels | cells | ours | two logistic regressions |",
        ("ours", "apart"),
    ),
)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, help="JSON list of pairs")
    parser.add_argument("--data", type=Path, help="folder of the files (default: of --pairs)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", default=[BUNDLED, *BLOOD, "left_out"])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "trust.json")
    parser.add_argument("--work", type=Path, default=HERE / ".work", help="scratch folder")
    parser.add_argument("--page", type=Path, help="only write the tables into this page")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    warnings.simplefilter("ignore")
    records = Records(args.out)
    if args.page:
        before, rest = args.page.read_text().split(BEGIN)
        after = rest.split(END)[1]
        args.page.write_text(f"{before}{BEGIN}\n\n{table(records.rows)}\n\n{END}{after}")
        return
    data, models = args.data or args.pairs.parent, args.work / "models"
    if BUNDLED in args.only:
        run = {"model": BUNDLED, "seed": 0}
        annotate_missing(hdi.hub.pull("pbmc"), queries_of_bundled(data), records, run)
    pairs = [name for name in args.only if name not in (BUNDLED, "left_out")]
    for pair in read_pairs(args.pairs, pairs) if pairs else ():
        prepared = prepare(pair, data, args.work)
        for seed in args.seeds:
            model = trained(prepared, seed, models)
            if pair.name in BLOOD:
                annotate_missing(
                    model, queries_of_pair(prepared), records, {"model": pair.name, "seed": seed}
                )
            for score in (coverage, contradictions):
                key = {"model": pair.name, "seed": seed, "kind": score.__name__}
                if not records.matching(**key):
                    logger.info("%s · %s", pair.name, score.__name__)
                    found = {"query": pair.name, "way": "plain"} | score(model, prepared)
                    records.replace([key | found], **key)
    for name, level, label in LEFT_OUT if "left_out" in args.only else ():
        (pair,) = read_pairs(args.pairs, [name])
        prepared = prepare(pair, data, args.work)
        for seed in args.seeds:
            kind = "lineage" if level == pair.levels[0] else "type"
            key = {"model": name, "seed": seed, "kind": "left out", "query": f"{kind} {label}"}
            if not records.matching(**key):
                logger.info("%s without %s", name, label)
                model = trained(prepared, seed, models, (level, label))
                found = {"way": "plain"} | leave_out(prepared, level, label, model)
                records.replace([key | found], **key)


if __name__ == "__main__":
    main()
