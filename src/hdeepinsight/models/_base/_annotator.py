"""Saved classifiers for annotation only, loaded without importing scvi-tools, which is slow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import torch

from hdeepinsight._archive import damaged_if_unfit
from hdeepinsight._keys import SAVE_KEYS
from hdeepinsight._model_folder import ModelFolder
from hdeepinsight.data import AlignedQuery
from hdeepinsight.models._base import _schema as schema
from hdeepinsight.models._base._annotating import AnnotatingMixin
from hdeepinsight.models._base._setup import Setup, resolve_cells
from hdeepinsight.nn import GeneImageClassifier, seeded

#: Networks that do not need scvi-tools, by model class.
NETWORKS: Final = {"SCHDeepInsight": GeneImageClassifier}


class Annotator(AnnotatingMixin):
    """Trained classifier without a reference, for annotation without scvi-tools.

    It annotates, evaluates given cells and adapts to a query with the same results as the model
    that :func:`load_model` returns. It cannot train, explain or save.

    Parameters
    ----------
    attributes
        Attributes in the model file, in the present schema.
    network
        Network of the model.

    Examples
    --------
    >>> import warnings
    >>> import hdeepinsight as hdi
    >>> from hdeepinsight.models import Annotator
    >>> warnings.simplefilter("ignore", hdi.data.GeneCoverageWarning)
    >>> annotator = Annotator.from_folder(hdi.hub.download("pbmc").folder)
    >>> len(annotator.annotate(hdi.datasets.demo().query))
    210
    """

    adata = None

    def __init__(self, attributes: Mapping[str, Any], network: GeneImageClassifier) -> None:
        self.module, self.taxonomy = network, network.tree.taxonomy
        self.registry_ = attributes["registry_"]
        self.seed = attributes["init_params_"]["non_kwargs"]["seed"]
        schema.restore_objects(self, attributes)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self | None:
        """Read a model; return ``None`` if it is not trained, or its class needs scvi-tools.

        Raises
        ------
        ModelFileError
            If the folder holds no model, a damaged one, or one of another package.
        """
        place = ModelFolder(Path(folder))
        payload = place.read()
        network = NETWORKS.get(schema.class_name(payload, place.path))
        given = payload[SAVE_KEYS.ATTRIBUTES]
        if network is None or not given.get("is_trained_"):
            return None
        schema.check_payload(payload, place.path)
        with damaged_if_unfit(place.path):
            attributes = schema.migrate(given, network.present_options)
            options = attributes["init_params_"]["non_kwargs"]
            with seeded(options["seed"]):  # leaves the global random state unchanged
                found = cls(attributes, network.from_options(options))
            found.module.load_state_dict(payload[SAVE_KEYS.WEIGHTS])
        found.module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return found

    @classmethod
    def of(cls, model: AnnotatingMixin) -> Self:
        """Return an annotator of a trained model, without its registered data."""
        found = cls.__new__(cls)
        own = ("module", "taxonomy", "registry_", "seed", "recipe_")
        for name in (*own, *cls._saved_values, *cls._saved_objects):
            setattr(found, name, getattr(model, name))
        return found

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes of the model, in order."""
        genes: tuple[str, ...] = self.module.genes
        return genes

    @property
    def _setup(self) -> Setup:
        return Setup.of(self.registry_)

    @property
    def recipe(self) -> dict[str, Any]:
        """Data summary, settings and package versions of the training."""
        return dict(self.recipe_)

    def open(self, query: Any = None, *, indices: Any = None, **how: Any) -> AlignedQuery:
        """Open, check and align a query; see :meth:`CountModel.open`."""
        how |= self._opening()
        return self._setup.open(self._resolve_adata(query), self.genes, indices, **how)

    def train(self, *_: Any, plan_kwargs: Any = None, **options: Any) -> None:
        """Fit the adapter of a query model; see :meth:`CountModel.train`."""
        self._fit_adapter(plan_kwargs or {}, options)

    @classmethod
    def _model_of(cls, given: Any) -> Any:
        return given

    def _resolve_adata(self, data: Any) -> Any:
        return resolve_cells(data, None)

    def _held_out(self) -> Any:
        return resolve_cells(None, None)

    def _check_if_trained(self, **_: Any) -> None:
        """Do nothing: :meth:`from_folder` loads only trained models."""
