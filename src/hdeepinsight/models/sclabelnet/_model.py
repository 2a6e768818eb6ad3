"""SCLabelNet, the model class."""

from __future__ import annotations

import copy
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi.dataloaders import DataSplitter

from hdeepinsight import nn
from hdeepinsight._errors import check_choice, check_integer, check_number, counted, invalid
from hdeepinsight.adaptation import use_adapters
from hdeepinsight.annotation import Evaluation
from hdeepinsight.data import select_genes, split_three
from hdeepinsight.explanation import Explanation, TargetKind, Targets, collect_attributions
from hdeepinsight.models._base import _registration as registration
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._annotating import NO_HEAD
from hdeepinsight.models._base._classifier import HierarchicalClassifierMixin
from hdeepinsight.models._base._count_model import CountModel
from hdeepinsight.models._base._plan import Prepared
from hdeepinsight.models.sclabelnet._plan import (
    GROUP,
    SCORES,
    BalancedSplitter,
    Finetune,
    FinetuningPlan,
    GeneTokenModule,
    PretrainingPlan,
    joined,
)
from hdeepinsight.taxonomy import Taxonomy

#: Learning rate of a pretrained encoder, as a fraction of that of the head.
ENCODER_RATE = 0.1
HELD_OUT = 0.05
#: Options of the class that are passed to its network.
NETWORK_OPTIONS = "size", "pooling", "binning", "value_encoding", "n_bins", "max_tokens", "dropout"
#: Cells per forward pass of an explanation.
EXPLAINED_CELLS = 32
BASELINE = "the same genes with masked values"
LEAKY = "Leaky protocol: {} of {:,} have a copy among the training cells. These scores measure the"
LEAKY += " leak, not the model."
Protocol = Literal["held_out", "published_leaky"]
logger = logging.getLogger(__name__)


