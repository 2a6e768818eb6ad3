"""DPDCAN, an autoencoder with optional differential privacy."""

from hdeepinsight.models.dpdcan._model import DPDCAN
from hdeepinsight.models.dpdcan._privacy import PrivacyReport

__all__ = ["DPDCAN", "PrivacyReport"]
