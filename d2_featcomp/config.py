"""Configuration keys of d2_featcomp, all below `MODEL.FEATCOMP`."""

import contextlib

from detectron2.config import CfgNode as CN
from detectron2.config import get_cfg

from .registry import Registry

__all__ = ["CONFIG_REGISTRY", "add_featcomp_config", "make_config"]

CONFIG_REGISTRY = Registry("CONFIG")
CONFIG_REGISTRY.__doc__ = """
Registry of functions that add the keys of another project to a config: called as `function(cfg)`, after
:func:`add_featcomp_config`, wherever the tools make a config.
"""


def make_config():
    """Makes Detectron2's default config with the keys of d2_featcomp, of the projects in
    `CONFIG_REGISTRY` and, where it is installed, of PointRend.

    Returns:
        CfgNode: not frozen.
    """
    cfg = get_cfg()
    add_featcomp_config(cfg)
    with contextlib.suppress(ImportError):
        from detectron2.projects.point_rend import add_pointrend_config

        add_pointrend_config(cfg)
    for _, add_keys in CONFIG_REGISTRY:
        add_keys(cfg)
    return cfg


def add_featcomp_config(cfg):
    """Adds the keys of d2_featcomp, with their defaults, to a Detectron2 config.

    Set `MODEL.META_ARCHITECTURE: SplitNetwork` to use them.

    Args:
        cfg (CfgNode): from `detectron2.config.get_cfg()`; changed in place.
    """
    _add_yolov3_config(cfg)
    _add_multi_task_config(cfg)
    _add_backbone_config(cfg)
    # Of SOLVER.LR_SCHEDULER_NAME WarmupPolyLR: the rate falls as (1 - iteration / MAX_ITER) to this
    # power.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # A LazyConfig file that describes the network, and its overrides; set where it is the config file.
    cfg.MODEL.LAZY = CN()
    cfg.MODEL.LAZY.CONFIG_FILE = ""
    cfg.MODEL.LAZY.OVERRIDES = ()
    cfg.MODEL.FEATCOMP = CN()
    featcomp = cfg.MODEL.FEATCOMP

    # False builds the task network alone, not split: the uncompressed reference.
    featcomp.ENABLED = True
    # The Detectron2 meta-architecture that is split.
    featcomp.TASK_NETWORK = "GeneralizedRCNN"
    # Name in FEATURE_SPLIT_REGISTRY. "MSFC", and its anchors "LMSFC" and "PyramidSplit" (all levels as
    # they are); "PyramidTransform" (a latent for each level); "BaF", and its anchors
    # "IntermediateLayerSplit" (all channels) and "ImageSplit" (the image itself, by jpeg420 or hevc420);
    # "QLayer" (MTL: the features as they are, trained to be compressible).
    # "Pyramid", "Layer" and "Image" are earlier names of those three.
    featcomp.SPLIT = "MSFC"
    # Where the network is split: "backbone" (after it), a stage inside it, e.g. "res3" of a ResNet,
    # alone or below an FPN, "layer12" (of a Darknet) or "image" (before the network). "" is the split's
    # own: "image" for ImageSplit, the layer of LAYER for BaF and IntermediateLayerSplit, "backbone" for
    # the others.
    featcomp.SPLIT_POINT = ""

    # Height and width, in pixels, of the images that the network gets, in training and in tests,
    # whatever their shape, for networks of one input size. (): INPUT.MIN_SIZE_TEST and the like keep the
    # shape.
    featcomp.INPUT_SIZE = ()

    # How the reduced features become bytes. Evaluation always runs through it.
    featcomp.CODEC = CN()
    # Name in IMAGE_CODEC_REGISTRY: raw, png, jpeg, jpegxl, jpegls, avif, hevc; for images in colour,
    # jpeg420 and hevc420; or in FEATURE_CODEC_REGISTRY: learned and variable_rate, which have to be
    # trained.
    featcomp.CODEC.NAME = "jpegxl"
    # Bit depth n of a symbol, 2..16; 32 codes float32 (codec "raw" only).
    featcomp.CODEC.BITS = 4
    # Of lossy codecs, in their own scale: JPEG quality 1..100, JPEG XL distance 0..25 (0: lossless),
    # AVIF quality 0..99, HEVC QP 0..51. None is the codec's default.
    featcomp.CODEC.QUALITY = None
    # Larger is slower and smaller: PNG 0..9, JPEG XL 1..9, AVIF 0..10, HEVC preset 0..8. None is the
    # codec's default.
    featcomp.CODEC.EFFORT = None
    # Name in QUANTIZER_REGISTRY, by what the range of its symbols follows: "fixed" (the split's own:
    # [-1, 1] of MSFC and PyramidTransform, -128..127 of LMSFC, 0..255 of images), "tensor" or "channel"
    # (minimum and maximum, coded as float16), "deviation" (mean and standard deviation of the tensor),
    # "narrow" (as tensor; channels of a narrow range are not coded). "" is the split's own: fixed for
    # these (MSFC without tanh: tensor), channel for BaF, tensor for the others.
    featcomp.CODEC.QUANTIZER = ""
    # Of quantizer "deviation": k; values beyond mean +- k standard deviations are clipped.
    featcomp.CODEC.DEVIATIONS = 4.0
    # Of quantizer "narrow": channels whose range is below this share of the tensor's are sent as one
    # symbol each.
    featcomp.CODEC.NARROW = 0.05

    # Of codec "variable_rate": 0 (fewest bytes) to 1, at which images are coded.
    featcomp.CODEC.RATE = 1.0
    # In place of a rate: kB (1000 bytes) of each image's whole bitstream, met within 3 percent by up to
    # six codings of its features. 0: none.
    featcomp.CODEC.TARGET_KB = 0.0

    # Of codecs "learned" and "variable_rate".
    # Channels that are coded at once, 0: 1 of up to 15 channels, an eighth of more.
    featcomp.CODEC.LEARNED = CN()
    featcomp.CODEC.LEARNED.GROUP = 0
    # Hidden channels of its network, for each group; 0: 20 for one channel, up to 64.
    featcomp.CODEC.LEARNED.HIDDEN = 0
    # Channels of a hyper-latent, a quarter as high and wide as the latent, which is coded first: for
    # large maps, and for channels that resemble each other in how much they vary. 0: none.
    featcomp.CODEC.LEARNED.HYPER = 0
    # Whether symbols are coded by what was coded before of the same latent. False needs a hyper-latent,
    # by which all are coded at once.
    featcomp.CODEC.LEARNED.CONTEXT = True
    # Of "variable_rate": rates at which step sizes and entropy model are trained, at least 2; linear in
    # between.
    featcomp.CODEC.LEARNED.RATE_POINTS = 4

    # With ENABLED False: evaluation counts the bytes of the detections themselves, what an edge would
    # send that computes everything, and measures what comes out of them.
    featcomp.ANSWERS = CN()
    featcomp.ANSWERS.ENABLED = False
    # Least score of the detections that are sent.
    featcomp.ANSWERS.SCORE = 0.05

    # How both sub-models are computed: "plain", with the weights as they are; "fused", by conv-BN
    # folding and other ways that are faster and equal but for rounding; "compiled", as "fused", the edge
    # sub-model by torch.compile (a C++ compiler, and half a minute for each image size and number of
    # images at once); "bfloat16", as "fused", the edge sub-model in that type: less exact, and only
    # where the processor computes in it. Or a file: edge.onnx or edge.int8.onnx of featcomp export, by
    # which onnxruntime computes the edge sub-model; the cloud's is "fused".
    featcomp.INFERENCE = "plain"

    # The cloud sub-model as a server.
    featcomp.SERVER = CN()
    # Bitstreams that the network computes at once, of images of one padded size.
    featcomp.SERVER.MAX_BATCH = 8
    # Milliseconds for which a bitstream may wait for others to fill its batch.
    featcomp.SERVER.MAX_WAIT = 5

    # Multi-scale feature fusion (MSFC sec. 3.1).
    featcomp.MSFF = CN()
    featcomp.MSFF.SE_REDUCTION = 16
    featcomp.MSFF.KERNEL_SIZE = 3
    # The level whose size the fused map has, e.g. "p3"; "" (the paper) is the coarsest. A finer map with
    # fewer channels keeps more of where things are, for the same number of symbols.
    featcomp.MSFF.LEVEL = ""
    # How finer levels reach that size: "nearest", "average" or "space_to_depth" (all their values, as
    # more channels).
    featcomp.MSFF.DOWNSAMPLE = "nearest"

    # Single-stream feature codec (MSFC sec. 3.2).
    featcomp.SSFC = CN()
    # C', the channels of the latent: 8, 16, 32 or 64 in the paper, any number here.
    featcomp.SSFC.CHANNELS = 64
    featcomp.SSFC.KERNEL_SIZE = 3
    # Detectron2 norm of the encoder; "SyncBN" for small batches on several GPUs.
    featcomp.SSFC.NORM = "BN"
    # After it: "tanh" (the paper) or "prelu" (FCTM v1), whose latents have no bounds.
    featcomp.SSFC.ACTIVATION = "tanh"
    # Detectron2 norm of the decoder, e.g. "BN" (FCTM v1); "" (the paper) is none.
    featcomp.SSFC.DECODER_NORM = ""

    # Multi-scale feature reconstruction (MSFC sec. 3.3).
    featcomp.MSFR = CN()
    # "bottom_up" is the paper's eq. 2-6; "top_down" rebuilds the coarsest level first.
    featcomp.MSFR.DIRECTION = "bottom_up"
    featcomp.MSFR.DOWNSAMPLE = "nearest"
    # "nearest" or "bilinear"; with DIRECTION "top_down" also "subpixel": the convolutions enlarge.
    featcomp.MSFR.UPSAMPLE = "nearest"
    # Detectron2 norm after each convolution, e.g. "BN"; "" (the paper) is none.
    featcomp.MSFR.NORM = ""
    # A 1 x 1 convolution of F' for each level; False is the paper's.
    featcomp.MSFR.LATERAL = False
    # Training starts from principal components of so many images' features and from what restores these
    # best, by least squares; needs MSFR.LATERAL. 0 (the paper) starts from random weights.
    featcomp.MSFC = CN()
    featcomp.MSFC.FIT_IMAGES = 0
    # Whether features count, in choosing components, by how much the task's losses change with them,
    # measured on as many images with labels.
    featcomp.MSFC.FIT_IMPORTANCE = False

    # A latent for each level of the pyramid: their channels, fine to coarse, or one number for all.
    featcomp.PYRAMID_TRANSFORM = CN()
    featcomp.PYRAMID_TRANSFORM.CHANNELS = (64,)
    # As MSFC.FIT_IMAGES and MSFC.FIT_IMPORTANCE.
    featcomp.PYRAMID_TRANSFORM.FIT_IMAGES = 0
    featcomp.PYRAMID_TRANSFORM.FIT_IMPORTANCE = False

    # L-MSFC (Kim et al., arXiv 2306.16670): the latent's channels, and its stride, a power of 2 up to
    # twice that of the coarsest level that is not pooled.
    featcomp.LMSFC = CN()
    featcomp.LMSFC.CHANNELS = 128
    featcomp.LMSFC.STRIDE = 64

    # Back-and-forth prediction (BaF sec. 3), and its anchor: the backbone's layer at whose batch norm
    # it is split, in Darknet's numbering.
    featcomp.LAYER = 12
    featcomp.BAF = CN()
    # C, the channels of the latent.
    featcomp.BAF.CHANNELS = 64
    # A file of featcomp select-channels. "": stage 2 of training selects them, on so many images.
    featcomp.BAF.CHANNEL_ORDER = ""
    featcomp.BAF.SELECTION_IMAGES = 1000
    # Training starts from the linear prediction that is best on so many images, by least squares; 0
    # starts from random weights, as in the paper, and takes far longer.
    featcomp.BAF.FIT_IMAGES = 200
    # Channels between the predictor's convolutions; at least the layer's input channels, unless
    # FIT_IMAGES is 0.
    featcomp.BAF.HIDDEN_CHANNELS = 128
    # Bit depths of training; each image is quantized with one of them. () is CODEC.BITS, as in the
    # paper; (2, 3, 4, 5, 6, 7, 8) trains one predictor for all. It needs TRAIN_QUANTIZATION ste.
    featcomp.BAF.TRAIN_BITS = ()
    # Whether predictions of the latent's channels are brought into the bins of its symbols (eq. 6).
    featcomp.BAF.CONSOLIDATE = True

    # The quantization surrogate of training, at CODEC.BITS: "none" (the MSFC paper), "noise" (uniform,
    # one step size wide; the MTL paper) or "ste" (rounding with a straight-through gradient). "" is the
    # split's own: "ste" for BaF and LMSFC, "none" for the others. Codec learned takes ste for none,
    # variable_rate always rounds.
    featcomp.TRAIN_QUANTIZATION = ""
    # QLayer: a trained factor for each channel, by which the edge multiplies and the cloud divides.
    featcomp.CHANNEL_GAINS = False
    # The compressibility loss (MTL eq. 5) of the latent, added in training.
    featcomp.COMPRESSIBILITY = CN()
    # 0 leaves it out. In CompressibleMultiTask the weight is trained and this is where it starts.
    featcomp.COMPRESSIBILITY.WEIGHT = 0.0
    # "features" (the paper) or "steps", in step sizes: then shrinking all features gains nothing.
    featcomp.COMPRESSIBILITY.UNITS = "features"
    # What training minimizes: "task" (the network's losses), "distill" (distance of the restored
    # from the original features; for BaF the Charbonnier loss, eq. 7) or "both". featcomp train
    # takes it from each stage below.
    featcomp.LOSS = "task"
    # Weights of the task network's losses in stages 2 and 3, e.g. (("loss_mask", 2.0),), by their names
    # in the log; 1 for those that are not named.
    featcomp.LOSS_WEIGHTS = ()
    # Trains only the split, batch norm statistics frozen too. featcomp train sets it in stage 2.
    featcomp.FREEZE_TASK_NETWORK = False

    # The three training stages of MSFC sec. 4, for featcomp train. Each runs like a Detectron2
    # training of its own: what is not listed here comes from SOLVER.
    featcomp.TRAIN = CN()
    # Which stages to run, e.g. (2, 3). () is all three, or 2 and 3 where MODEL.WEIGHTS already holds
    # a whole task network; with SPLIT QLayer, which has nothing to be trained alone, 3.
    featcomp.TRAIN.STEPS = ()
    # "SGD" (Detectron2's, with SOLVER.MOMENTUM), "Adam" or "AdamW".
    featcomp.TRAIN.OPTIMIZER = "SGD"
    # Name in DATASET_MAPPER_REGISTRY; "" is Detectron2's own. MultiTaskMapper reads disparities too.
    featcomp.TRAIN.MAPPER = ""
    # Train on so many images only, the first of all data sets together; 0 is all.
    featcomp.TRAIN.IMAGES = 0
    # Lambda, with codec "learned": the loss of one byte of an image, in units of the task loss; the rate
    # is estimated and lowered in stages 2 and 3. 0 fits the entropy model and leaves the network alone.
    featcomp.TRAIN.RATE_WEIGHT = 0.0
    # With codec "variable_rate", of which RATE_WEIGHT is lambda at CODEC.RATE 1: lambda at CODEC.RATE 0
    # over that one.
    featcomp.TRAIN.RATE_WEIGHT_RATIO = 100.0
    # With codec "variable_rate": the rates of training images are uniform numbers in 0..1 to this power.
    # 0.5 trains high rates more often: better at them, worse at low ones.
    featcomp.TRAIN.RATE_EXPONENT = 1.0
    # 1: the task network alone. 2: the split alone, the task network frozen. 3: everything.
    for stage, (iterations, decay, rate) in enumerate(
        [(90000, (60000, 80000), 0.02), (30000, (20000, 27000), 0.02), (60000, (40000, 54000), 0.01)],
        start=1,
    ):
        node = CN()
        # Of stage 2 also 0: the split stays as it starts (MSFC.FIT_IMAGES, BAF.FIT_IMAGES).
        node.MAX_ITER = iterations
        # Learning rate for SOLVER.IMS_PER_BATCH images.
        node.BASE_LR = rate
        # Iterations at which the rate is multiplied by SOLVER.GAMMA.
        node.LR_STEPS = decay
        if stage > 1:
            # See LOSS above.
            node.LOSS = "task"
        if stage == 2:
            # With LOSS "distill" or "both": errors of channels count by the squared gradient of the
            # network's own losses, measured on so many training images with their labels before the
            # stage begins. 0: levels count by their variance alone.
            node.IMPORTANCE_IMAGES = 0
        featcomp.TRAIN[f"STEP{stage}"] = node
    # Of stages 2 and 3: the learning rate of the entropy model.
    featcomp.TRAIN.ENTROPY_LR = 0.005
    # 4: the entropy model alone, fitted by Muon and Adam to the symbols of so many training images.
    featcomp.TRAIN.STEP4 = CN()
    featcomp.TRAIN.STEP4.IMAGES = 1000
    featcomp.TRAIN.STEP4.IMS_PER_BATCH = 8
    featcomp.TRAIN.STEP4.MAX_ITER = 2000
    featcomp.TRAIN.STEP4.BASE_LR = 0.015
    featcomp.TRAIN.STEP4.WARMUP_ITERS = 20


