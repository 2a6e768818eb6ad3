"""SCHDeepInsight, the model class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from anndata import AnnData

from hdeepinsight._errors import check_integer, invalid, refuse_unused
from hdeepinsight._keys import FIELD_KEYS
from hdeepinsight._progress import progress
from hdeepinsight.data import (
    InputError,
    align_genes,
    draw_evenly,
    draw_some,
    is_paired,
    log_normalize,
    open_counts,
    select_genes,
)
from hdeepinsight.explanation import (
    Background,
    Explanation,
    TargetKind,
    Targets,
    background_from_cells,
    background_from_profiles,
    explain_cells,
)
from hdeepinsight.image import GeneLayout, protein_layout
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base._classifier import HierarchicalClassifierMixin
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models._base._registration import BATCH, LABELS, read_counts
from hdeepinsight.models.schdeepinsight._module import GeneImageModule
from hdeepinsight.nn import (
    CountThinning,
    GeneMasking,
    GenePanels,
    ModuleConfig,
    inverse_frequency_weights,
    seeded,
)
from hdeepinsight.taxonomy import Taxonomy

if TYPE_CHECKING:
    from mudata import MuData
    from scipy.sparse import csr_matrix

    from hdeepinsight.data import DataLike
    from hdeepinsight.image import LayoutMethod

LAYOUT_CELLS = 20_000
MAX_MEMBERS = 5
#: Maximum product of labelled cells and members with ``n_members="auto"``.
MEMBERS_CELLS = 1024


class SCHDeepInsight(HierarchicalClassifierMixin, CountModel):
    r"""Hierarchical cell type annotation from gene images.

    Parameters
    ----------
    adata
        Reference that was registered with :meth:`setup_anndata` or :meth:`setup_mudata`.
    registry
        Registry of a saved model, or of a datamodule to train the model with.
    taxonomy
        Taxonomy of the cell types; by default built from the label columns.
    layout
        Pixel of each gene: a :class:`~hdeepinsight.image.GeneLayout`, or the method to fit one
        (``"tsne"``, ``"tsne_published"``, ``"mde"``, ``"random"``).
    n_genes
        Maximum number of genes in a fitted layout: ``keep_genes``, then the most variable genes.
    keep_genes
        Genes that a fitted layout must contain, such as markers.
    side
        Side length of the image of a fitted layout; by default the smallest multiple of 8 with a
        pixel for each gene.
    backbone
        Network that reads the image: ``"compact"``, ``"mlp"`` (a control without spatial
        structure), ``"efficientnet_b0"`` to ``_b7``, ``"efficientnet_v2_s"``, ``_m``, ``_l``,
        or ``None`` for no image.
    n_latent
        Number of features of the compact backbone.
    n_members
        Number of ensemble members, trained with different random numbers. Their probabilities are
        averaged, and the annotation reports their disagreement. Training time grows
        proportionally. ``"auto"`` trains five members for up to 204 labelled cells, fewer for more
        cells, and one for more than 512.
    masking
        Random gene masking in training.
    thinning
        Random thinning of counts in training.
    proteins
        Pixel of each surface protein of a MuData; by default at the pixel of its gene, see
        :func:`~hdeepinsight.image.protein_layout`.
    config
        Options for comparisons and ablations: a :class:`ModuleConfig`.
    seed
        Seed of the layout, the initial weights, the split and the training;
        ``scvi.settings.seed`` by default, or 0 if that is not set.

    Raises
    ------
    ValueError
        If the reference is not registered, a label is not in the taxonomy, or an option is out of
        range.

    Examples
    --------
    A quick example with a small, briefly trained model; omit the sizes in real applications:

    >>> import hdeepinsight as hdi
    >>> data = hdi.datasets.demo()
    >>> hdi.SCHDeepInsight.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
    >>> model = hdi.SCHDeepInsight(data.reference, layout="random", n_latent=16)
    >>> model.train(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
    >>> model.annotate(data.query).labels.shape
    (210, 3)

    Notes
    -----
    Based on scHDeepInsight (doi:10.1101/2025.06.23.661045). The network, the normalisation in the
    model, thinning, masking, joint decoding and calibration differ from the paper; the benchmark
    measures the effect of each.
    """

    _module_cls = GeneImageModule
    _options_of = GeneImageModule.present_options

    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        taxonomy: Taxonomy | dict[str, Any] | None = None,
        layout: GeneLayout | dict[str, Any] | LayoutMethod = "tsne",
        n_genes: int = 4096,
        keep_genes: Sequence[str] = (),
        side: int | None = None,
        backbone: str | None = "compact",
        n_latent: int = 128,
        n_members: int | Literal["auto"] = 1,
        masking: GeneMasking | dict[str, float] | None = None,
        thinning: CountThinning | dict[str, float] | None = None,
        proteins: GeneLayout | dict[str, Any] | None = None,
        config: ModuleConfig | dict[str, Any] | None = None,
        seed: int | None = None,
    ) -> None:
        check_integer("n_genes", n_genes, hint="Omit it to use 4096.")
        if n_members != "auto":
            check_integer("n_members", n_members, hint="Pass 'auto' to go by the reference.")
        if isinstance(keep_genes, str):
            raise invalid("keep_genes", keep_genes, "a list of genes")
        if not isinstance(layout, dict):  # else it is a saved model with all its options
            own = {"n_genes": n_genes != 4096, "keep_genes": keep_genes, "side": side}
            refuse_unused(own if isinstance(layout, GeneLayout) else {}, "with a fitted layout")
            is_fixed = backbone is None or backbone.startswith("efficientnet")
            own = {"n_latent": is_fixed and n_latent != 128}
            refuse_unused(own, f"with backbone={backbone!r}, whose size is fixed")
        super().__init__(adata, registry, seed=seed)
        unused = proteins and adata is not None and not is_paired(adata)
        refuse_unused({"proteins": unused}, "without a MuData")
        self._loader_genes = super().genes
        config = self._config = ModuleConfig.of(config)
        tree: Any = self._taxonomy_of(taxonomy)  # labels are required
        self.taxonomy = tree
        self._record_options(
            locals(),
            taxonomy=tree.to_dict(),
            masking=GeneMasking.of(masking).to_dict(),
            thinning=CountThinning.of(thinning).to_dict(),
            keep_genes=list(keep_genes),
            config=config.to_dict(),
        )
        self.module = None
        if adata is not None:
            source = self._registration().source
            genes = registration.genes_of_proteins(adata, self._setup).values()
            keep = dict.fromkeys(chain(keep_genes, *genes))
            nodes = self._nodes()
            self._build(self._layout_of(source, nodes, list(keep)), proteins, nodes)
            self._read_genes(
                self.genes, registration.protein_arrays(adata, self._setup, self.proteins)
            )
            shell = self.adata_manager.adata
            shell.obs[LABELS] = nodes
            rows = draw_some(nodes, self.seed)
            counts = shell.X if len(rows) == shell.n_obs else shell.X[rows]
            self._fit_to(counts, nodes, shell.obs[BATCH].to_numpy(), rows)
        elif not isinstance(layout, str):
            self._build(self._layout_of(None, None, ()), proteins)

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        labels_key: str | None = None,
        labels_keys: Sequence[str] | None = None,
        batch_key: str | None = None,
        unlabeled_category: str = "Unknown",
        modalities: Mapping[str, str] | None = None,
        source_registry: dict[str, Any] | None = None,
        **others: Any,
    ) -> None:
        """Register a labelled reference of RNA and surface proteins without modifying it.

        Parameters
        ----------
        mdata
            Reference with raw counts of both modalities. Cells may lack proteins, but not RNA.
        rna_layer, protein_layer
            Layers with the counts; ``X`` by default.
        labels_key, labels_keys, batch_key, unlabeled_category
            As in :meth:`setup_anndata`. The columns are searched in ``mdata.obs``, then in the
            ``obs`` of the RNA modality.
        modalities
            Modality of each argument, as in scvi-tools: ``{"rna_layer": "rna", "protein_layer":
            "protein"}``, and ``"labels_key"`` or ``"batch_key"`` if the columns are in another
            modality. By default common names are tried.
        source_registry
            Registry of a saved model, used when the model is loaded with a new reference.
        **others
            Other arguments are refused.

        Raises
        ------
        InputError
            If a modality is missing, empty or does not hold counts, or cells lack RNA.
        KeyError
            If a column is missing.
        TypeError
            If ``mdata`` is not a MuData, or for other arguments.
        ValueError
            If not exactly one of ``labels_key`` and ``labels_keys`` is given.

        Examples
        --------
        >>> SCHDeepInsight.setup_mudata(
        ...     mdata,
        ...     labels_key="cell_type",
        ...     modalities={"rna_layer": "rna", "protein_layer": "prot"},
        ... )  # doctest: +SKIP
        """
        registration.register_paired(cls, mdata, cls._setup_of(locals(), "setup_mudata"))

    @classmethod
    def from_paper(
        cls, adata: AnnData, taxonomy: Taxonomy | None = None, **options: Any
    ) -> SCHDeepInsight:
        """Create a model with the published configuration, for comparison.

        Parameters
        ----------
        adata
            Reference that was registered with :meth:`setup_anndata`.
        taxonomy
            Taxonomy of the cell types; by default built from the label columns.
        **options
            Keyword arguments of the class, which override the published ones.

        Returns
        -------
        A model with EfficientNet-B5 on three equal 224×224 channels, one small network per parent,
        no wide path, scaling by the maximum of each gene, the published loss, no masking and no
        thinning.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCHDeepInsight.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCHDeepInsight.from_paper(
        ...     reference, backbone="compact", side=32, layout="random"
        ... )  # smaller and faster than published
        >>> model.module.thinning, len(model.layout.genes)
        (CountThinning(p=0.0, min_rate=1.0), 765)

        Notes
        -----
        Train it with ``batch_size=256, plan_kwargs={"lr": 1e-4, "weight_decay": 1e-5}`` and
        annotate with ``decoder="greedy", threshold=None``. The published pipeline also corrects
        reference and query with STACAS first, and starts from ImageNet weights, which this model
        does not.
        """
        config = ModuleConfig(
            scale_percentile=100.0,
            head="per_parent",
            dropout=0.3,
            channels="rgb",
            gamma=2.0,
            weighting="adaptive",
            reduction="published",
            class_weights=0.0,
        )
        published: dict[str, Any] = {
            "n_genes": 5000,
            "layout": "tsne_published",
            "side": 224,
            "backbone": "efficientnet_b5",
            "masking": GeneMasking.none(),
            "thinning": CountThinning.none(),
            "config": config,
        }
        return cls(adata, taxonomy=taxonomy, **(published | options))

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the model, in order."""
        return self._loader_genes if self.module is None else self.layout.genes

    @property
    def proteins(self) -> tuple[str, ...]:
        """Surface proteins of the model; empty if it was trained on RNA alone."""
        return () if self.protein_layout is None else self.protein_layout.genes

    def explain(
        self,
        query: Any = None,
        nodes: str | Sequence[str] | None = None,
        *,
        against: str | None = None,
        level: int | str | None = None,
        target: TargetKind = "conditional",
        background: DataLike | None = None,
        n_background: int = 10,
        n_samples: int = 50,
        keep_values: bool = True,
        batch_size: int | None = None,
        seed: int | None = None,
        **reading: Any,
    ) -> Explanation:
        r"""Attribute the probability of a node to genes, per cell and over all cells.

        Parameters
        ----------
        query
            As in :meth:`annotate`; select the cells of interest to save time. The model's own data
            by default.
        nodes
            Nodes to explain for all cells: names, synonyms or paths. By default each cell is
            explained for its predicted node.
        against
            Node to compare with: the difference of the log-probabilities of the two nodes is
            explained ("why Treg and not naive CD4 T"). They need not be siblings.
        level
            Level of the predicted nodes, by depth or name, if ``nodes`` is omitted; leaves by
            default.
        target
            ``"conditional"``: log-probability of the node given its parent, which distinguishes it
            from its siblings. ``"joint"``: log-probability of the node, which distinguishes it from
            all others; the sum of the conditional ones along its path. ``"logit"``: its logit
            before the softmax over siblings.
        background
            Cells to compare with: an AnnData or a file, which has every gene of the query. Equal
            numbers of each type are used, by the label columns of the reference if present, else by
            the model's labels. By default the registered reference; a model without a reference
            draws cells from its mean profiles.
        n_background
            Background cells per type.
        n_samples
            Gradients per cell. More samples reduce the error and take more time.
        keep_values
            Keep the attributions of single cells, 4 bytes per cell, gene and node. With ``False``,
            only mean and standard deviation over cells are kept, and memory does not grow with the
            number of cells.
        batch_size
            Gradients per pass through the network; by default 256 on a CPU, to fit its caches, and
            8,192 on other devices.
        seed
            Seed of the background and the sampling; the model's seed by default.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of :meth:`annotate`.

        Returns
        -------
        Attributions, rankings and signatures of genes, and the error of their sums. Cells without
        counts are excluded, as ``note`` states.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts, the genes do not match, or the cells have
            proteins that the model reads too.
        ValueError
            If a node is unknown, a number is out of range, or no background is available.

        Notes
        -----
        Expected gradients (doi:10.1038/s42256-021-00343-w) of the calibrated output in the space
        of scaled expression, through the gene image:
        :math:`\varphi_g = \mathrm{E}_{s',t}[(s_g - s'_g)\,\partial F/\partial s_g]` at
        :math:`s' + t(s - s')`. Background cells are restricted to the genes of the query, so that
        genes that were not measured get 0. For an adapted model, the network with the adapters of
        each cell's batch is explained, and also used for the background; the ranks of markers,
        which have half of the weight in its probabilities, have no gradient.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query[:10]
        >>> found = model.explain(query, "B", against="Myeloid")
        >>> found.against, found.values.shape
        ('Myeloid', (10, 2048))
        >>> found.ranking().head(10).shape
        (10, 7)
        """
        check_integer("n_background", n_background)
        check_integer("n_samples", n_samples)
        check_integer("seed", seed, 0, optional=True)
        check_integer("batch_size", batch_size, optional=True)
        targets = Targets.of(self.taxonomy, nodes, against=against, level=level, kind=target)
        opened = self._open_trained(query, None, **reading)
        if opened.extra.proteins is not None and opened.extra.proteins.measured.any():
            raise InputError(
                "The query has proteins that the model reads.",
                "Only genes can be explained.",
                "Pass the RNA alone, such as mdata.mod['rna'].",
            )
        seed = self.seed if seed is None else seed
        return explain_cells(
            self.module,
            opened,
            targets,
            self._background(background, n_background, seed),
            keep_values=keep_values,
            every=nodes is not None,
            n_samples=n_samples,
            seed=seed,
            batch_size=batch_size,
            **self._explained(opened),
        )

    def _background(self, given: Any, per_type: int, seed: int) -> Background:
        """Return background cells: given ones, the reference, or samples of its profiles."""
        options = {"per_type": per_type, "seed": seed}
        if given is None and (self.adata is None or self._panels is not None):
            if self.profiles_ is None:
                msg = "The model has neither a reference nor mean profiles as a background."
                raise ValueError(f"{msg} Pass a labelled AnnData as background=.")
            return background_from_profiles(self.profiles_, **options)
        opened, keys = self.open(given), self._setup.labels_keys
        if given is None:
            nodes = self._nodes()
        elif set(keys) <= set(opened.obs):
            nodes = self._nodes(opened.obs, keys, ignore_unknown=True)
        else:
            found = self.predict_proba(opened).to_numpy()[:, self.taxonomy.leaves - 1]
            nodes = self.taxonomy.leaves[found.argmax(axis=1)]
        leaves = np.where(np.isin(nodes, self.taxonomy.leaves), nodes, 0)
        source = "the reference" if given is None else "the given background"
        types = leaves if leaves.any() else nodes
        return background_from_cells(opened, types, source=source, **options)

    def __repr__(self) -> str:
        """Summarise backbone, layout, taxonomy and training."""
        sizes = zip(self.taxonomy.level_names, np.bincount(self.taxonomy.depth)[1:], strict=True)
        levels = ", ".join(f"{name} ({size})" for name, size in sizes)
        network = "to be built when trained with a datamodule"
        if self.module is not None:
            backbone = self.init_params_["non_kwargs"]["backbone"]
            side, weights = self.layout.side, sum(p.numel() for p in self.module.parameters())
            network = (
                f"{backbone} on {side}×{side} images of {len(self.genes)} genes "
                f"({self.layout.method} layout)"
                f"{f' and {len(self.proteins)} proteins' if self.proteins else ''}, "
                f"{weights:,} weights"
                f"{f' of {self.module.n_members} members' if self.module.n_members > 1 else ''}"
            )
        labels = self.registry_["field_registries"].get("labels", {}).get("state_registry", {})
        missing = ", ".join(
            f"{n:,} without a label in {key!r}"
            for key, n in (labels.get("n_missing") or {}).items()
            if n
        )
        return (
            f"{type(self).__name__}: {network}\n"
            f"taxonomy: {self.taxonomy.n_leaves} types at levels {levels}\n"
            f"{self._training_state()}{f' ({missing})' if missing else ''}"
        )

    def _layout_of(self, source: Any, nodes: Any, keep: Sequence[str]) -> GeneLayout:
        """Return the given layout, or one fitted on the most variable genes of the reference."""
        options = self.init_params_["non_kwargs"]
        layout: Any = options["layout"]
        if not isinstance(layout, str):
            return layout if isinstance(layout, GeneLayout) else GeneLayout.from_dict(layout)
        codes = None if self._panels is None else self._panels.codes
        genes = select_genes(source, options["n_genes"], keep=keep, panels=codes)
        rows = draw_evenly(nodes, LAYOUT_CELLS, np.random.default_rng(self.seed))
        sample = source.read(align_genes(source.var_names, genes), rows)
        if codes is not None:  # genes that are 0 in the same panels would be neighbours
            panels, nodes = GenePanels.find(sample, codes[rows]), nodes[rows]
            shares = panels.mean_shares(sample, nodes, self.taxonomy.n_nodes)
            sample = panels.complete(sample, shares, nodes, self.seed)
        fitting: dict[str, Any] = {"method": layout, "side": options["side"], "seed": self.seed}
        with progress("Fitting the gene layout"):
            return GeneLayout.fit(log_normalize(sample), genes, **fitting)

    def _build(self, layout: GeneLayout, proteins: Any, nodes: np.ndarray | None = None) -> None:
        """Build the network, and record the layout and the number of members."""
        options = self.init_params_["non_kwargs"]
        if options["n_members"] == "auto":
            n_labelled = MEMBERS_CELLS if nodes is None else np.count_nonzero(nodes)
            options["n_members"] = int(np.clip(MEMBERS_CELLS // max(n_labelled, 1), 1, MAX_MEMBERS))
        self.layout = layout
        proteins = GeneLayout.from_dict(proteins) if isinstance(proteins, dict) else proteins
        if genes := registration.genes_of_proteins(self.adata, self._setup, layout.genes):
            proteins = proteins or protein_layout(layout, genes)
        self.protein_layout: GeneLayout | None = proteins
        options["layout"] = layout.to_dict()
        options["proteins"] = proteins and proteins.to_dict()
        objects = {"taxonomy": self.taxonomy, "layout": layout, "proteins": proteins}
        with seeded(self.seed):
            self.module = self._module_cls.from_options(options | objects)

    def _build_from(self, counts: csr_matrix, nodes: np.ndarray) -> None:
        """Build the network from a sample of the cells of a datamodule."""
        var = pd.DataFrame(index=pd.Index(self._loader_genes, dtype=object))
        source = open_counts(AnnData(counts, var=var))
        keep = self.init_params_["non_kwargs"]["keep_genes"]
        self._build(self._layout_of(source, nodes, keep), None, nodes)
        counts, rows = read_counts(source, self.genes), np.arange(len(nodes))
        self._fit_to(counts, nodes, np.zeros(len(nodes)), rows)

    def _fit_to(
        self, counts: csr_matrix, nodes: np.ndarray, batches: np.ndarray, rows: np.ndarray
    ) -> None:
        """Fit normalisation and mean profiles to some rows, and class weights to all cells."""
        config = self._config
        panels = None if self._panels is None else self._panels[rows]
        how: Any = {"panels": panels, "scale_percentile": config.scale_percentile}
        self.module.normalizer.fit(counts, **how)
        if self.module.proteins is not None and is_paired(self.adata):
            arrays = self.adata_manager.adata.obsm
            measured = arrays["proteins_measured"].any(axis=1)
            self.module.proteins.normalizer.fit(arrays[FIELD_KEYS.PROTEINS][measured])
        self._fit_profiles(counts, nodes[rows], batches[rows], panels)
        tree, labels = self.module.tree, torch.from_numpy(nodes)
        weights = inverse_frequency_weights(tree, labels, config.class_weights)
        self.module.objective.node_weights.copy_(weights)
