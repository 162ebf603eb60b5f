"""The entropy model as a network that is trained, which needs PyTorch."""

from .context_model import ContextModel
from .integer_weights import IntegerWeights
