"""A transformer on gene tokens, pretrained without labels."""

from hdeepinsight.models.sclabelnet._finetune import log_prior_ratio, sampling_weights
from hdeepinsight.models.sclabelnet._model import SCLabelNet
from hdeepinsight.models.sclabelnet._pretrain import choose_tokens

__all__ = ["SCLabelNet", "choose_tokens", "log_prior_ratio", "sampling_weights"]
