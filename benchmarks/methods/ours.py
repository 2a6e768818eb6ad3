"""SCHDeepInsight, and the controls that change one thing about it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

import hdeepinsight as hdi
from hdeepinsight.models import ModuleConfig
from hdeepinsight.nn import ProfileEnsemble

from .interface import Cells, Prediction, Reference

if TYPE_CHECKING:
    import anndata as ad

#: Column of the flat control: the class of a cell as its only level.
FLAT = "class"


@dataclass(frozen=True)
class Variant:
    """Keyword arguments that differ from the defaults, by the call that takes them.

    Parameters
    ----------
    model, train, annotate
        Overrides for ``SCHDeepInsight(...)``, ``.train(...)`` and ``.annotate(...)``.
    config
        Choices of the network and its loss.
    flat
        Train on a tree of depth one, whose leaves are the classes.
    model_class
        Makes the class of the model, where keyword arguments cannot say what changes.
    """

    model: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    annotate: dict = field(default_factory=dict)
    config: ModuleConfig = field(default_factory=ModuleConfig)
    flat: bool = False
    model_class: Callable[[], type] = lambda: hdi.SCHDeepInsight


def _leaf_softmax() -> type:
    from .leaf_softmax import LeafSoftmaxModel

    return LeafSoftmaxModel


class NetworkAlone(hdi.SCHDeepInsight):
    """The network, not combined with profiles of the types."""

    combined_profiles = None


NO_MASKING = {"p_whole": 1.0, "max_rate": 0.0}
NO_THINNING = {"p": 0.0, "min_rate": 1.0}

#: The table to adjust when the model's arguments or defaults change. Fixed loss weights, plain
#: cross-entropy (gamma 0) and the image alone (no wide path) are the defaults themselves.
VARIANTS: dict[str, Variant] = {
    "schdeepinsight": Variant(),
    "members": Variant(model={"n_members": "auto"}),
    "network_alone": Variant(model_class=lambda: NetworkAlone),
    "random_layout": Variant(model={"layout": "random"}),
    "adaptive_weights": Variant(config=ModuleConfig(weighting="adaptive")),
    "focal": Variant(config=ModuleConfig(gamma=2.0)),
    "hierarchical_cross_entropy": Variant(model_class=_leaf_softmax),
    "no_masking": Variant(model={"masking": NO_MASKING}),
    "no_thinning": Variant(model={"thinning": NO_THINNING}),
    "no_class_weights": Variant(config=ModuleConfig(class_weights=0.0)),
    "flat_head": Variant(flat=True),
    "mlp_backbone": Variant(model={"backbone": "mlp"}),
    "no_backbone": Variant(model={"backbone": None}, config=ModuleConfig(wide=True)),
    "with_wide_path": Variant(config=ModuleConfig(wide=True)),
    "published_reduction": Variant(config=ModuleConfig(reduction="published")),
    "greedy_decode": Variant(annotate={"decoder": "greedy"}),
}


class SCHDeepInsight:
    """Train with the defaults of the package, but for what the variant changes.

    Parameters
    ----------
    variant
        Name in ``VARIANTS``.
    models
        Folder of the pair's trained models: one that is there is loaded, and else kept there.
    accelerator
        Where to train and annotate, as in Lightning.
    """

    def __init__(
        self,
        *,
        seed: int,
        threads: int,
        folder: Path,
        variant: str,
        models: Path | str | None = None,
        accelerator: str = "cpu",
    ):
        del folder
        warnings.simplefilter("ignore")
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        torch.set_num_threads(threads)
        self.seed, self.variant, self.accelerator = seed, VARIANTS[variant], accelerator
        self.kept = models and Path(models) / f"{variant}_{seed}"
        self.extra: dict = {}

    def fit(self, reference: Reference) -> None:
        """Set up, fit layout and normalisation, train; or load what was kept."""
        self.tree = reference.tree
        if self.kept and (self.kept / "manifest.json").exists():
            self.model = hdi.SCHDeepInsight.load(self.kept, False, self.accelerator)
        else:
            self.model = self._trained(reference)
            if self.kept:
                self.model.save(self.kept, overwrite=True)
        self.extra = {"epochs": len(self.model.history["train_loss"])}

    def _trained(self, reference: Reference) -> hdi.SCHDeepInsight:
        adata, levels = self._labelled(reference)
        model_class = self.variant.model_class()
        model_class.setup_anndata(
            adata,
            labels_keys=levels,
            batch_key=batch_key_of(reference),
            unlabeled_category="",
        )
        model = model_class(adata, seed=self.seed, config=self.variant.config, **self.variant.model)
        options = {"accelerator": self.accelerator, "enable_progress_bar": False}
        model.train(**options, **self.variant.train)
        return model

    def annotate(self, query: Cells) -> Prediction:
        """Annotate down to the leaves."""
        adata = query.anndata()
        return self.prediction(self.model.annotate(adata, threshold=None, **self.variant.annotate))

    def prediction(self, result: hdi.Annotation) -> Prediction:
        """Leaves and their probabilities, as classes of the benchmark."""
        taxonomy = self.model.taxonomy
        classes = [self._class_of(taxonomy.names[leaf]) for leaf in taxonomy.leaves]
        probabilities = np.zeros((len(result), len(self.tree.classes)))
        probabilities[:, classes] = result.node_probabilities[:, taxonomy.leaves]
        code_of_leaf = np.full(taxonomy.n_nodes, -1)
        code_of_leaf[taxonomy.leaves] = classes
        return Prediction(codes=code_of_leaf[result.leaf_nodes], probabilities=probabilities)

    def _labelled(self, reference: Reference) -> tuple[ad.AnnData, list[str]]:
        adata = reference.anndata()
        if self.variant.flat:
            adata.obs[FLAT] = [f"class_{code}" for code in reference.codes]
            return adata, [FLAT]
        for level in self.tree.levels:
            adata.obs[level] = reference.labels[level].to_numpy()
        return adata, list(self.tree.levels)

    def _class_of(self, path: tuple[str, ...]) -> int:
        if self.variant.flat:
            return int(path[0].removeprefix("class_"))
        return self.tree.classes.index(tuple(path))


class SCLabelNet(SCHDeepInsight):
    """The transformer on gene tokens, trained on the reference alone or pretrained on it first.

    Parameters
    ----------
    pretrain
        Epochs of pretraining on the training cells of the reference, without their labels.
    model, train
        Overrides for ``SCLabelNet(...)`` and its ``train``.
    """

    def __init__(
        self, *, pretrain: int = 0, model: dict | None = None, train: dict | None = None, **options
    ):
        super().__init__(variant="schdeepinsight", **options)
        self.pretrain, self.options, self.training = pretrain, model or {}, train or {}
        self.kept = None

    def _trained(self, reference: Reference) -> hdi.SCLabelNet:
        adata, levels = self._labelled(reference)
        hdi.SCLabelNet.setup_anndata(
            adata, labels_keys=levels, batch_key=batch_key_of(reference), unlabeled_category=""
        )
        model = hdi.SCLabelNet(adata, seed=self.seed, **self.options)
        options = {"accelerator": self.accelerator, "enable_progress_bar": False}
        if self.pretrain:
            model.pretrain(max_epochs=self.pretrain, **options)
        model.train(**options, **self.training)
        return model


class Adapted(SCHDeepInsight):
    """The default model, adapted to the query and refined on its graph where that helps."""

    def __init__(self, **options):
        super().__init__(variant="schdeepinsight", **options)

    def annotate(self, query: Cells) -> Prediction:
        """Annotate by the one call that does it all."""
        result = hdi.annotate(
            query.anndata(), self.model, batch_key=batch_key_of(query), threshold=None
        )
        return self.prediction(result)


class Profiles(SCHDeepInsight):
    """The profiles of the types that the network is combined with, without the network."""

    def __init__(self, **options):
        super().__init__(variant="schdeepinsight", **options)

    def annotate(self, query: Cells) -> Prediction:
        """Annotate by the discriminant and the rank correlations."""
        adata, tree = query.anndata(), self.model.taxonomy
        found = profiles_alone(self.model, adata)
        return self.prediction(
            hdi.Annotation(taxonomy=tree, obs_names=adata.obs_names, node_probabilities=found)
        )


def profiles_alone(model: hdi.SCHDeepInsight | hdi.SCLabelNet, query: ad.AnnData) -> np.ndarray:
    """Return node probabilities by discriminant and ranks, where a network is undecided."""
    opened, tree = model.open(query), model.taxonomy
    measured = torch.tensor(opened.measured).float()
    ensemble = ProfileEnsemble(model.profiles_, measured, model.module.normalizer)
    equal = torch.full((opened.n_obs, tree.n_leaves), 1 / tree.n_leaves)
    leaves = ensemble.reading(torch.from_numpy(opened.read().toarray()))(equal)
    return leaves.numpy() @ tree.ancestor_matrix


def batch_key_of(query: Cells) -> str | None:
    """Column of batches, where there is more than one."""
    return "batch" if len(np.unique(query.batch)) > 1 else None
