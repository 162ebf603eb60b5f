from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit, build_feature_split
from .msfc import MSFC, MSFF, MSFR, SqueezeExcitation, SSFCDecoder, SSFCEncoder, SubpixelConv2d
from .pyramid import Pyramid
