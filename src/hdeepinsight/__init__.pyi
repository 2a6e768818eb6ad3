# Read by lazy_loader, which loads each of these on first use, and by type checkers.
from . import (
    adaptation as adaptation,
    annotation as annotation,
    data as data,
    datasets as datasets,
    explanation as explanation,
    graph as graph,
    hub as hub,
    image as image,
    metrics as metrics,
    models as models,
    nn as nn,
    pl as pl,
    pp as pp,
    report as report,
    taxonomy as taxonomy,
    tl as tl,
)
from ._workflow import annotate as annotate
from .annotation import Annotation as Annotation
from .explanation import Explanation as Explanation
from .image import GeneLayout as GeneLayout
from .models import DPDCAN as DPDCAN, SCE2TM as SCE2TM, SCHDeepInsight as SCHDeepInsight
from .nn import (
    CountThinning as CountThinning,
    GeneMasking as GeneMasking,
    ModalityDropout as ModalityDropout,
)
from .taxonomy import Taxonomy as Taxonomy

__version__: str
