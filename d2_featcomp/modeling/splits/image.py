"""The cloud-only anchor: the image itself is coded, and the whole network runs in the cloud."""

from detectron2.config import configurable

from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit

__all__ = ["ImageSplit"]


@FEATURE_SPLIT_REGISTRY.register()
class ImageSplit(FeatureSplit):
    """Codes the image itself, resized as the network wants it, not padded; 8 bits a sample.

    With `CODEC.NAME` jpeg420 or hevc420 that is done in colour; other codecs code its three channels
    side by side. Nothing in it is trained.

    Args:
        bgr (bool): whether the network takes its channels as blue, green, red.
    """

    defaults = {"split_point": "image"}
    codec_defaults = {"quantizer": "fixed", "value_range": (0.0, 255.0), "colour": True}

    @configurable
    def __init__(self, *, bgr):
        super().__init__()
        self.bgr = bgr

    @classmethod
    def from_config(cls, cfg, backbone):
        if cfg.MODEL.FEATCOMP.CODEC.BITS != 8:
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.BITS is {cfg.MODEL.FEATCOMP.CODEC.BITS}: ImageSplit codes "
                "images of 8 bits"
            )
        if len(cfg.MODEL.PIXEL_MEAN) != 3:
            raise ValueError(
                f"MODEL.PIXEL_MEAN has {len(cfg.MODEL.PIXEL_MEAN)} channels: ImageSplit codes images of "
                "three"
            )
        return {"bgr": cfg.INPUT.FORMAT == "BGR"}

    def reduce(self, features):
        """{"image": (N, 3, H, W) float, 0 to 255} -> [the same, red first]."""
        return [self._swapped(features["image"])]

    def restore(self, y_hats, image_size, step_sizes=None):
        return {"image": self._swapped(y_hats[0])}

    def _swapped(self, image):
        return image.flip(1) if self.bgr else image

    def reduced_shapes(self, image_size):
        return [(3, *image_size)]
