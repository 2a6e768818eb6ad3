"""A transformer on gene tokens, pretrained without labels."""

from hdeepinsight.models.sclabelnet._model import SCLabelNet
from hdeepinsight.models.sclabelnet._plan import choose_tokens, log_prior_ratio, sampling_weights

__all__ = ["SCLabelNet", "choose_tokens", "log_prior_ratio", "sampling_weights"]
