"""Train the PBMC model that the package carries, and say how good it is on what it never saw.

``python benchmarks/train_bundled.py --data <folder> [--out <folder>]`` writes the published folder:
model, card, checksums. The same files on the same stack give the same bytes: one thread, one seed.
Sources are checked by SHA-256, and those of `UNSEEN` take no part in training or in any choice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import torch
from scvi.data._constants import _SCVI_UUID_KEY
from threadpoolctl import threadpool_limits

import hdeepinsight as hdi

BUNDLED = Path(hdi.__file__).parent / "models" / "bundled" / "pbmc"
LABEL, STUDY, UNKNOWN = "label", "study", "Unknown"
SEED = 0
N_GENES, N_LATENT = 2048, 128

# Two choices, made without `UNSEEN`. Subsets of T cells are left out: between the two studies of
# `TRAINING`, naive, memory and regulatory CD4 T cells were told apart in 46 % of cases. So are
# progenitors: the sorted CD34+ gate holds monocytes, and a model that had learned from it, audited
# or not, took 6 to 8 % of the cells of five unlabelled PBMC runs for progenitors.
TREE = {
    "T": ["CD4 T", "CD8 T"],
    "NK": [],
    "B": [],
    "Myeloid": {"Monocyte": ["CD14 Mono", "CD16 Mono"], "DC": []},
    "Platelet": [],
}
#: Cell Ontology terms.
TERMS = {
    "T": "CL:0000084",
    "CD4 T": "CL:0000624",
    "CD8 T": "CL:0000625",
    "NK": "CL:0000623",
    "B": "CL:0000236",
    "Myeloid": "CL:0000763",
    "Monocyte": "CL:0000576",
    "CD14 Mono": "CL:0001054",
    "CD16 Mono": "CL:0002396",
    "DC": "CL:0000451",
    "Platelet": "CL:0000233",
}
#: Labels that mean a node of another name. All others keep theirs; what the tree lacks is unknown.
SAME = {
    **dict.fromkeys(("CD4 T helper", "CD4 T memory", "CD4 T naive", "CD4 Treg"), "CD4 T"),
    **dict.fromkeys(("CD8 T cytotoxic", "CD8 T naive"), "CD8 T"),
    "Megakaryocyte": "Platelet",
}


@dataclass(frozen=True)
class Source:
    """A labelled dataset: the file that is read, and what has to be said about it."""

    name: str
    file: str
    sha256: str
    origin: str
    license: str
    citation: str
    same: dict[str, str] = field(default_factory=dict)

    def read(self, folder: Path) -> ad.AnnData:
        """Read counts, with labels as nodes of the tree in ``obs["label"]``."""
        path = folder / self.file
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.sha256:
            raise ValueError(
                f"{path} has the SHA-256 {found}. Valid is {self.sha256}, the file that the model "
                "was trained or scored on. Use that file, or write down the new one here."
            )
        adata = ad.read_h5ad(path)
        labels = adata.obs["cell_type_fine"].astype(str).replace(SAME | self.same)
        adata.obs = pd.DataFrame(
            {LABEL: labels.where(labels.isin(TERMS), UNKNOWN), STUDY: self.name},
            index=adata.obs_names,
        )
        return adata

    def __str__(self) -> str:
        return f"{self.name}. {self.citation} {self.origin} Licence: {self.license}"


TRAINING = (
    Source(
        name="Zheng 2017, sorted populations",
        file="pbmc_zheng2017_facs.h5ad",
        sha256="60d97e64ee328f255cf0d255b68e8cc084fcf78a67dcb9c42a7f5d5f3d488ceb",
        origin="3,874 cells of data/pbmc_facs.RData of stephenslab/fastTopics.",
        license="CC BY 4.0 (10x Genomics); BSD-2-Clause (the repository).",
        citation="Zheng et al. (2017), Nat Commun 8:14049, doi:10.1038/ncomms14049.",
    ),
    Source(
        name="10x PBMC 3k",
        file="pbmc3k.h5ad",
        sha256="c60f5b9a5e8e1c52e83e93c9c3e0063ce2909b331d247afc219409e0f18354af",
        origin="2,638 cells and the labels of the Seurat tutorial, of rnabioco/clustifyr.",
        license="CC BY 4.0 (10x Genomics); MIT (the repository).",
        citation="10x Genomics (2016), 3k PBMCs from a healthy donor, Cell Ranger 1.1.0.",
        same={"CD4 T naive": "T"},  # the cluster holds naive CD8 T cells too
    ),
)
#: Whole studies that the model never saw. They are read for the card alone.
UNSEEN = (
    Source(
        name="10x PBMC 4k, 10x v2, 4,060 genes",
        file="pbmc4k.h5ad",
        sha256="9c0f03e1fcca60b6a6dcb5eac2634101549a50b6f3aab5bab3089796d3f9b42c",
        origin="Counts of johannesnicolaus/ASURAT, labels of YosefLab/scVI-data.",
        license="CC BY 4.0 (10x Genomics); GPL-3 (the repository).",
        citation="10x Genomics (2017), 4k PBMCs; labels: Lopez et al. (2018).",
    ),
    Source(
        name="10x PBMC with surface proteins, 10x v3",
        file="pbmc_citeseq_10x_400.h5ad",
        sha256="286c4dfa582342d02a88307a422a7f1c41b3bb20939bf9c8f335faf471ebf7f1",
        origin="400 cells of scverse/scvi-tools; labels gated on the proteins.",
        license="CC BY 4.0 (10x Genomics); BSD-3-Clause (the repository).",
        citation="10x Genomics (2018, 2019), 5k and 10k PBMCs with cell surface proteins.",
    ),
    Source(
        name="Kang 2018, eight lupus patients, 1,287 genes",
        file="kang_ctrl_8donors.h5ad",
        sha256="c2c35ac47af13fd282894b435be7e95f7b67f8be65b32bf79a12322c2283f0e6",
        origin="Control cells of GSE96583, of HelenaLC/muscat.",
        license="GPL-3 (the repository).",
        citation="Kang et al. (2018), Nat Biotechnol 36:89, doi:10.1038/nbt.4042.",
    ),
    Source(
        name="Kang 2018, with and without interferon beta, 9,015 genes",
        file="kang_ifnb_fullgenes.h5ad",
        sha256="1ea474c0054ce8a313f4bed35996c1fb8b22b777cd87b14b765d824f572827cf",
        origin="GSE96583, of immunogenomics/harmony and hjames1/seuratTools.",
        license="GPL-3 and MIT (the repositories).",
        citation="Kang et al. (2018), Nat Biotechnol 36:89, doi:10.1038/nbt.4042.",
    ),
)
#: Scored once more without a random half of its genes.
HALVED = UNSEEN[1]


def taxonomy() -> hdi.Taxonomy:
    """Tree of the model, with Cell Ontology ids."""
    tree = hdi.Taxonomy.from_nested(TREE)
    levels = ("lineage", "cell_type", "subtype")
    return tree.with_annotations(level_names=levels, ontology_ids=TERMS)


def train(folder: Path) -> hdi.SCHDeepInsight:
    """Train on the genes that all sources of `TRAINING` measured."""
    reference = ad.concat(
        {source.name: source.read(folder) for source in TRAINING}, join="inner", index_unique=" "
    )
    reference = reference[reference.obs[LABEL] != UNKNOWN].copy()
    hdi.SCHDeepInsight.setup_anndata(
        reference, labels_key=LABEL, batch_key=STUDY, unlabeled_category=UNKNOWN
    )
    model = hdi.SCHDeepInsight(
        reference, taxonomy=taxonomy(), n_genes=N_GENES, n_latent=N_LATENT, seed=SEED
    )
    model.registry_[_SCVI_UUID_KEY] = "pbmc"  # scvi-tools makes a random one
    model.train(accelerator="cpu", devices=1, enable_progress_bar=False)
    return model


def unseen(folder: Path) -> dict[str, ad.AnnData]:
    """Labelled data for the card, by name."""
    cells = {source.name: source.read(folder) for source in UNSEEN}
    whole = cells[HALVED.name]
    kept = np.random.default_rng(SEED).permutation(whole.n_vars)[: whole.n_vars // 2]
    return {**cells, f"{HALVED.name}, half of its genes": whole[:, np.sort(kept)].copy()}


def card() -> hdi.hub.ModelCard:
    """Say what only a person knows."""
    return hdi.hub.ModelCard(
        title="PBMC, the bundled model",
        license="cc-by-4.0",
        organism="human",
        tissues=("blood",),
        technologies=("10x 3' v1",),
        description=(
            "Blood cells of healthy donors. The model is part of hdeepinsight: "
            '`hdeepinsight annotate query.h5ad` and `hdi.annotate(query, "pbmc")` use it, offline. '
            "Written by `benchmarks/train_bundled.py`, which names every file by its checksum."
        ),
        intended_use=(
            "A first look at human PBMC from 10x 3' experiments, before a reference of your own. "
            "Gene names are HGNC symbols, in `var_names` or in a column of `var`. Not for "
            "diagnosis."
        ),
        limitations=(
            "Eight types: no subsets of T or B cells, no progenitors, plasma cells, granulocytes "
            "or red cells. Such cells get the label of the nearest type. Trained on two donors "
            "and the first 10x chemistry; dendritic cells (32) and platelets (14) were few. CD4 "
            "and naive CD8 T cells are hard to tell apart, also in the labels that the figures "
            "are measured by. In the lupus patients of Kang et al., with and without interferon, "
            "about 30 % of CD14 and CD16 monocytes are taken for one another. The two Kang "
            "datasets share control cells."
        ),
        datasets=tuple(map(str, TRAINING)),
        citation=" ".join(source.citation for source in TRAINING),
    )


def build(folder: Path, out: Path) -> str:
    """Write the published folder; return its digest."""
    with threadpool_limits(1):
        torch.set_num_threads(1)  # sums in another order would be other bytes
        published = hdi.hub.publish(
            train(folder),
            out.absolute(),
            card=card(),
            scored_on=unseen(folder),
            overwrite=True,
        )
    path = out / "README.md"  # which has no checksum; in the package the model has this name
    path.write_text(path.read_text().replace(f'pull("./{out.name}")', 'pull("pbmc")'))
    return published.digest


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("HDI_DATA"), required=False)
    parser.add_argument("--out", type=Path, default=BUNDLED, help="default: in the package")
    args = parser.parse_args()
    if args.data is None:
        parser.error("name the folder of the datasets: --data DIR, or set HDI_DATA")
    print(build(args.data, args.out))


if __name__ == "__main__":
    main()
