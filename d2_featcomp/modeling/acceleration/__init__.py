"""Speed alone: other ways to compute the same, on copies of a network, never on the network."""

from .acceleration import INFERENCE, Acceleration, require_inference
from .onnx_acceleration import OnnxAcceleration
from .quick_encoders import find_quick_encoder
