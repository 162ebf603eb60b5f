from .darknet import Darknet
from .darknet_weights import DarknetWeightsError, load_darknet_weights
from .head import YOLOV3Head
from .yolov3 import YOLOV3
