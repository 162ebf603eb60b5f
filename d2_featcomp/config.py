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
    # With SOLVER.LR_SCHEDULER_NAME WarmupPolyLR, the learning rate falls as (1 - iteration / MAX_ITER)
    # to this power.
    cfg.SOLVER.POLY_LR_POWER = 0.9
    # The LazyConfig file that describes the network, and its overrides; set if it is the config file.
    cfg.MODEL.LAZY = CN()
    cfg.MODEL.LAZY.CONFIG_FILE = ""
    cfg.MODEL.LAZY.OVERRIDES = ()
    cfg.MODEL.FEATCOMP = CN()
    featcomp = cfg.MODEL.FEATCOMP

    # False builds the task network without a split: the uncompressed reference.
    featcomp.ENABLED = True
    # The Detectron2 meta-architecture that is split.
    featcomp.TASK_NETWORK = "GeneralizedRCNN"
    # Name in FEATURE_SPLIT_REGISTRY. "MSFC", and its anchors "LMSFC" and "PyramidSplit" (all levels, not
    # reduced); "PyramidTransform" (a latent for each level); "BaF", and its anchors
    # "IntermediateLayerSplit" (all channels) and "ImageSplit" (the image itself, e.g. by hevc420);
    # "QLayer" (MTL: the features themselves, trained to be compressible). "Pyramid", "Layer" and "Image"
    # are earlier names of PyramidSplit, IntermediateLayerSplit and ImageSplit.
    featcomp.SPLIT = "MSFC"
    # Where the network is split: "backbone" (after it), a stage inside it, e.g. "res3" of a ResNet,
    # alone or with an FPN on top, "layer12" (of a Darknet) or "image" (before the network). "" is the
    # split's own: "image" for ImageSplit, the layer of LAYER for BaF and IntermediateLayerSplit,
    # "backbone" for the others.
    featcomp.SPLIT_POINT = ""

    # For networks with a fixed input size: (height, width), in pixels, to which all images are resized,
    # whatever their shape, in training and in tests. (): INPUT.MIN_SIZE_TEST etc. keep their shape.
    featcomp.INPUT_SIZE = ()

    # How the reduced features become bytes. Evaluation always runs through it.
    featcomp.CODEC = CN()
    # Name in IMAGE_CODEC_REGISTRY: raw, png, jpeg, jpegxl, jpegls, avif, hevc; for colour images
    # jpeg420, jpegxl_rgb, avif420, hevc420. Or in FEATURE_CODEC_REGISTRY: learned, variable_rate, which
    # have to be trained.
    featcomp.CODEC.NAME = "jpegxl"
    # Bit depth n of a symbol, 2..16; 32 codes float32 (codec "raw" only).
    featcomp.CODEC.BITS = 4
    # For lossy codecs, each in its own scale: JPEG quality 1..100, JPEG XL distance 0..25 (0: lossless),
    # AVIF quality 0..99, HEVC QP 0..51. None is the codec's default.
    featcomp.CODEC.QUALITY = None
    # Larger is slower and smaller: PNG 0..9, JPEG XL 1..9, AVIF 0..10, HEVC preset 0..8. None is the
    # codec's default.
    featcomp.CODEC.EFFORT = None
    # Name in QUANTIZER_REGISTRY; by the range that the symbols divide: "fixed" (the split's own:
    # [-1, 1] of MSFC and PyramidTransform, -128..127 of LMSFC, 0..255 of images), "tensor" or "channel"
    # (minimum and maximum, coded as float16), "deviation" (mean and standard deviation of the tensor),
    # "narrow" (as tensor; channels of a narrow range are not coded). "" is the split's own: fixed for
    # these (MSFC without tanh: tensor), channel for BaF, tensor for the others.
    featcomp.CODEC.QUANTIZER = ""
    # For quantizer "deviation": k; values beyond mean +- k standard deviations are clipped.
    featcomp.CODEC.DEVIATIONS = 4.0
    # For quantizer "narrow": channels whose range is below this share of the tensor's are sent as one
    # symbol each.
    featcomp.CODEC.NARROW = 0.05

    # For codec "variable_rate": the rate at which images are coded, 0 (fewest bytes) to 1.
    featcomp.CODEC.RATE = 1.0
    # Instead of a rate: kB (1000 bytes) of each image's whole bitstream, met within 3 percent by coding
    # its features up to six times. 0: no target.
    featcomp.CODEC.TARGET_KB = 0.0

    # For codecs "learned" and "variable_rate".
    # Channels that are coded at once. 0: one if there are up to 15 channels, else an eighth of them.
    featcomp.CODEC.LEARNED = CN()
    featcomp.CODEC.LEARNED.GROUP = 0
    # Hidden channels of the entropy model for each group. 0: 20 for one channel, up to 64.
    featcomp.CODEC.LEARNED.HIDDEN = 0
    # Channels of a hyper-latent, a quarter as high and wide as the latent, which is coded first: for
    # large maps, and for channels whose variances are similar. 0: none.
    featcomp.CODEC.LEARNED.HYPER = 0
    # Whether the symbols coded before are the context of the next ones. False needs a hyper-latent,
    # which then is the only context, and all symbols are coded at once.
    featcomp.CODEC.LEARNED.CONTEXT = True
    # For "variable_rate": number of rates, at least 2, at which step sizes and entropy model are
    # trained; linear in between.
    featcomp.CODEC.LEARNED.RATE_POINTS = 4

    # With FEATCOMP.ENABLED False: evaluation counts the bytes of the detections themselves, as sent by
    # an edge that computes the whole network, and measures the decoded detections.
    featcomp.ANSWERS = CN()
    featcomp.ANSWERS.ENABLED = False
    # Lowest score of the detections that are sent.
    featcomp.ANSWERS.SCORE = 0.05

    # How both sub-models are computed: "plain", the modules as trained; "fused", conv-BN folding and
    # other accelerations that are equal except for rounding; "compiled", as "fused" with the edge
    # sub-model by torch.compile (needs a C++ compiler, and half a minute for each image size and batch
    # size); "bfloat16", as "fused" with the edge sub-model in bfloat16: less exact, and only for
    # processors that compute in it. Or a file, edge.onnx or edge.int8.onnx of featcomp export: the edge
    # sub-model by onnxruntime, the cloud's as "fused".
    featcomp.INFERENCE = "plain"

    # The cloud sub-model as a server.
    featcomp.SERVER = CN()
    # Largest batch of bitstreams, of images with equal padded size.
    featcomp.SERVER.MAX_BATCH = 8
    # Milliseconds that a bitstream may wait for others to fill its batch.
    featcomp.SERVER.MAX_WAIT = 5

    # Multi-scale feature fusion (MSFC sec. 3.1).
    featcomp.MSFF = CN()
    featcomp.MSFF.SE_REDUCTION = 16
    featcomp.MSFF.KERNEL_SIZE = 3
    # The level whose size the fused map has, e.g. "p3"; "" (the paper) is the coarsest. A finer map with
    # fewer channels keeps positions better, for the same number of symbols.
    featcomp.MSFF.LEVEL = ""
    # How finer levels are brought to that size: "nearest", "average" or "space_to_depth" (all of their
    # values, as more channels).
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
    # Training starts from principal components of the features of this many images, and from their
    # least-squares restoration; needs MSFR.LATERAL. 0 (the paper) starts from random weights.
    featcomp.MSFC = CN()
    featcomp.MSFC.FIT_IMAGES = 0
    # Whether the components are chosen by how much the task's losses depend on the features, measured on
    # as many images with labels, instead of by variance alone.
    featcomp.MSFC.FIT_IMPORTANCE = False

    # A latent for each level of the pyramid: channels from fine to coarse, or one number for all.
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
    # A file written by featcomp select-channels. "": stage 2 of training selects the channels, on
    # SELECTION_IMAGES images.
    featcomp.BAF.CHANNEL_ORDER = ""
    featcomp.BAF.SELECTION_IMAGES = 1000
    # Training starts from the least-squares linear prediction on this many images; 0 starts from random
    # weights, as in the paper, and takes far longer.
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
    # Weights of the task network's losses in stages 2 and 3, e.g. (("loss_mask", 2.0),), with the names
    # in the log; 1 for all others.
    featcomp.LOSS_WEIGHTS = ()
    # Trains only the split; batch norm statistics are frozen, too. featcomp train sets it in stage 2.
    featcomp.FREEZE_TASK_NETWORK = False

    # The training stages of featcomp train: the three of MSFC sec. 4, and a fourth for learned codecs.
    # Each runs like a Detectron2 training of its own: what is not listed here comes from SOLVER.
    featcomp.TRAIN = CN()
    # Which stages to run, e.g. (2, 3). () is 1, 2 and 3, or 2 and 3 if MODEL.WEIGHTS already holds a
    # whole task network; 3 with SPLIT QLayer, which has nothing to train alone; and 4 with codecs
    # "learned" and "variable_rate".
    featcomp.TRAIN.STEPS = ()
    # "SGD" (Detectron2's, with SOLVER.MOMENTUM), "Adam" or "AdamW".
    featcomp.TRAIN.OPTIMIZER = "SGD"
    # Name in DATASET_MAPPER_REGISTRY; "" is Detectron2's own. MultiTaskMapper reads disparities too.
    featcomp.TRAIN.MAPPER = ""
    # Train only on this many images, the first of all data sets together; 0 is all.
    featcomp.TRAIN.IMAGES = 0
    # Lambda, with codec "learned": the loss of one byte of an image, in units of the task loss, by which
    # stages 2 and 3 lower the rate. 0 trains the entropy model without influence on the network.
    featcomp.TRAIN.RATE_WEIGHT = 0.0
    # With codec "variable_rate", RATE_WEIGHT is lambda at CODEC.RATE 1, and lambda at CODEC.RATE 0 is
    # this many times as large.
    featcomp.TRAIN.RATE_WEIGHT_RATIO = 100.0
    # With codec "variable_rate": the rates of training images are uniform numbers in 0..1 to this power.
    # 0.5 trains high rates more often: better at them, worse at low ones.
    featcomp.TRAIN.RATE_EXPONENT = 1.0
    # 1: the task network alone. 2: split and codec, the task network frozen. 3: everything.
    for stage, (iterations, decay, rate) in enumerate(
        [(90000, (60000, 80000), 0.02), (30000, (20000, 27000), 0.02), (60000, (40000, 54000), 0.01)],
        start=1,
    ):
        node = CN()
        # In stage 2 it may be 0: the split stays as it starts (MSFC.FIT_IMAGES, BAF.FIT_IMAGES).
        node.MAX_ITER = iterations
        # Learning rate for SOLVER.IMS_PER_BATCH images.
        node.BASE_LR = rate
        # Iterations at which the rate is multiplied by SOLVER.GAMMA.
        node.LR_STEPS = decay
        if stage > 1:
            # See LOSS above.
            node.LOSS = "task"
        if stage == 2:
            # With LOSS "distill" or "both": errors of channels are weighted by the squared gradient of
            # the network's own losses, measured on this many labelled training images before the stage
            # begins. 0: errors are only divided by the variance of their level.
            node.IMPORTANCE_IMAGES = 0
        featcomp.TRAIN[f"STEP{stage}"] = node
    # The learning rate of the entropy model in stages 2 and 3.
    featcomp.TRAIN.ENTROPY_LR = 0.005
    # 4: the entropy model alone, fitted by Muon and Adam to the symbols of IMAGES training images.
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
    # Side, in pixels, of the gray square in whose middle images are put; 0: images keep their sizes.
    yolo.LETTERBOX = 0
    # Predictions that overlap an object by more than this are not trained to be background.
    yolo.IGNORE_THRESHOLD = 0.5
    # Lowest objectness times class probability of a detection.
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
    # Pixels of disparity for an output of 1.
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
    # For build_efficientnet_lite_backbone and build_efficientnet_lite_fpn_backbone.
    cfg.MODEL.EFFICIENTNET_LITE = CN()
    efficientnet = cfg.MODEL.EFFICIENTNET_LITE
    efficientnet.VARIANT = "lite0"  # to "lite4"
    # A Detectron2 norm.
    efficientnet.NORM = "FrozenBN"
    efficientnet.OUT_FEATURES = ["res2", "res3", "res4", "res5"]  # at strides 4, 8, 16 and 32
    # For build_timm_backbone and build_timm_fpn_backbone.
    cfg.MODEL.TIMM = CN()
    timm = cfg.MODEL.TIMM
    # A name in timm.list_models().
    timm.NAME = "resnet18"
    # Arguments of timm.create_model, e.g. (("img_size", (224, 224)),).
    timm.OPTIONS = ()
    # "" keeps the network's own norms; "FrozenBN" or "SyncBN" replaces its batch norms.
    timm.NORM = ""
    timm.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
