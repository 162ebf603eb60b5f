from ...deprecation import make_getattr
from .baf import BaF, BaFPredictor
from .base import (
    FEATURE_SPLIT_REGISTRY,
    RENAMED_SPLITS,
    FeatureSplit,
    build_feature_split,
    find_feature_split,
    find_split_name,
    find_stored_name,
)
from .channel_order import format_channel_order, read_channel_order
from .image import ImageSplit
from .layer import IntermediateLayerSplit
from .lmsfc import LMSFC, FusionEncoder, PyramidDecoder
from .msfc import MSFC
from .msff import MSFF, SqueezeExcitation
from .msfr import MSFR, SubpixelConv2d
from .pyramid import PyramidSplit
from .pyramid_transform import PyramidTransform
from .q_layer import ChannelGains, QLayer
from .ssfc import SSFCDecoder, SSFCEncoder

__getattr__ = make_getattr(__name__, RENAMED_SPLITS)
