"""Batch correction by anchors."""

from hdeepinsight.pp._stacas._config import StacasConfig
from hdeepinsight.pp._stacas._report import StacasReport
from hdeepinsight.pp._stacas._result import StacasResult
from hdeepinsight.pp._stacas._run import stacas

__all__ = ["StacasConfig", "StacasReport", "StacasResult", "stacas"]
