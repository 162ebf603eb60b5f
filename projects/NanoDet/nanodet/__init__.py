"""NanoDet-g as a Detectron2 project: importing it registers its backbone, detector and config keys."""

from .backbone import PAN, CSPNet, build_cspnet_pan_backbone
from .config import add_nanodet_config
from .detector import NanoDet
from .head import NanoDetHead
from .tfjs import TFJSError, load_tfjs_weights
