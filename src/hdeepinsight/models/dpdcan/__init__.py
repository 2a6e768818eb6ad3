"""An autoencoder that can be trained under differential privacy."""

from hdeepinsight.models.dpdcan._model import DPDCAN
from hdeepinsight.models.dpdcan._privacy import PrivacyReport

__all__ = ["DPDCAN", "PrivacyReport"]
