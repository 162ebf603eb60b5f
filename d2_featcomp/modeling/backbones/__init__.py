"""Backbones beside Detectron2's own, each in Detectron2's BACKBONE_REGISTRY, alone and below an FPN."""

from .efficientnet_lite import EfficientNetLite
from .efficientnet_lite_weights import EfficientNetLiteWeightsError, rename_efficientnet_lite_weights
from .staged import StagedBackbone
from .timm_features import TimmFeatures, TimmStages
