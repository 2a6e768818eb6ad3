"""Surface proteins as further channels of the gene image, which live in `hdeepinsight.nn`."""

from hdeepinsight.nn import ProteinChannels, ProteinValues

__all__ = ["ProteinChannels", "ProteinValues"]
