"""ResNets as torchvision names their weights."""

import re

__all__ = ["is_torchvision_resnet", "rename_as_detectron2"]


def is_torchvision_resnet(weights):
    """Tells whether a state dict is of a ResNet of torchvision, or of those that name weights alike."""
    return {"conv1.weight", "bn1.weight", "layer1.0.conv1.weight"} <= set(weights)


def rename_as_detectron2(weights):
    """Renames weights of torchvision as Detectron2 does.

    Args:
        weights (dict[str, Tensor]): of torchvision, e.g. "layer1.0.bn2.weight".

    Returns:
        dict[str, Tensor]: by the names that Detectron2's ResNet has for them, e.g.
        "res2.0.conv2.norm.weight"; without the classifier.
    """
    renamed = {}
    for name, value in weights.items():
        if name.startswith("fc."):
            continue
        name = re.sub(r"^layer(\d)", lambda found: f"res{int(found[1]) + 1}", name)
        name = re.sub(r"^(conv1|bn1)\b", r"stem.\1", name)
        name = re.sub(r"\bbn(\d)\b", r"conv\1.norm", name)
        name = name.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
        renamed[name] = value
    return renamed
