"""DPDCAN, an autoencoder with optional differential privacy."""

from hdeepinsight.models.dpdcan._model import DPDCAN as DPDCAN
from hdeepinsight.models.dpdcan._module import PrivacyReport as PrivacyReport
