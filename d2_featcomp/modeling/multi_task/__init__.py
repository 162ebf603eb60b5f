from .heads import (
    TASK_HEAD_REGISTRY,
    DisparityHead,
    ReconstructionHead,
    SegmentationHead,
    TaskHead,
    UpsamplingDecoder,
)
from .loss_weights import UncertaintyWeighting
from .network import CompressibleMultiTask
