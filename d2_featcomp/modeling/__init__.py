"""Registered feature splits and meta-architectures."""

from ..codecs import build_feature_codec
from .lazy import LazyNetwork
from .multi_task import (
    TASK_HEAD_REGISTRY,
    CompressibleMultiTask,
    DisparityHead,
    ReconstructionHead,
    SegmentationHead,
    TaskHead,
    UncertaintyWeighting,
    UpsamplingDecoder,
)
from .split_backbone import SplitBackbone
from .split_inference import EdgeFeatures, SplitInference
from .split_network import SplitNetwork, split_network
from .split_point import InsideLayer, SplitPoint, build_split_point, list_split_points
from .splits import (
    FEATURE_SPLIT_REGISTRY,
    MSFC,
    MSFF,
    MSFR,
    BaF,
    BaFPredictor,
    FeatureSplit,
    Image,
    Layer,
    Pyramid,
    QLayer,
    SSFCDecoder,
    SSFCEncoder,
    build_feature_split,
    find_feature_split,
    format_channel_order,
    read_channel_order,
)
from .yolo import YOLOV3, DarknetWeightsError, load_darknet_weights
