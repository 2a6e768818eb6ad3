"""A saved classifier for annotating alone, without scvi-tools, which takes seconds to import."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import torch

from hdeepinsight._archive import damaged_if_unfit
from hdeepinsight._keys import SAVE_KEYS
from hdeepinsight._model_folder import ModelFolder
from hdeepinsight.data import open_query
from hdeepinsight.models._base import _schema as schema
from hdeepinsight.models._base._annotating import AnnotatingMixin
from hdeepinsight.models._base._setup import Setup, resolve_cells
from hdeepinsight.nn import GeneImageClassifier, seeded

if TYPE_CHECKING:
    from hdeepinsight.data import AlignedQuery

#: Networks that need no scvi-tools, by the class of their models.
NETWORKS: Final = {"SCHDeepInsight": GeneImageClassifier}


class Annotator(AnnotatingMixin):
    """A trained classifier without its reference, for whatever needs no scvi-tools.

    It annotates, is evaluated on given cells and adapts to a query exactly as the model does that
    :func:`load_model` returns, which also trains, explains and saves.

    Parameters
    ----------
    attributes
        What the file of the model says, in the present schema.
    network
        Its network.

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
    missing_capabilities: tuple[str, ...] = ()

    def __init__(self, attributes: Mapping[str, Any], network: GeneImageClassifier) -> None:
        self.module, self.taxonomy = network, network.tree.taxonomy
        self.registry_ = attributes["registry_"]
        self.seed = attributes["init_params_"]["non_kwargs"]["seed"]
        schema.restore_parts(self, attributes)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self | None:
        """Read a model; ``None`` if it is of a class that needs scvi-tools, or is not trained.

        Raises
        ------
        ModelFileError
            If the folder holds no model, or a damaged or foreign one.
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
            with seeded(options["seed"]):  # the weights that are replaced are drawn
                found = cls(attributes, network.from_options(options))
            found.module.load_state_dict(payload[SAVE_KEYS.WEIGHTS])
        found.missing_capabilities = schema.missing_capabilities(given, cls._parts)
        found.module.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        return found

    @classmethod
    def of(cls, model: AnnotatingMixin) -> Self:
        """Return what annotates as a trained model does, without its reference or a query."""
        found = cls.__new__(cls)
        own = ("module", "taxonomy", "registry_", "seed", "recipe_")
        for name in (*own, *cls._figures, *cls._parts):
            setattr(found, name, getattr(model, name))
        return found

    @property
    def genes(self) -> tuple[str, ...]:
        """Genes that the model reads, in order."""
        genes: tuple[str, ...] = self.module.genes
        return genes

    @property
    def _setup(self) -> Setup:
        return Setup.of(self.registry_)

    @property
    def recipe(self) -> dict[str, Any]:
        """Data summary, settings and versions of the training."""
        return dict(self.recipe_)

    def open(self, query: Any = None, *, indices: Any = None, **how: Any) -> AlignedQuery:
        """Open, check and align a query; see :meth:`CountModel.open`."""
        how |= {"preferred_layer": self._setup.layer, "modalities": self._setup.modalities}
        opened = open_query(self._resolve_adata(query), self.genes, **how, **self._opening())
        return opened if indices is None else opened.subset(indices)

    def train(self, *_: Any, plan_kwargs: Any = None, **options: Any) -> None:
        """Fit the adapter of a model of a query; see :meth:`CountModel.train`."""
        self._fit_adapter(dict(plan_kwargs or {}), options)

    @classmethod
    def _model_of(cls, given: Any) -> Any:
        return given

    def _resolve_adata(self, data: Any) -> Any:
        return resolve_cells(data, None)

    def _held_out(self) -> Any:
        return resolve_cells(None, None)

    def _check_if_trained(self, **_: Any) -> None:
        """Do nothing: only trained models are read."""
