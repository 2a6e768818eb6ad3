"""From a reference to a model of a query: profiles that travel along, and the way there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.model.base._constants import SAVE_KEYS

from hdeepinsight.models.schdeepinsight._saving import SavingMixin
from hdeepinsight.models.schdeepinsight._surgery_prepare import pad_query
from hdeepinsight.nn import LeafProfiles, ProfileMatcher

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from hdeepinsight.data import ScaleMode
    from hdeepinsight.models.schdeepinsight._base import Query
    from hdeepinsight.models.schdeepinsight._batches import ReferenceBatches, SparseBatches
    from hdeepinsight.models.schdeepinsight._surgery_model import AdaptedSCHDeepInsight


class SurgeryMixin(SavingMixin):
    """Adapt a trained model to a query, without changing the model."""

    profiles_: LeafProfiles | None = None
    agreement_: float | None = None
    shift_: float | None = None

    @classmethod
    def load_query_data(
        cls,
        query: Query,
        reference_model: SavingMixin | str | Path,
        *,
        reference: AnnData | str | Path | None = None,
        labels_key: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        freeze_backbone: bool = True,
        freeze_head: bool = True,
        layer: str | None = None,
        use_raw: bool = False,
        scale: ScaleMode = "auto",
        fold_case: bool = False,
    ) -> AdaptedSCHDeepInsight:
        """Make a model of a query out of a model of a reference.

        Until it is trained it annotates exactly as the reference model does. The reference model
        stays as it is.

        Parameters
        ----------
        query
            As in :meth:`annotate`: an AnnData, a MuData, or the path of a file. Nothing is
            written to it.
        reference_model
            A trained model, or the folder of a saved one.
        reference
            The labelled cells that the model was trained on, with the label columns that it was
            registered with. Optional: with them the adapters are kept honest by replaying them
            with the genes that the query has.
        labels_key
            Column, or columns from coarse to fine, with the labels of those query cells that have
            one. Labels that the taxonomy does not know are ignored. By default no label is read,
            even where there are some.
        batch_key
            Column of the query with the batch of every cell; each batch is adapted on its own. By
            default all cells are one batch.
        freeze_backbone, freeze_head
            Keep the weights of the reference bit by bit; only adapters are trained.
        layer, use_raw, scale, fold_case
            How the query is read, as in :meth:`annotate`.

        Returns
        -------
        A model of the query: :meth:`~AdaptedSCHDeepInsight.train` it, then ``annotate()``.

        Raises
        ------
        InputError
            If the matrix cannot be read as counts or the genes do not match.
        KeyError
            If a column is not there.
        TypeError
            If ``reference_model`` is no model, or a model of a query itself.
        ValueError
            If the model was saved without profiles of its reference, and none is given.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> query = hdi.datasets.demo().query
        >>> mapped = hdi.SCHDeepInsight.load_query_data(query, hdi.hub.pull("pbmc"))
        >>> mapped.train(max_steps=0)
        >>> len(mapped.annotate()), mapped.adaptation.n_cells
        (210, 210)
        """
        from hdeepinsight.models.schdeepinsight._surgery_model import AdaptedSCHDeepInsight

        return AdaptedSCHDeepInsight.from_reference(
            query,
            cls._trained_model(reference_model),
            reference=reference,
            labels_key=labels_key,
            batch_key=batch_key,
            frozen=(freeze_backbone, freeze_head),
            reading={"layer": layer, "use_raw": use_raw, "scale": scale, "fold_case": fold_case},
        )

    @classmethod
    def prepare_query_anndata(
        cls,
        adata: AnnData,
        reference_model: SavingMixin | str | Path,
        *,
        return_reference_var_names: bool = False,
        inplace: bool = False,
    ) -> AnnData | pd.Index:
        """Copy a query with exactly the genes of a model, in its order.

        :meth:`annotate` and :meth:`load_query_data` need no such step; it is here for tools that
        expect equal genes. Genes that the query lacks are 0 in the copy. ``obs``, ``obsm``,
        ``obsp``, ``uns`` and ``raw`` come along, as do all layers.

        Parameters
        ----------
        adata
            Query; it is never changed.
        reference_model
            A trained model, or the folder of a saved one.
        return_reference_var_names
            Return the names of the model's genes instead, as scvi-tools does.
        inplace
            scvi-tools pads the given object; we do not, and refuse ``True``.

        Returns
        -------
        The copy, or the names.

        Raises
        ------
        GeneMatchError
            If too few genes match.
        ValueError
            If ``inplace`` is asked for.

        Examples
        --------
        >>> import warnings
        >>> import hdeepinsight as hdi
        >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
        >>> model, query = hdi.hub.pull("pbmc"), hdi.datasets.demo().query
        >>> padded = hdi.SCHDeepInsight.prepare_query_anndata(query, model)
        >>> padded.shape == (query.n_obs, len(model.layout.genes))
        True
        """
        if inplace:
            msg = (
                "prepare_query_anndata got inplace=True, which would pad your object with genes "
                "that it does not have. Valid is inplace=False: use the copy that it returns."
            )
            raise ValueError(msg)
        model = cls._trained_model(reference_model)
        if return_reference_var_names:
            return pd.Index(model.layout.genes)
        weights = model.module.normalizer.mean_share.cpu().numpy()
        return pad_query(adata, model.layout.genes, weights)

    @classmethod
    def _trained_model(cls, given: SavingMixin | str | Path) -> SurgeryMixin:
        if isinstance(given, str | Path):
            from hdeepinsight.models.schdeepinsight._model import SCHDeepInsight

            given = SCHDeepInsight.load(given)
        if not isinstance(given, SurgeryMixin):
            msg = (
                f"The reference model is a {type(given).__name__}; valid are a trained "
                "SCHDeepInsight and the folder of a saved one. Pass one of them."
            )
            raise TypeError(msg)
        given._check_if_trained(warn=False)
        return given

    def _fit_confidence(self, batches: ReferenceBatches) -> None:
        """Learn, too, how often network and profiles agree where nothing has to be adapted."""
        super()._fit_confidence(batches)
        self.agreement_ = self._agreement(batches.in_order(batches.val_idx))

    def _agreement(self, batches: SparseBatches) -> float | None:
        if self.profiles_ is None:
            return None
        matcher = ProfileMatcher(self.profiles_, torch.ones(len(self.layout.genes)))
        if not matcher.is_useful:
            return None
        leaves = self.module.tree.leaf_index.cpu()
        agreed = []
        for batch, part in zip(batches, self._predict_batches(batches), strict=True):
            network = part["probabilities"].cpu()[:, leaves].argmax(1)
            agreed.append(matcher(batch[REGISTRY_KEYS.X_KEY]).argmax(1) == network)
        return float(torch.cat(agreed).float().mean())

    def _payload(self) -> dict[str, Any]:
        payload = super()._payload()
        profiles = self.profiles_ and self.profiles_.to_dict()
        payload[SAVE_KEYS.ATTR_DICT_KEY] |= {
            "profiles_": profiles,
            "agreement_": self.agreement_,
            "shift_": self.shift_,
        }
        return payload

    def _restore(self, attributes: dict[str, Any]) -> None:
        super()._restore(attributes)
        profiles = attributes.get("profiles_")
        self.profiles_ = profiles and LeafProfiles(**profiles)
        self.agreement_ = attributes.get("agreement_")
        self.shift_ = attributes.get("shift_")