def _add_yolov3_config(cfg):
    cfg.MODEL.YOLOV3 = CN()
    yolo = cfg.MODEL.YOLOV3
    yolo.NUM_CLASSES = 80
    # Width and height in pixels, for each scale, coarse to fine. These are YOLO-v3's for COCO.
    yolo.ANCHORS = [
        [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
        [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
        [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    ]
    # Detectron2 norm of all convolutions but the last.
    yolo.NORM = "BN"
    # Side, in pixels, of the square in whose middle images are put, on gray; 0: images keep their sizes.
    yolo.LETTERBOX = 0
    # Predictions that overlap an object by more than this are not trained to be background.
    yolo.IGNORE_THRESHOLD = 0.5
    # Least objectness times class probability of a detection.
    yolo.SCORE_THRESH_TEST = 0.005
    yolo.NMS_THRESH_TEST = 0.45


def _add_multi_task_config(cfg):
    cfg.MODEL.MULTI_TASK = CN()
    multi_task = cfg.MODEL.MULTI_TASK
    # Names in TASK_HEAD_REGISTRY. Classes of the segmentation: MODEL.SEM_SEG_HEAD.NUM_CLASSES.
    multi_task.HEADS = ("SegmentationHead", "DisparityHead", "ReconstructionHead")
    # After each convolution of the decoders but the last: "" (none, the paper) or "relu".
    multi_task.ACTIVATION = ""
    # Whether the first stage of the disparity decoder keeps the width of the features, as in the code of
    # MTL's authors, rather than halving it as the others do.
    multi_task.WIDE_DISPARITY = False
    # Pixels of disparity that the network's output 1 stands for.
    multi_task.DISPARITY_SCALE = 1.0
    # The trained weights of the losses (MTL eq. 6).
    multi_task.LOSS_WEIGHTS = CN()
    # First values, e.g. (("disparity", 5.0),); 1 for tasks that are not named.
    multi_task.LOSS_WEIGHTS.INITIAL = ()
    # When Adam updates them: after each "epoch" (the paper), each "iteration", or "never";
    # never in stage 2.
    multi_task.LOSS_WEIGHTS.UPDATE = "epoch"
    # Adam's learning rate, of the weights' logarithms: about how far one update moves them. None is 0.05
    # for "epoch", so that the paper's 250 epochs bring a weight from 1 to anything between 1/1000 and
    # 1000 and leave time to settle, and 0.001 for "iteration".
    multi_task.LOSS_WEIGHTS.BASE_LR = None


def _add_backbone_config(cfg):
    # Of build_efficientnet_lite_backbone and build_efficientnet_lite_fpn_backbone.
    cfg.MODEL.EFFICIENTNET_LITE = CN()
    efficientnet = cfg.MODEL.EFFICIENTNET_LITE
    efficientnet.VARIANT = "lite0"  # to "lite4"
    # A Detectron2 norm.
    efficientnet.NORM = "FrozenBN"
    efficientnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]  # at strides 4, 8, 16 and 32
    # Of build_timm_backbone and build_timm_fpn_backbone.
    cfg.MODEL.TIMM = CN()
    timm = cfg.MODEL.TIMM
    # As timm.list_models() names it.
    timm.NAME = "resnet18"
    # Arguments of timm.create_model, e.g. (("img_size", (224, 224)),).
    timm.OPTIONS = ()
    # "" is the network's own; "FrozenBN" or "SyncBN" in place of its batch norms.
    timm.NORM = ""
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
