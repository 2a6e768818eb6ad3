# Read by lazy_loader, which loads each of these on first use, and by type checkers.
from . import adaptation as adaptation
from . import annotation as annotation
from . import data as data
from . import datasets as datasets
from . import explanation as explanation
from . import graph as graph
from . import hub as hub
from . import image as image
from . import metrics as metrics
from . import models as models
from . import nn as nn
from . import pl as pl
from . import pp as pp
from . import report as report
from . import taxonomy as taxonomy
from . import tl as tl
from ._workflow import annotate as annotate
from .annotation import Annotation as Annotation
from .explanation import Explanation as Explanation
from .image import GeneLayout as GeneLayout
from .models import DPDCAN as DPDCAN
from .models import SCAGC as SCAGC
from .models import SCE2TM as SCE2TM
from .models import SCHDeepInsight as SCHDeepInsight
from .models import SCLabelNet as SCLabelNet
from .nn import CountThinning as CountThinning
from .nn import GeneMasking as GeneMasking
from .nn import ModalityDropout as ModalityDropout
from .taxonomy import Taxonomy as Taxonomy

__version__: str
