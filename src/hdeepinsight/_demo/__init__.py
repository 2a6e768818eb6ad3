"""What ``hdeepinsight demo`` runs: the whole way on real data, offline."""

from hdeepinsight._demo._run import run_demo

__all__ = ["run_demo"]
