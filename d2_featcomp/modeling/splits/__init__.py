from .baf import BaF, BaFPredictor
from .base import FEATURE_SPLIT_REGISTRY, FeatureSplit, build_feature_split, find_feature_split
from .channel_order import format_channel_order, read_channel_order
from .image import Image
from .layer import Layer
from .msfc import MSFC, MSFF, MSFR, SqueezeExcitation, SSFCDecoder, SSFCEncoder, SubpixelConv2d
from .pyramid import Pyramid
from .q_layer import ChannelGains, QLayer
