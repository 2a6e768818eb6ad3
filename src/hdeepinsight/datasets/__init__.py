"""Public references: cells of the CELLxGENE Census, and bundled blood cells."""

from hdeepinsight.datasets._blood import DemoData as DemoData
from hdeepinsight.datasets._blood import demo as demo
from hdeepinsight.datasets._blood import pbmc3k as pbmc3k
from hdeepinsight.datasets._census import census as census
from hdeepinsight.datasets._census import label_terms as label_terms
