"""Base classes of hierarchical classifiers that are trained on labelled cells."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model._utils import parse_device_args
from scvi.module.base import BaseModuleClass, LossOutput
from torch import Tensor

from hdeepinsight import nn
from hdeepinsight._errors import counted, examples, invalid
from hdeepinsight.adaptation import QueryCells, reference_sums
from hdeepinsight.annotation import Annotation, ReferenceBank, calibrate, check_level_names
from hdeepinsight.data import align_genes, deal_out, draw_evenly, draw_some, is_paired
from hdeepinsight.models._base import _training as training
from hdeepinsight.models._base._annotating import AnnotatingMixin
from hdeepinsight.models._base._plan import HierarchicalPlan
from hdeepinsight.models._base._reader import CellReader, as_cells
from hdeepinsight.models._base._registration import LABELS, PANEL, check_batch
from hdeepinsight.models._base._setup import PANEL_KEY
from hdeepinsight.taxonomy import Taxonomy, TreeAlgebra

SOURCE = "held-out reference cells"
CROSS_FITTED = "reference cells, each predicted by a member that was not trained on it"
REFERENCE_CELLS = 20_000
CONFORMAL_CELLS = 20_000
#: Held-out cells stored with the model, for comparison at the genes and depth of a query.
BANK_CELLS = 400
TEMPERATURE_DEPTHS = (1.0, 0.5, 0.25)


class TreeModule(nn.TreeClassifier, BaseModuleClass):  # type: ignore[misc]
    """Module that augments mini-batches and computes the loss of a hierarchical classifier."""

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Any]:
        counts = tensors[REGISTRY_KEYS.X_KEY]
        return {
            "counts": counts,
            "measured": tensors.get("measured", counts.new_ones(counts.shape[1])),
            "nodes": tensors.get(REGISTRY_KEYS.LABELS_KEY),
        }

    def augment(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Thin counts and mask genes, to simulate queries of lower depth and with fewer genes.

        Parameters
        ----------
        tensors
            Mini-batch with raw counts, shape ``(n_cells, n_genes)``; ``measured`` (optional, same
            shape) is 1 for genes that may stay visible.

        Returns
        -------
        The mini-batch with thinned counts, and ``measured`` with the genes that stay visible.
        """
        counts = self.thinning.sample_dense(tensors[REGISTRY_KEYS.X_KEY])
        measured = self.masking.sample(counts.shape[0], counts.shape[1], counts.device)
        measured = measured * tensors.get("measured", 1)
        return {**tensors, REGISTRY_KEYS.X_KEY: counts, "measured": measured}

    def _get_generative_input(self, tensors: Any, inference_outputs: Any) -> dict[str, Any]:
        return {"logits": inference_outputs["logits"]}

    def loss(self, tensors: Any, inference_outputs: Any, generative_outputs: Any) -> LossOutput:
        """Compute the hierarchical loss of a mini-batch."""
        nodes = tensors[REGISTRY_KEYS.LABELS_KEY]
        loss = self.objective(generative_outputs["conditional"], nodes)
        return LossOutput(loss=loss, n_obs_minibatch=len(nodes))

    def sample(self, *args: Any, **kwargs: Any) -> None:
        """Raise an error: a classifier is not generative."""
        raise NotImplementedError(f"{type(self).__name__} is a classifier and cannot sample.")


