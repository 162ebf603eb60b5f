"""One encoder, several tasks, all on the same features.

Alvar and Bajic, "Multi-Task Learning with Compressible Features for Collaborative Intelligence", ICIP
2019.
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.structures import ImageList
from torch import nn

from ..named_weights import read_named_weights
from .heads import TASK_HEAD_REGISTRY
from .loss_weights import UncertaintyWeighting

__all__ = ["COMPRESSIBILITY", "CompressibleMultiTask"]

COMPRESSIBILITY = "compressibility"  # name of L_r among the losses


@META_ARCH_REGISTRY.register()
class CompressibleMultiTask(nn.Module):
    """An encoder and a decoder a task (fig. 1).

    Args:
        backbone (Backbone): with one output.
        heads (list[TaskHead]): with distinct tasks.
        loss_weights (UncertaintyWeighting): of the tasks' losses and, where it is trained for, of
            "compressibility".
        pixel_mean, pixel_std (list[float]): of the channels.

    Raises:
        ValueError: the backbone has more than one output, or two heads the same task.
    """

    @configurable
    def __init__(self, *, backbone, heads, loss_weights, pixel_mean, pixel_std):
        super().__init__()
        self.backbone = backbone
        self.feature, self.stride = _only_output(backbone)
        self.heads = nn.ModuleDict({head.task: head for head in heads})
        if len(self.heads) != len(heads) or not heads:
            raise ValueError("MODEL.MULTI_TASK.HEADS must name one or more heads, each for another task")
        self.loss_weights = loss_weights
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def from_config(cls, cfg):
        backbone = build_backbone(cfg)
        shape = backbone.output_shape()[_only_output(backbone)[0]]
        settings = cfg.MODEL.MULTI_TASK
        heads = []
        for name in settings.HEADS:
            if name not in TASK_HEAD_REGISTRY:
                known = ", ".join(sorted(head for head, _ in TASK_HEAD_REGISTRY))
                raise ValueError(
                    f"unknown task head {name!r} (MODEL.MULTI_TASK.HEADS): choose of {known}"
                )
            heads.append(TASK_HEAD_REGISTRY.get(name)(cfg, shape))
        return {
            "backbone": backbone,
            "heads": heads,
            "loss_weights": _loss_weights(cfg, heads),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    @property
    def device(self):
        return self.pixel_mean.device

    def forward(self, batched_inputs):
        """Computes losses in training, else outputs.

        Args:
            batched_inputs (list[dict]): each with "image", (3, h, w) Tensor; in training the targets of
                the heads, "sem_seg" and "disparity"; else optionally "height" and "width", the size in
                pixels that outputs refer to.

        Returns:
            dict[str, Tensor]: losses, weighted (eq. 6), in training; else list[dict], what the heads'
            `finish` return.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)[self.feature]
        if self.training:
            return self.weight_losses(
                {
                    f"loss_{task}": head.loss(head(features), batched_inputs)
                    for task, head in self.heads.items()
                }
            )
        predictions = {task: head(features) for task, head in self.heads.items()}
        outputs = []
        for index, (record, size) in enumerate(zip(batched_inputs, images.image_sizes, strict=True)):
            output_size = record.get("height", size[0]), record.get("width", size[1])
            output = {}
            for task, head in self.heads.items():
                output.update(head.finish(predictions[task][index], tuple(size), output_size))
            outputs.append(output)
        return outputs

    def weight_losses(self, losses):
        """Applies the trained weights to losses.

        Args:
            losses (dict[str, Tensor]): "loss_NAME" -> scalar, NAME a task or "compressibility".

        Returns:
            dict[str, Tensor]: see :class:`UncertaintyWeighting`.
        """
        return self.loss_weights({name.removeprefix("loss_"): loss for name, loss in losses.items()})

    weigh_losses = weight_losses  # earlier name

    def preprocess_image(self, batched_inputs):
        """Converts list[dict] to an ImageList, normalized, padded to a multiple of the features'
        stride."""
        images = [record["image"].to(self.device) for record in batched_inputs]
        images = [(image - self.pixel_mean) / self.pixel_std for image in images]
        return ImageList.from_tensors(images, self.stride)


def _only_output(backbone):
    """(name, stride) of a backbone's output."""
    shapes = backbone.output_shape()
    if len(shapes) != 1:
        raise ValueError(
            f"CompressibleMultiTask codes one feature, but this backbone gives {', '.join(shapes)}: "
            "name one in MODEL.RESNETS.OUT_FEATURES"
        )
    ((name, shape),) = shapes.items()
    return name, shape.stride


def _loss_weights(cfg, heads):
    kinds = {head.task: head.loss_kind for head in heads}
    known = {head.task for _, head in TASK_HEAD_REGISTRY}
    key, tasks = "MULTI_TASK.LOSS_WEIGHTS.INITIAL", ", ".join(sorted(known))
    given = read_named_weights(
        cfg.MODEL.MULTI_TASK.LOSS_WEIGHTS.INITIAL, key, f"a task ({tasks})", '(("disparity", 4.0),)'
    )
    for task in given.keys() - known:
        raise ValueError(f"MODEL.{key} names {task!r}: choose among {tasks}")
    weights = {task: weight for task, weight in given.items() if task in kinds}
    if cfg.MODEL.FEATCOMP.ENABLED and cfg.MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT:
        kinds[COMPRESSIBILITY] = "regression"
        weights[COMPRESSIBILITY] = cfg.MODEL.FEATCOMP.COMPRESSIBILITY.WEIGHT
    return UncertaintyWeighting(kinds, weights)
