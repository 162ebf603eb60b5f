"""What is measured: configs, by the codec and the symbols on which their results depend."""

import dataclasses
import hashlib

from ..codecs import build_feature_codec
from ..modeling import find_feature_split
from .keys import digest

__all__ = ["Setting", "build_codec"]


def build_codec(cfg):
    """Returns the FeatureCodec of a config, or None for a network that is not split."""
    if not cfg.MODEL.FEATCOMP.ENABLED:
        return None
    return build_feature_codec(cfg, find_feature_split(cfg.MODEL.FEATCOMP.SPLIT))


@dataclasses.dataclass
class Setting:
    """A config to measure: one row of a table."""

    name: str
    cfg: object
    key: str
    codec_key: str  # all that the weights of its codec depend on
    codec: object  # FeatureCodec; None for a network that is not split
    step_sizes: list  # all of the codec's settings but those of what codes the symbols
    answers: float | None  # least score of the detections that are sent; None sends none
    records: object = None
    symbols: dict = dataclasses.field(default_factory=dict)  # position -> hash of the symbols
    owed: set = dataclasses.field(default_factory=set)  # positions whose outputs no result holds

    @classmethod
    def of(cls, name, cfg, network_key):
        codec = build_codec(cfg)
        described = {} if codec is None else dict(cfg.MODEL.FEATCOMP.CODEC)
        answers = None
        if codec is None and cfg.MODEL.FEATCOMP.ANSWERS.ENABLED:
            answers = described["answers"] = float(cfg.MODEL.FEATCOMP.ANSWERS.SCORE)
        coder = ("NAME", "QUALITY", "EFFORT", "LEARNED")
        rest = {k: v for k, v in described.items() if k not in coder}
        key = digest([network_key, described, codec is None])
        chosen = ("RATE", "TARGET_KB")  # for each image
        codec_key = digest({k: v for k, v in described.items() if k not in chosen})
        return cls(name, cfg, key, codec_key, codec, sorted(rest.items()), answers)

    @property
    def sends(self):
        """bool: whether there are bytes to count; a network that is not split sends nothing."""
        return self.codec is not None or self.answers is not None

    @property
    def has_weights(self):
        """bool: whether the codec is trained: then it is the network's own."""
        return self.codec is not None and self.codec.has_weights

    def hash_symbols(self, tensors):
        """Settings of one network and image that agree in this give the same outputs."""
        found = hashlib.sha256(repr(self.step_sizes).encode())
        for tensor in tensors:
            found.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode())
            found.update(tensor.cpu().contiguous().numpy().data)
        return found.hexdigest()[:16]
