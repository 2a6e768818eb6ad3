"""DPDCAN, an autoencoder with optional differential privacy."""

from hdeepinsight.models.dpdcan._model import DPDCAN as DPDCAN
from hdeepinsight.models.dpdcan._privacy import PrivacyReport as PrivacyReport
