"""Measure four ways in which gene images could help, each against its control.

``python benchmarks/gene_images.py --data DIR`` trains on the two development transfers of
`TRANSFERS`, which are not among the benchmark's pairs, and writes ``results/gene_images.json``:
few cells, a query that lacks half of the genes, a layout learned from a trained network, and
pretraining by masked patches. Rows that are there already are kept.
"""

from __future__ import annotations

import argparse
import itertools
import os
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from harness.records import Records
from methods.ours import NetworkAlone
from sklearn.metrics import f1_score

import hdeepinsight as hdi

HERE = Path(__file__).resolve().parent
QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
LEVELS = ["lineage", "cell_type"]
N_GENES, N_CELLS, N_FEW = 2048, 2000, 10
#: Passes over unlabelled cells, and the share of patches or genes that is hidden.
EPOCHS, HIDDEN = 30, 0.5
#: Reference and query: file, and donors if there are several.
TRANSFERS = {
    "sorted cells to CITE-seq": (
        ("pbmc_zheng2017_facs.h5ad", None),
        ("pbmc_citeseq_10x_400.h5ad", None),
    ),
    "three donors to a fourth": (
        ("kang_ctrl_8donors.h5ad", ["kang_1015", "kang_1256", "kang_1488"]),
        ("kang_ctrl_8donors.h5ad", ["kang_1244"]),
    ),
}


def read(folder: Path, file: str, donors: list[str] | None) -> ad.AnnData:
    """Read the labelled cells of some donors."""
    cells = ad.read_h5ad(folder / file)
    kept = cells.obs["cell_type"].notna()
    return cells[kept & cells.obs["donor"].isin(donors) if donors else kept].copy()


def few_of_each(cells: ad.AnnData, rng: np.random.Generator) -> ad.AnnData:
    """Draw ten cells of every type."""
    order = rng.permutation(cells.n_obs)
    turn = cells.obs.iloc[order].groupby("cell_type", observed=True).cumcount().to_numpy()
    return cells[np.sort(order[turn < N_FEW])].copy()


def build(cells: ad.AnnData, seed: int, **options: object) -> NetworkAlone:
    """Set up a model."""
    NetworkAlone.setup_anndata(cells, labels_keys=LEVELS)
    return NetworkAlone(cells, seed=seed, **({"n_genes": N_GENES} | options))


def score(model: hdi.SCHDeepInsight, query: ad.AnnData) -> float:
    """Compute the macro-F1 over the types of the query that the reference has."""
    result = model.annotate(query, reject="off", threshold=None)
    truth = query.obs["cell_type"].astype(str).to_numpy()
    types = sorted(set(truth) & set(result.labels["cell_type"].cat.categories))
    found = result.labels["cell_type"].astype(str)
    return float(f1_score(truth, found, labels=types, average="macro", zero_division=0))


def pretrain(model: hdi.SCHDeepInsight, cells: ad.AnnData, seed: int, *, patches: bool) -> None:
    """Train the backbone to predict hidden values from the others, without labels."""
    module, rng = model.module, torch.Generator().manual_seed(seed)
    side, source = model.layout.side, hdi.data.open_counts(cells)
    counts = source.read(hdi.data.align_genes(source.var_names, model.genes))
    pixel = torch.as_tensor(np.asarray(model.layout.pixel))
    patch = pixel // side // 4 * (side // 4) + pixel % side // 4
    decoder = torch.nn.Linear(module.backbone.n_latent, len(pixel))
    weights = [*module.backbone.parameters(), *decoder.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    module.backbone.train()
    for _ in range(EPOCHS):
        for rows in torch.randperm(cells.n_obs, generator=rng).split(128):
            if len(rows) < 2:
                continue
            batch = torch.from_numpy(counts[rows.numpy()].toarray())
            if patches:
                shown = torch.rand(len(rows), (side // 4) ** 2, generator=rng)[:, patch] >= HIDDEN
            else:
                shown = torch.rand(batch.shape, generator=rng) >= HIDDEN
            values = module.normalizer(batch, torch.ones(len(pixel)))
            image = module.raster(values * shown, shown.float())
            error = (decoder(module.backbone(image)) - values).square()
            optimizer.zero_grad()
            error[~shown].mean().backward()
            optimizer.step()
    module.backbone.eval()


def measure(folder: Path, transfer: str, seed: int) -> dict[str, float]:
    """Train every variant of one transfer, and return their scores."""
    reference, query = (read(folder, *side) for side in TRANSFERS[transfer])
    rng = np.random.default_rng(seed)
    rows = np.sort(rng.permutation(reference.n_obs)[:N_CELLS])
    reference = reference[rows].copy()
    few = few_of_each(reference, rng)
    half = query[:, np.sort(rng.permutation(query.n_vars)[: query.n_vars // 2])].copy()
    found: dict[str, float] = {}
    fitted = build(reference, seed).layout  # on all cells: layouts need no labels
    source = hdi.data.open_counts(reference)
    counts = source.read(hdi.data.align_genes(source.var_names, fitted.genes))
    placing = {"genes": fitted.genes, "side": fitted.side, "seed": seed}
    at_random = hdi.image.GeneLayout.fit(counts, method="random", **placing)
    kinds = {
        "fitted layout": {"layout": fitted},
        "random layout": {"layout": at_random},
        "MLP": {"layout": fitted, "backbone": "mlp"},
    }
    for name, options in kinds.items():
        model = build(few, seed, **options)
        model.train(validation_size=0, **QUIET)
        found[f"few cells: {name}"] = score(model, query)
        model = build(reference, seed, **options)
        model.train(**QUIET)
        found[f"all cells: {name}"] = score(model, query)
        found[f"half of the genes: {name}"] = score(model, half)
    # Genes that the trained dense network weighs alike become neighbours.
    first = next(p for p in model.module.backbone.parameters() if p.ndim == 2)
    pixel = torch.as_tensor(np.asarray(model.layout.pixel))
    weighed = first.detach()[:, : model.layout.side**2][:, pixel].abs().numpy()
    learned = hdi.image.GeneLayout.fit(weighed, **placing)
    parts = ("few cells", few, {"validation_size": 0}), ("all cells", reference, {})
    for name, cells, own in parts:
        model = build(cells, seed, layout=learned)
        model.train(**own, **QUIET)
        found[f"{name}: learned layout"] = score(model, query)
        if name == "all cells":
            found["half of the genes: learned layout"] = score(model, half)
    for name, patches in (("masked patches", True), ("masked genes", False)):
        model = build(few, seed, layout=fitted)
        pretrain(model, reference, seed, patches=patches)
        model.train(validation_size=0, **QUIET)
        found[f"few cells: pretrained by {name}"] = score(model, query)
    return found


def main() -> None:
    """Measure what the records lack."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("HDI_DATA", "../shared/data"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=HERE / "results" / "gene_images.json")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    records = Records(args.out)
    for transfer, seed in itertools.product(TRANSFERS, args.seeds):
        run = {"transfer": transfer, "seed": seed}
        if not records.matching(**run):
            scores = measure(Path(args.data), transfer, seed)
            rows = [run | {"variant": k, "macro_f1": round(v, 4)} for k, v in scores.items()]
            records.replace(rows, **run)
            print(run, scores, flush=True)


if __name__ == "__main__":
    main()
