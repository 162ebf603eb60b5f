"""Registered feature splits and meta-architectures."""

from ..codecs import build_feature_codec
from ..deprecation import make_getattr
from .backbones import (
    EfficientNetLite,
    EfficientNetLiteWeightsError,
    StagedBackbone,
    TimmFeatures,
    TimmStages,
    rename_efficientnet_lite_weights,
)
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
    LMSFC,
    MSFC,
    MSFF,
    MSFR,
    RENAMED_SPLITS,
    BaF,
    BaFPredictor,
    FeatureSplit,
    ImageSplit,
    IntermediateLayerSplit,
    PyramidSplit,
    PyramidTransform,
    QLayer,
    SSFCDecoder,
    SSFCEncoder,
    build_feature_split,
    find_feature_split,
    find_split_name,
    find_stored_name,
    format_channel_order,
    read_channel_order,
)
from .yolo import YOLOV3, DarknetWeightsError, load_darknet_weights

__getattr__ = make_getattr(__name__, RENAMED_SPLITS)
