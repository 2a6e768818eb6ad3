"""SCLabelNet, a transformer on gene tokens with pretraining on unlabelled cells."""

from hdeepinsight.models.sclabelnet._model import SCLabelNet
from hdeepinsight.models.sclabelnet._plan import choose_tokens, log_prior_ratio, sampling_weights

__all__ = ["SCLabelNet", "choose_tokens", "log_prior_ratio", "sampling_weights"]
