"""SCAGC, clustering of cells on a learned graph."""

from hdeepinsight.models.scagc._model import SCAGC as SCAGC