class SCLabelNet(HierarchicalClassifierMixin, CountModel):
    r"""Hierarchical annotation with a transformer on gene tokens, pretrained without labels.

    Each cell is the set of its expressed genes with binned values. :meth:`pretrain` predicts
    masked values from the other genes, on any cells of the species. :meth:`train` then trains the
    classifier, which also has a linear path from all genes, sampling cells of rare labels more
    often. Everything else, such as the combination of the network with profiles of the types, is
    as in :class:`~hdeepinsight.models.SCHDeepInsight`.

    Parameters
    ----------
    adata
        Reference that was registered with :meth:`setup_anndata`; without ``labels_key`` and
        taxonomy the model is an encoder without a classification head.
    registry
        Registry of a saved model.
    taxonomy
        Taxonomy of the cell types; by default built from the label columns.
    genes
        Genes of the model; by default the ``n_genes`` most variable ones.
    n_genes
        Maximum number of selected genes.
    size
        ``"small"``: 2 layers of width 64; ``"medium"``: 4 of 128; ``"published"``: 6 of 200, with
        exact attention instead of the Performer.
    pooling
        Pooling of the tokens of a cell: ``"attention"``, ``"cls"`` or ``"mean"``.
    binning
        ``"log2"``, ``"log2_published"`` or ``"rank"``; see :func:`~hdeepinsight.nn.bin_values`.
    value_encoding
        ``"hard"`` for bins, ``"soft"`` to interpolate between two bins.
    n_bins
        Number of bins.
    max_tokens
        Maximum number of tokens per cell: a random subset in training; at prediction those with
        the highest expression relative to the reference.
    dropout
        Dropout rate of encoder and head.
    masking, thinning
        Random gene masking and thinning of counts in training.
    seed
        Seed of the initial weights, the split and the training; ``scvi.settings.seed`` by default,
        or 0 if that is not set.

    Raises
    ------
    ValueError
        If the reference is not registered, a label is not in the taxonomy, or an option is out of
        range.

    Examples
    --------
    A quick example with a small, briefly trained model:

    >>> import hdeepinsight as hdi
    >>> data, quiet = hdi.datasets.demo(), {"accelerator": "cpu", "enable_progress_bar": False}
    >>> hdi.SCLabelNet.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
    >>> model = hdi.SCLabelNet(data.reference, n_genes=200)
    >>> model.pretrain(max_epochs=1, **quiet)
    >>> model.train(max_epochs=1, **quiet)
    >>> model.annotate(data.query).labels.shape
    (210, 3)

    Notes
    -----
    Experimental: in our measurements it is as accurate as
    :class:`~hdeepinsight.models.SCHDeepInsight` and slower, and most of the accuracy comes from the
    profiles of the types and the linear path; the user guide has the tables.

    Based on ScLabel-Net (doi:10.19843/j.cnki.CN42-1779/TQ.202412007) and the public code of the
    related TransAnno-Net. Exact attention over expressed genes, normalisation, head, loss,
    calibration, balanced sampling after the split and prior correction differ from the paper.
    """

    _module_cls = GeneTokenModule
    _training_plan_cls: ClassVar[type] = FinetuningPlan
    _labels_required: ClassVar[bool] = False
    _saved_values: ClassVar[tuple[str, ...]] = ("shift_", "pretraining_")
    _train_options = *HierarchicalClassifierMixin._train_options, "finetune", "balance"
    # Each step takes longer than with gene images; more steps did not improve the combination.
    _batch_size_bounds, _default_steps = (16, 32), 600

    taxonomy: Taxonomy | None
    pretraining_: dict[str, Any] | None = None

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: Mapping[str, Any] | None = None,
        *,
        taxonomy: Taxonomy | dict[str, Any] | None = None,
        genes: Sequence[str] | None = None,
        n_genes: int = 4096,
        size: str = "small",
        pooling: nn.Pooling = "attention",
        binning: nn.Binning = "log2",
        value_encoding: nn.ValueEncoding = "hard",
        n_bins: int = 5,
        max_tokens: int = 64,
        dropout: float = 0.1,
        masking: nn.GeneMasking | dict[str, float] | None = None,
        thinning: nn.CountThinning | dict[str, float] | None = None,
        seed: int | None = None,
    ) -> None:
        check_integer("n_genes", n_genes, hint="Omit it to use 4096.")
        super().__init__(adata, registry, seed=seed)
        if genes is None and adata is None:
            msg = "SCLabelNet samples cells by label, which datamodules do not support. Create it"
            raise ValueError(f"{msg} from an AnnData that was set up with setup_anndata.")
        self.taxonomy = self._taxonomy_of(taxonomy)
        if adata is not None:
            n_selected = n_genes if genes is None else len(genes)
            codes = None if self._panels is None else self._panels.codes
            how: Any = {"keep": genes or (), "panels": codes}
            self._read_genes(select_genes(self._registration().source, n_selected, **how))
        masking, thinning = nn.GeneMasking.of(masking), nn.CountThinning.of(thinning)
        given = self._record_options(
            locals(),
            taxonomy=self.taxonomy and self.taxonomy.to_dict(),
            genes=list(self.genes),
            masking=masking.to_dict(),
            thinning=thinning.to_dict(),
        )
        options = {name: given[name] for name in NETWORK_OPTIONS}
        options |= {"masking": masking, "thinning": thinning}
        self._build_module(self.taxonomy, len(self.genes), **options)
        if adata is not None:
            shell = self.adata_manager.adata
            self.module.normalizer.fit(shell.X, panels=self._panels)
            if self.taxonomy is not None:
                nodes = shell.obs[registration.LABELS] = self._nodes()
                batches = shell.obs[registration.BATCH].to_numpy()
                self._fit_profiles(shell.X, nodes, batches, self._panels)

    @classmethod
    def from_encoder(
        cls,
        encoder: SCLabelNet | str | Path,
        adata: AnnData,
        taxonomy: Taxonomy | None = None,
        *,
        n_genes: int = 4096,
        **options: Any,
    ) -> Self:
        """Create a model of a labelled reference from a pretrained encoder.

        Parameters
        ----------
        encoder
            Pretrained model, with or without a head, or the folder of a saved one.
        adata
            Reference that was registered with :meth:`setup_anndata`.
        taxonomy
            Taxonomy of the cell types; by default built from the label columns.
        n_genes
            Maximum number of genes: those shared by encoder and reference, then the most variable
            other genes of the reference, which are new to the encoder.
        **options
            Options of the class that replace those of the encoder.

        Returns
        -------
        A model to :meth:`train`. ``pretraining["n_new_genes"]`` is the number of new genes.

        Raises
        ------
        ValueError
            If encoder and reference share no gene.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> data, quiet = hdi.datasets.demo(), {"accelerator": "cpu", "enable_progress_bar": False}
        >>> cells = data.query.copy()
        >>> hdi.SCLabelNet.setup_anndata(cells)
        >>> encoder = hdi.SCLabelNet(cells, n_genes=100)
        >>> encoder.pretrain(max_epochs=1, **quiet)
        >>> hdi.SCLabelNet.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCLabelNet.from_encoder(encoder, data.reference, n_genes=120)
        >>> model.pretraining["n_new_genes"]
        20
        """
        encoder = cls._model_of(encoder)
        source = registration.registration_of(cls, adata).source
        shared = [gene for gene in encoder.genes if gene in source.var_names]
        if not shared:
            msg = f"None of the {len(encoder.genes):,} genes of the encoder is in the reference"
            hint = "Use the same kind of gene names in both: symbols, or Ensembl identifiers."
            raise ValueError(f"{msg} ({', '.join(encoder.genes[:3])}, ...). {hint}")
        names = select_genes(source, max(n_genes, len(shared)), keep=shared)
        kept = {**encoder.init_params_["non_kwargs"], "seed": None, **options}
        model = cls(adata, **kept | {"taxonomy": taxonomy, "genes": names})
        rows = torch.from_numpy(pd.Index(names).get_indexer(shared))
        encoder_rows = torch.from_numpy(pd.Index(encoder.genes).get_indexer(shared))
        backbone, state = model.module.backbone, encoder.module.backbone.state_dict()
        table = backbone.genes.weight.detach().clone()
        table[rows] = state["genes.weight"][encoder_rows].to(table)
        backbone.load_state_dict({**state, "genes.weight": table})
        model.module.value_head.load_state_dict(encoder.module.value_head.state_dict())
        record = dict(encoder.pretraining_ or {})
        model.pretraining_ = {**record, "n_new_genes": len(names) - len(shared)}
        logger.info("%d of %d genes are new to the encoder.", len(names) - len(shared), len(names))
        return model

    @property
    def pretraining(self) -> dict[str, Any]:
        """Record of the pretraining with cells, genes, epochs, loss and baselines, or empty.

        ``validation_loss`` is the mean cross-entropy of masked values in held-out cells. The
        baselines predict the distribution of bins over all genes (``baseline_all_genes``) or of
        the same gene (``baseline_per_gene``), without the other genes of the cell. All three are
        absent if there were too few cells to hold any out (see :meth:`pretrain`).
        """
        return dict(self.pretraining_ or {})

    @training.leaves_unchanged_if_interrupted
    def pretrain(
        self,
        adata: Any = None,
        *,
        max_epochs: int = 20,
        mask_rate: float = 0.15,
        replace_rate: float = 0.9,
        split_key: str | None = None,
        batch_size: int = 64,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        plan_kwargs: Mapping[str, Any] | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the encoder, without labels, to predict masked values from the other genes.

        Parameters
        ----------
        adata
            Cells of the same species, as in :meth:`~hdeepinsight.models.CountModel.open`, or a
            list of such objects; they stay sparse in memory. By default the model's own cells
            except those that :meth:`train` holds out with the same ``split_key``.
        max_epochs
            Number of epochs.
        mask_rate
            Share of the tokens of a cell whose value is predicted.
        replace_rate
            Share of the predicted tokens that are masked; the others stay visible.
        split_key
            Column of ``obs`` whose groups (donors) are held out as a whole for validation. By
            default 5 % of the given cells are held out, and none of fewer than 100.
        batch_size
            Cells per mini-batch.
        accelerator, devices, plan_kwargs
            As in :meth:`train`.
        **trainer_kwargs
            Passed to :class:`scvi.train.Trainer`.

        Raises
        ------
        InputError
            If cells cannot be read as counts, or the genes do not match.
        ValueError
            If a number is out of range, or no cells can be held out.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().query
        >>> hdi.SCLabelNet.setup_anndata(cells)
        >>> encoder = hdi.SCLabelNet(cells, n_genes=100)
        >>> encoder.pretrain(max_epochs=1, accelerator="cpu", enable_progress_bar=False)
        >>> encoder.pretraining["n_cells"], encoder.get_latent_representation().shape
        (210, (210, 64))
        """
        check_integer("max_epochs", max_epochs)
        check_integer("batch_size", batch_size)
        training.check_names(trainer_kwargs)
        options = training.as_options("plan_kwargs", plan_kwargs)
        if adata is None:
            self._resolve_adata(None)
            manager, measured = self.adata_manager, np.ones((1, len(self.genes)))
            split, _ = self._split(split_key=split_key)
        else:
            given = list(adata) if isinstance(adata, list | tuple) else [adata]
            shell, measured = joined([self.open(each) for each in given], split_key)
            manager = registration.register_shell(shell, self._setup)
            groups = None if split_key is None else shell.obs[GROUP].to_numpy()
            rng = np.random.default_rng(self.seed)
            split = split_three(np.ones(shell.n_obs), None, HELD_OUT, rng, groups=groups)
        rates = {"mask_rate": mask_rate, "replace_rate": replace_rate}
        plan = PretrainingPlan(self.module, measured, **rates, **options)
        n_val = len(split[1])
        options = training.trainer_options(trainer_kwargs, max_epochs, n_val, devices, monitor=None)
        options |= {"accelerator": accelerator, "devices": devices, "max_epochs": max_epochs}
        loaders = DataSplitter(manager, external_indexing=split, batch_size=batch_size)
        learner = copy.copy(self)  # keeps history and split of the pretraining separate
        learner.is_trained_ = False
        learner._run(plan, loaders, options)
        # Without a head, the model needs no further training.
        self.is_trained_ = self.is_trained_ or self.taxonomy is None
        self.pretraining_ = {
            "n_cells": manager.adata.n_obs,
            "n_held_out": n_val,
            "n_genes": len(self.genes),
            "n_files": len(measured),
            "max_epochs": max_epochs,
            "seed": self.seed,
            **rates,
            **{k: float(table.iloc[-1, 0]) for k, table in learner.history_.items() if k in SCORES},
        }

    def train(
        self,
        max_epochs: int | None = None,
        *args: Any,
        finetune: Finetune | None = None,
        balance: float | None = None,
        **kwargs: Any,
    ) -> None:
        r"""Train the classifier on the reference, or fit the adapter of a query model.

        Parameters
        ----------
        max_epochs, *args
            As in :meth:`hdeepinsight.models.CountModel.train`, but by default as many epochs as
            give about 600 optimiser steps.
        finetune
            Trained part of a pretrained network: ``"full"`` (default), all of it, with a tenth of
            the learning rate for the encoder; ``"head"``, the head; ``"published"``, the head, the
            last normalisation and the second-to-last block.
        balance
            :math:`\beta`: cells are sampled with weights :math:`n^{-\beta}`, where :math:`n` is the
            number of cells with the same label. 0 keeps the label frequencies, 1 samples all labels
            equally; 0.5 by default. Predictions are corrected for it. Held-out cells are not
            resampled.
        **kwargs
            Further arguments of :meth:`hdeepinsight.models.CountModel.train`.

        Raises
        ------
        ValueError
            As :meth:`hdeepinsight.models.CountModel.train`, and if the model has no taxonomy.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference = hdi.datasets.demo().reference
        >>> hdi.SCLabelNet.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCLabelNet(reference, n_genes=200)
        >>> model.train(max_epochs=1, balance=1.0, accelerator="cpu", enable_progress_bar=False)
        >>> model.is_trained, model.recipe["balance"]
        (True, 1.0)
        """
        if self.taxonomy is None:
            raise ValueError(NO_HEAD)
        check_choice("finetune", finetune or "full", get_args(Finetune))
        check_number("balance", balance or 0.0, 0.0, 1.0)
        given = {"finetune": finetune, "balance": balance}
        kwargs |= {name: value for name, value in given.items() if value is not None}
        super().train(max_epochs, *args, **kwargs)

    def _prepare(self, split: Any, datamodule: Any, audit: Any = False, **options: Any) -> Prepared:
        finetune, balance = options.pop("finetune", "full"), float(options.pop("balance", 0.5))
        further, settings = super()._prepare(split, datamodule, audit, **options)
        nodes = self.adata_manager.adata.obs[registration.LABELS].to_numpy()[split[0]]
        prior = nn.log_prior_ratio(self.module.tree, nodes, nn.sampling_weights(nodes, balance))
        rate = ENCODER_RATE if self.pretraining_ else 1.0
        settings |= {"finetune": finetune, "balance": balance}
        return (prior, finetune, rate, *further), settings

    def _splitter(self, settings: Mapping[str, Any], **loading: Any) -> DataSplitter:
        balance, rows = settings["balance"], loading["external_indexing"][0]
        if balance == 0:
            return super()._splitter(settings, **loading)
        if loading.pop("distributed_sampler"):
            hint = "Pass balance=0, or train on one device."
            raise invalid("balance", balance, "0 on several devices", hint)
        nodes = self.adata_manager.adata.obs[registration.LABELS].to_numpy()
        weights = np.zeros(len(nodes))
        weights[rows] = nn.sampling_weights(nodes[rows], balance)
        return BalancedSplitter(self.adata_manager, weights, **loading)

    def evaluate(
        self, adata: Any = None, *, protocol: Protocol = "held_out", **kwargs: Any
    ) -> Evaluation:
        """Evaluate the annotation against known labels, or measure the leak of another protocol.

        Parameters
        ----------
        adata
            As in :meth:`hdeepinsight.models.SCHDeepInsight.evaluate`; with
            ``"published_leaky"`` the labelled cells to train on, by default the reference.
        protocol
            ``"held_out"``: this model on cells that it was not trained on. ``"published_leaky"``:
            a new model of the same options, trained and tested like the public code of
            TransAnno-Net, which copies cells of rare labels **before** it splits off 20 % of the
            cells, so that copies of test cells are trained on. It only serves to measure how much
            such scores are too high; the ``note`` of the result says so.
        **kwargs
            Other arguments of :meth:`hdeepinsight.models.SCHDeepInsight.evaluate`; with
            ``"published_leaky"`` those of :meth:`train`.

        Raises
        ------
        ValueError
            As in :meth:`hdeepinsight.models.SCHDeepInsight.evaluate`, and if the protocol is
            unknown or the model has no taxonomy.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> reference, quiet = hdi.datasets.demo().reference, {"enable_progress_bar": False}
        >>> hdi.SCLabelNet.setup_anndata(reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCLabelNet(reference, n_genes=200)
        >>> leaky = model.evaluate(protocol="published_leaky", max_epochs=1, **quiet)
        >>> leaky.note.partition(":")[0]
        'Leaky protocol'
        """
        check_choice("protocol", protocol, get_args(Protocol))
        if self.taxonomy is None:
            raise ValueError(NO_HEAD)
        if protocol == "held_out":
            return super().evaluate(adata, **kwargs)
        opened, nodes = self.open(adata), self.label_nodes(adata)
        groups = [np.flatnonzero(nodes == node) for node in np.unique(nodes[nodes > 0])]
        most, rng = max(map(len, groups)), np.random.default_rng(self.seed)
        rows = np.concatenate([[*group, *rng.choice(group, most - len(group))] for group in groups])
        obs = opened.obs.iloc[rows].set_axis(np.arange(len(rows)).astype(str))
        copies = AnnData(opened.read()[rows], obs=obs, var=pd.DataFrame(index=opened.genes))
        self.setup_anndata(copies, **self._setup.setup_args | {"layer": None})
        model = type(self)(copies, **self.init_params_["non_kwargs"])
        model.train(**{"validation_size": 0.2, "balance": 0.0} | kwargs)
        test = rows[model.validation_indices]
        n_leaked = int(np.isin(test, rows[model.train_indices]).sum())
        note = LEAKY.format(counted(n_leaked, "test cell"), len(test))
        return replace(model.evaluate(), note=note)

    def explain(
        self,
        query: Any = None,
        nodes: str | Sequence[str] | None = None,
        *,
        against: str | None = None,
        level: int | str | None = None,
        target: TargetKind = "conditional",
        n_samples: int = 32,
        keep_values: bool = True,
        **reading: Any,
    ) -> Explanation:
        """Attribute the probability of a node to the values of the expressed genes of a cell.

        Parameters
        ----------
        query, nodes, against, level, target, keep_values
            As in :meth:`hdeepinsight.models.SCHDeepInsight.explain`.
        n_samples
            Gradients per cell; more samples reduce the error of the sums.
        **reading
            ``layer``, ``use_raw``, ``scale`` and ``fold_case`` of :meth:`annotate`.

        Returns
        -------
        Attributions, whose sum is the difference from the same cell with all values masked. They
        explain expression levels, not which genes are expressed.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts, or the genes do not match.
        ValueError
            If a node is unknown, or a number is out of range.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> data, quiet = hdi.datasets.demo(), {"accelerator": "cpu", "enable_progress_bar": False}
        >>> hdi.SCLabelNet.setup_anndata(data.reference, labels_keys=["lineage", "cell_type"])
        >>> model = hdi.SCLabelNet(data.reference, n_genes=200)
        >>> model.train(max_epochs=1, **quiet)
        >>> node = model.taxonomy.path_name(1)
        >>> model.explain(data.reference[:3], node, n_samples=4).values.shape
        (3, 200)
        """
        check_integer("n_samples", n_samples)
        opened = self._open_trained(query, None, **reading)
        tree: Any = self.taxonomy
        targets = Targets.of(tree, nodes, against=against, level=level, kind=target)
        module, every = self.module.eval(), nodes is not None
        measured = torch.tensor(opened.measured).to(module.temperature)

        def attribute(batch: int, counts: np.ndarray, leaves: np.ndarray) -> Any:
            cells, how = torch.from_numpy(counts).to(measured), {"every": every}
            with use_adapters(module, np.full(len(counts), batch)):
                return module.attribute(cells, measured, targets, leaves, n_steps=n_samples, **how)

        return collect_attributions(
            opened,
            targets,
            attribute,
            every=every,
            keep_values=keep_values,
            n_cells=EXPLAINED_CELLS,
            background_expression=np.zeros(len(opened.genes)),
            background=BASELINE,
            **self._explained(opened),
        )

    def get_gene_embedding(self) -> pd.DataFrame:
        """Return the gene embeddings of the encoder, shape ``(n_genes, n_latent)``.

        Examples
        --------
        >>> import hdeepinsight as hdi
        >>> cells = hdi.datasets.demo().query
        >>> hdi.SCLabelNet.setup_anndata(cells)
        >>> hdi.SCLabelNet(cells, n_genes=100).get_gene_embedding().shape
        (100, 64)
        """
        table = self.module.backbone.genes.weight.detach().cpu().numpy()
        return pd.DataFrame(table.copy(), index=pd.Index(self.genes, name="gene"))

    def __repr__(self) -> str:
        """Summarise network, taxonomy, training and pretraining."""
        tree, record, lines = self.taxonomy, self.pretraining, ["encoder without a head"]
        size, weights = self.init_params_["non_kwargs"]["size"], self.module.parameters()
        if tree is not None:
            types = f"taxonomy: {tree.n_leaves} types at levels {', '.join(tree.level_names)}"
            lines = [types, self._training_state()]
        if record:
            lines.append(f"pretrained on {record.get('n_cells', 0):,} cells without labels")
        if "validation_loss" in record:
            loss, base = record["validation_loss"], record["baseline_per_gene"]
            lines[-1] += f": validation loss {loss:.3f}, baseline of single genes {base:.3f}"
        text = f"{type(self).__name__}: {size} transformer on tokens of {len(self.genes):,} genes"
        return "\n".join([f"{text}, {sum(p.numel() for p in weights):,} weights", *lines])
