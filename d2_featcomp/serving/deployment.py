"""From a configuration and weights to a service: for featcomp cloud --serve, and for Ray Serve."""

import hashlib
import json
import shlex

from detectron2.utils.file_io import PathManager

from ..deploy import find_categories, load_sub_model, read_config
from ..deploy.classes import read_categories
from ..engine import hash_file
from ..errors import describe_import_error
from .access import TokenFile
from .app import build_app
from .server import CloudService
from .settings import ServiceSettings

__all__ = ["find_class_names", "load_service", "ray_app"]

_FLOAT_BYTES = 4
_PASTE_BYTES = 16  # a pixel, while one mask is pasted
_LABEL_BYTES = 8


def load_service(cfg, weights, folder, names=None, **settings):
    """Loads a cloud sub-model and starts a service of it.

    Args:
        cfg (CfgNode): of the split network, see :func:`read_config`; MODEL.FEATCOMP.SERVER says
            how large batches are.
        weights (str): file of the cloud sub-model, or a whole checkpoint.
        folder (str): for results.
        names (sequence[str] or None): of the classes; None takes those in the file or, where it holds
            none, of the data sets in `cfg`.
        **settings: the rest of :class:`ServiceSettings`.

    Returns:
        CloudService: started.

    Raises:
        ValueError: a setting is out of range, or another number of names than of classes.
        FileNotFoundError, CheckpointError: see :func:`d2_featcomp.deploy.load_sub_model`.
    """
    server = cfg.MODEL.FEATCOMP.SERVER
    settings = ServiceSettings(max_batch=server.MAX_BATCH, max_wait=server.MAX_WAIT / 1000, **settings)
    network = load_sub_model(cfg, weights, "cloud")
    categories = find_categories(cfg, weights, network, names)
    model = cfg.MODEL.clone()
    for node, key in ((model.FEATCOMP, "SERVER"), (model, "DEVICE"), (model, "WEIGHTS")):
        node.pop(key)  # no result depends on it
    digest = hash_file(PathManager.get_local_path(weights))
    made_by = [digest, model.dump(), cfg.TEST.dump(), categories]
    if settings.score_threshold:
        made_by.append(settings.score_threshold)
    maker = hashlib.sha256(json.dumps(made_by).encode()).hexdigest()[:16]
    about = {
        "network": cfg.MODEL.FEATCOMP.TASK_NETWORK,
        "split": cfg.MODEL.FEATCOMP.SPLIT,
        "codec": cfg.MODEL.FEATCOMP.CODEC.NAME,
        "device": cfg.MODEL.DEVICE,
    }
    pixel_bytes = count_output_bytes_per_pixel(cfg)
    return CloudService(network, settings, folder, categories, maker, pixel_bytes, about)


def count_output_bytes_per_pixel(cfg):
    """Counts the memory that outputs take.

    Args:
        cfg (CfgNode): of the split network.

    Returns:
        int: bytes of memory that its outputs for an image take at most, for each pixel of the image's
        original size: masks of all detections, scores of all classes of a semantic map.
    """
    model, most = cfg.MODEL, cfg.TEST.DETECTIONS_PER_IMAGE
    network, found = model.FEATCOMP.TASK_NETWORK, 0
    if model.MASK_ON:
        if most < 0:  # all that the heads find
            most = model.RPN.POST_NMS_TOPK_TEST * model.ROI_HEADS.NUM_CLASSES
        found += most + _PASTE_BYTES
    if network in ("PanopticFPN", "SemanticSegmentor", "CompressibleMultiTask"):
        found += _FLOAT_BYTES * model.SEM_SEG_HEAD.NUM_CLASSES + _LABEL_BYTES
    if network == "CompressibleMultiTask":  # disparity, and a picture in colour
        found += 4 * (_FLOAT_BYTES + _LABEL_BYTES)
    return found


def find_class_names(cfg):
    """Finds the names of classes of the first data set in DATASETS.TEST that has names; () if none
    has."""
    for dataset in cfg.DATASETS.TEST:
        if categories := read_categories(dataset):
            return [category["name"] for category in categories]
    return ()


def ray_app(args):
    """Builds an application for Ray Serve: the same service, in several processes on several machines.

        serve run d2_featcomp.serving:ray_app weights=deployed/cloud.pth output=results replicas=2

    Args:
        args (dict): "weights", "output" (a folder that all replicas share, so that a bitstream which
            comes twice is computed once); optionally "config_file" (needed for weights that hold no
            configuration), "token_file" (as :func:`read_tokens` takes it; none: anybody may ask),
            "replicas" (1), "gpus" and "cpus" of each (0 and 1), "opts" (config overrides, a list or one
            text), "classes" (names, a list or one text with commas). All paths must be readable where
            the replicas run.

    Returns:
        ray.serve.Application

    Raises:
        ImportError: Ray Serve is not installed. ValueError: an argument is missing or unknown.
    """
    try:
        from ray import serve
    except ImportError as error:
        need, how = "replicas need Ray Serve", "pip install 'd2_featcomp[serve]'"
        raise ImportError(describe_import_error(error, need, how, "ray")) from error
    needed = {"weights", "output"}
    more = {"config_file", "token_file", "replicas", "gpus", "cpus", "opts", "classes"}
    if needed - args.keys() or args.keys() - needed - more:
        raise ValueError(
            f"arguments {sorted(args)}: give {', '.join(sorted(needed))} and, if need be, "
            f"{', '.join(sorted(more))}"
        )
    cpus = float(args.get("cpus", 1))
    opts, classes = args.get("opts", []), args.get("classes")
    if isinstance(opts, str):  # from the command line
        opts = shlex.split(opts)
    if isinstance(classes, str):
        classes = classes.split(",")

    def app():
        import torch

        torch.set_num_threads(max(1, int(cpus)))
        cfg = read_config(args["weights"], args.get("config_file", ""), opts)
        tokens = TokenFile(args["token_file"]) if "token_file" in args else None
        return build_app(load_service(cfg, args["weights"], args["output"], classes), tokens)

    deployment = serve.deployment(
        name="CloudHalf",
        num_replicas=int(args.get("replicas", 1)),
        # So many are passed on to a replica: all that its queue and its batches hold.
        max_ongoing_requests=2 * ServiceSettings.queue_size,
        ray_actor_options={"num_cpus": cpus, "num_gpus": float(args.get("gpus", 0))},
    )
    return deployment(serve.ingress(app)()).bind()
