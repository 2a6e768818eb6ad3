"""SCLabelNet, a transformer on gene tokens with pretraining on unlabelled cells."""

from hdeepinsight.models.sclabelnet._model import SCLabelNet as SCLabelNet