class HierarchicalClassifierMixin(AnnotatingMixin):
    """Mixin of hierarchical classifiers: training, annotation, calibration and adaptation.

    It requires a ``taxonomy`` and a ``module`` with ``tree``, ``temperature``, ``objective``,
    ``augment`` and ``predict``, and is combined with :class:`CountModel`.

    Examples
    --------
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import HierarchicalClassifierMixin
    >>> model = hdi.hub.pull("pbmc")
    >>> isinstance(model, HierarchicalClassifierMixin), model.calibration.source
    (True, 'held-out reference cells')
    """

    _training_plan_cls: ClassVar[type] = HierarchicalPlan
    _labels_required: ClassVar[bool] = True
    _train_options: ClassVar[tuple[str, ...]] = ("audit",)
    _monitor: ClassVar[str] = "log_loss"

    def _taxonomy_of(self, given: Taxonomy | dict[str, Any] | None) -> Taxonomy | None:
        """Return the given taxonomy, or else that of the label columns, if there are any."""
        if given is None and (keys := self._setup.labels_keys):
            obs = self.adata_manager.adata.obs if self.adata_manager else self._label_table()
            given = Taxonomy.from_obs(obs, keys, unlabeled=self._setup.unlabeled)
        found = Taxonomy.from_dict(given) if isinstance(given, dict) else given
        if found is not None:
            if not isinstance(found, Taxonomy):
                hint = "Read it with Taxonomy.from_json, or build one with Taxonomy.from_nested."
                raise invalid("taxonomy", found, "a Taxonomy", hint)
            check_level_names(found)
        return found

    def _fit_profiles(
        self,
        counts: sparse.csr_matrix,
        nodes: np.ndarray,
        batches: np.ndarray,
        panels: nn.GenePanels | None,
    ) -> None:
        """Compute the mean profiles of the reference, and the usual shift between its batches."""
        sums = reference_sums(self.module, counts, nodes, batches, panels)
        self.profiles_, self.shift_ = nn.LeafSums.sum(sums).profiles(), nn.usual_shift(sums)

    def _check_reference(self) -> None:
        super()._check_reference()
        nodes = self._nodes()
        # A training that failed may have left labels of an audit.
        self.adata_manager.adata.obs[LABELS] = nodes

    def _check_training_labels(self, nodes: np.ndarray) -> None:
        """Raise ``ValueError`` if no training cell has a label, and warn of types without any."""
        labelled = np.setdiff1d(nodes, 0)
        if not len(labelled):
            msg = "At least one training cell must have a label, got none. Set up the reference"
            raise ValueError(f"{msg} with a column that contains labels, or train on other cells.")
        if len(labelled) == 1:
            label = self.taxonomy.label(int(labelled[0]))
            msg = f"All labels of the training cells are {label!r}, so"
            hint = "that the model cannot learn to distinguish types. Add cells of other types."
            warnings.warn(f"{msg} {hint}", UserWarning, stacklevel=5)
        is_seen = self.taxonomy.ancestor_matrix[:, labelled].any(axis=1)
        unseen = self.taxonomy.leaves[~is_seen]
        if len(unseen):
            names = examples(self.taxonomy.path_name(int(node)) for node in unseen)
            n_types = counted(len(unseen), "type")
            msg = f"{n_types} of the taxonomy without a labelled training cell: {names}."
            hint = "They cannot be learnt. Omit them from the taxonomy, or add cells."
            warnings.warn(f"{msg} {hint}", UserWarning, stacklevel=5)

    def _train_adapter(
        self, given: dict[str, Any], plan: dict[str, Any], options: dict[str, Any]
    ) -> None:
        """Fit the adapter of a query model, given the arguments of :meth:`train`."""
        names = *training.LOADING, "max_epochs", "early_stopping", "datamodule", "checkpoint"
        training.refuse_without_effect(given, names, "when an adapter is fitted")
        device = accelerator, devices = given["accelerator"], given["devices"]
        if training.is_distributed({}, devices):
            hint = "An adapter is fitted in one process. Omit it to use the model's device."
            raise invalid("devices", devices, "a single device", hint)
        training.check_accelerator(accelerator)
        if device != ("auto", "auto"):
            self.to_device(parse_device_args(*device, "torch")[-1])
        self._fit_adapter(plan, options)

    def _prepare(
        self,
        split: list[np.ndarray] | None,
        datamodule: Any,
        audit: Any = False,
        *,
        held_out_share: float = 0.0,
        **options: Any,
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if split is None:
            training.refuse_unused({"audit": audit is not False}, "with a datamodule")
            codes = self._nodes(self._label_table())
            if self.module is None:
                datamodule.setup("fit")
                self._build_from(*self._read_loader(datamodule, "train", codes))
            columns = align_genes(self._loader_genes, self.genes).source
            return (self.taxonomy, codes, columns), {}
        nodes = given = self._nodes()
        self._check_training_labels(nodes[split[0]])
        settings: dict[str, Any] = {}
        if audit is not False:
            nodes = self._audited_nodes(given, split[0], audit)
            settings["n_lifted_labels"] = int((nodes != given).sum())
        codes, unseen_by = np.arange(self.taxonomy.n_nodes), None
        if not given[split[1]].any() and (held_out_share or len(split[1])):
            found = "No cells are held out, because every type has too few cells"
            found = "None of the held-out cells has a label" if len(split[1]) else found
            label_sets = "it is not calibrated and has no label sets (n_members='auto' adds them)"
            if (n_members := getattr(self.module, "n_members", 1)) > 1:
                label_sets = "its label sets come from cells withheld from single members"
                rng = np.random.default_rng(self.seed)
                trained = np.where(np.isin(np.arange(len(given)), split[0]), given, 0)
                withheld_from = deal_out(trained, n_members, held_out_share, rng)
                # A code encodes the node and the member from which the label is withheld.
                nodes = nodes + len(codes) * (withheld_from + 1)
                members = np.arange(-1, n_members)
                unseen_by, codes = np.repeat(members, len(codes)), np.tile(codes, len(members))
                settings["cross_fitted"] = True
            warnings.warn(
                f"{found}. The model has no novelty detection and cannot be evaluated on its "
                f"reference; {label_sets}. Label more cells, raise validation_size, or pass "
                "validation_size=0 to hide this.",
                UserWarning,
                stacklevel=4,  # the caller of train
            )
        self.adata_manager.adata.obs[LABELS] = nodes
        panels = None if self._panels is None else self._panels.measured
        return (self.taxonomy, codes, None, unseen_by, panels), settings

    def _finish(self, plan: Any, datamodule: Any) -> None:
        if datamodule is None:
            obs = self.adata_manager.adata.obs
            unseen_by = obs[LABELS].to_numpy() // self.taxonomy.n_nodes - 1
            obs[LABELS] = self._nodes()  # original labels, without the changes of an audit
            nodes, parts = obs[LABELS].to_numpy(), (self.validation_indices_, self.train_indices_)
            rows = [part[draw_some(nodes[part], self.seed)] for part in parts]
            held_out, train = map(self._reference_cells, rows)
            if (unseen_by >= 0).any():
                extra = {**train.extra, "member": unseen_by[rows[1]]}
                train = replace(train, extra=extra)
                held_out = train[extra["member"] >= 0]
        else:
            codes, columns = plan.node_of_code.cpu().numpy(), plan.columns.cpu().numpy()
            found = [self._read_loader(datamodule, part, codes) for part in ("val", "train")]
            held_out, train = (as_cells(counts[:, columns], nodes) for counts, nodes in found)
        self._fit_confidence(held_out, train)

    def _read_loader(
        self, datamodule: Any, part: str, codes: np.ndarray
    ) -> tuple[sparse.csr_matrix, np.ndarray]:
        """Read at most 20,000 cells of a datamodule: raw counts of its genes, and nodes."""
        n_genes = len(self._loader_genes)
        counts = [sparse.csr_matrix((0, n_genes), dtype=np.float32)]
        nodes, n_cells = [np.zeros(0, dtype=int)], 0
        has_cells = part == "train" or self.recipe_["n_held_out"]
        for batch in (getattr(datamodule, f"{part}_dataloader")() if has_cells else None) or ():
            if not isinstance(batch.get(REGISTRY_KEYS.X_KEY), torch.Tensor) or "obs" in batch:
                batch = datamodule.on_before_batch_transfer(batch, 0)
            check_batch(batch, n_genes, len(codes))
            counts.append(sparse.csr_matrix(batch[REGISTRY_KEYS.X_KEY].cpu().numpy()))
            nodes.append(codes[batch[REGISTRY_KEYS.LABELS_KEY].cpu().numpy().ravel().astype(int)])
            n_cells += len(nodes[-1])
            if n_cells >= REFERENCE_CELLS:
                break
        labelled = np.concatenate(nodes)
        if part == "train" and not labelled.any() and n_cells < REFERENCE_CELLS:  # all were read
            found = "cells with a label" if n_cells else "cells"
            raise ValueError(f"The datamodule loads no {found} for training. Check its data.")
        return sparse.vstack(counts, format="csr"), labelled

    def _audited_nodes(self, nodes: np.ndarray, train: np.ndarray, audit: Any) -> np.ndarray:
        """Replace suspicious labels of training cells by the ancestor that the audit supports."""
        from hdeepinsight.tl import LabelAudit, audit_labels

        reference = self._resolve_adata(None)
        if audit is True:
            audit = audit_labels(
                self._setup.modalities.rna_of(reference) if is_paired(reference) else reference,
                taxonomy=self.taxonomy,
                nodes=nodes,
                layer=self._setup.layer,
                batch_key=self._groups(self._setup.batch_key),
                seed=self.seed,
            )
        if not isinstance(audit, LabelAudit):
            raise invalid("audit", audit, "True, False, or a result of hdi.tl.audit_labels")
        audit.check_cells(reference)
        audit.check_taxonomy(self.taxonomy)
        return np.where(
            np.isin(np.arange(len(nodes)), train) & audit.suspicious, audit.agreed_nodes, nodes
        )

    def _label_table(self) -> pd.DataFrame:
        """Return the label columns of a registry, with one row per label code."""
        labels = self.registry_["field_registries"]["labels"]["state_registry"]
        names = labels["categorical_mapping"]
        return pd.DataFrame(dict.fromkeys(self._setup.labels_keys, names))

    def _manager_of(self, data: Any) -> AnnDataManager:
        manager = super()._manager_of(data)
        obs = manager.adata.obs
        keys = [key for key in self._setup.labels_keys if key in obs]
        obs[LABELS] = self._nodes(obs, keys, ignore_unknown=True)
        return manager

    def _reference_cells(self, rows: np.ndarray) -> QueryCells:
        """Return cells of the reference with the arrays that its loaders provide."""
        shell = self.adata_manager.adata
        extra = {name: np.asarray(shell.obsm[name])[rows] for name in shell.obsm}
        extra |= {PANEL_KEY: shell.obs[PANEL].to_numpy()[rows]} if PANEL in shell.obs else {}
        return as_cells(sparse.csr_matrix(shell.X[rows]), shell.obs[LABELS].to_numpy()[rows], extra)

    @torch.inference_mode()
    def _fit_confidence(self, held_out: QueryCells, train: QueryCells) -> None:
        """Fit temperatures and conformal scores, and store some held-out cells.

        Temperatures are fitted on held-out cells at full and reduced depth. At full depth alone the
        model would be overconfident on other studies, because held-out cells resemble the training
        cells more than a query does. Cells withheld from a single member are predicted by that
        member and used for conformal scores only: a single member is more confident than the
        ensemble, and the other members were trained on these cells.
        """
        self.calibration_ = self.bank_ = None
        self.module.temperature.fill_(1.0)
        if not getattr(self, "proteins", ()):
            # Profiles of the training cells alone, so that held-out cells are independent of them.
            with torch.inference_mode(False):  # inference tensors cannot be saved with the model
                self.profiles_ = self._profiles_of(train)
        if not len(held_out):
            return
        measured = self._panel_table
        cross_fitted = "member" in held_out.extra
        if not cross_fitted:
            depths = (
                held_out.thinned(d, np.random.default_rng(self.seed)) for d in TEMPERATURE_DEPTHS
            )
            read = CellReader(self.module, self.adapter_, measured)
            parts = [torch.from_numpy(read(cells, ("logits",))["logits"]) for cells in depths]
            nodes = torch.from_numpy(np.tile(held_out.nodes, len(TEMPERATURE_DEPTHS)))
            tree = TreeAlgebra(self.taxonomy)  # on the CPU
            self.module.temperature.copy_(nn.fit_temperatures(tree, torch.cat(parts), nodes))
        rng = np.random.default_rng(self.seed)
        # Drawn regardless of type: conformal coverage holds for the same mixture of types.
        drawn = held_out[rng.permutation(len(held_out))[:CONFORMAL_CELLS]]
        probabilities = np.empty((len(drawn), self.taxonomy.n_nodes), dtype=np.float32)
        unseen_by = drawn.extra.get("member", np.zeros(len(drawn)))
        for member in np.unique(unseen_by):
            part, profiles = drawn[unseen_by == member], self.combined_profiles
            if cross_fitted and profiles is not None:  # exclude these cells from the profiles
                others = train[train.extra["member"] != member]
                profiles = self._profiles_of(others)
            read = CellReader(self.module, self.adapter_, measured, profiles)
            found = read(part, ("probabilities",))["probabilities"]
            probabilities[unseen_by == member] = found
        if (drawn.nodes > 0).any():
            names = pd.RangeIndex(len(drawn))
            annotation = Annotation(
                taxonomy=self.taxonomy, obs_names=names, node_probabilities=probabilities
            )
            source = CROSS_FITTED if cross_fitted else SOURCE
            self.calibration_ = calibrate(annotation, drawn.nodes, source=source)
        if cross_fitted:
            return
        train = train[draw_evenly(train.nodes, REFERENCE_CELLS, rng)]
        rows = draw_evenly(held_out.nodes, BANK_CELLS, rng)
        rows = rows[held_out.nodes[rows] > 0]
        if len(rows) and np.isin(train.nodes, self.taxonomy.leaves).any():
            labelled = (train.counts, train.nodes), (held_out.counts, held_out.nodes)
            panels = self._panels_of(train), self._panels_of(held_out)
            how: Any = {"panels": panels, "seed": self.seed}
            self.bank_ = ReferenceBank.draw(self.taxonomy, *labelled, np.sort(rows), **how)

    @property
    def _panels(self) -> nn.GenePanels | None:
        """Gene panels of the registered reference; ``None`` if all genes were measured."""
        if self._setup.panel_key is None:
            return None
        return nn.GenePanels(self.adata_manager.adata.obs[PANEL].to_numpy(), self._panel_table)

    def _panels_of(self, cells: QueryCells) -> nn.GenePanels:
        """Return the gene panels of some cells of the reference."""
        codes = cells.extra.get(PANEL_KEY, np.zeros(len(cells), dtype=np.int64))
        return nn.GenePanels(codes, self._panel_table)

    def _profiles_of(self, cells: QueryCells) -> nn.LeafProfiles:
        """Compute the profiles of some cells, with the covariance within their leaves."""
        module, panels = self.module, self._panels_of(cells)
        (sums,) = reference_sums(module, cells.counts, cells.nodes, panels=panels)
        leaves = pd.Index(self.taxonomy.leaves).get_indexer(cells.nodes)
        rows = np.flatnonzero(leaves >= 0)
        rng = np.random.default_rng(self.seed)
        rows = rows[draw_evenly(leaves[rows], nn.COVARIANCE_CELLS, rng)]
        drawn = torch.from_numpy(cells.counts[rows].toarray()).to(module.temperature.device)
        measured = torch.from_numpy(panels[rows].of_cells).to(drawn)
        values = module.normalizer.log_normalize(drawn, measured).cpu()
        leaf = torch.from_numpy(leaves[rows])
        return sums.profiles().with_covariance(values, leaf, measured.cpu())
