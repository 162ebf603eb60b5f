"""Published weights of EfficientNet-lite, under the names of the package efficientnet-lite-pytorch."""

import functools

import torch

from .efficientnet_lite import VARIANTS, EfficientNetLite, MBConv

__all__ = ["EfficientNetLiteWeightsError", "rename_efficientnet_lite_weights"]

_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTS = ".num_batches_tracked"  # that no output depends on


class EfficientNetLiteWeightsError(ValueError):
    """The weights are not those of an EfficientNet-lite."""


def rename_efficientnet_lite_weights(weights):
    """Renames published weights as :class:`EfficientNetLite` names them.

    Args:
        weights (dict[str, Tensor]): of a whole network, e.g. "_blocks.0._depthwise_conv.weight".

    Returns:
        (str, dict[str, Tensor]): the variant that they are of, "lite0" to "lite4", and the weights by
        their new names, e.g. "stem.1.depthwise.weight", the classifier's among them.

    Raises:
        EfficientNetLiteWeightsError: one is absent, superfluous, of another shape or not finite.
    """
    weights = {name: value for name, value in weights.items() if not str(name).endswith(_COUNTS)}
    wrong = {variant: _find_mistakes(weights, _list_weights(variant)) for variant in VARIANTS}
    variant = min(wrong, key=lambda each: len(wrong[each]))
    if wrong[variant]:
        more = f", and {len(wrong[variant]) - 1} more mistakes" if len(wrong[variant]) > 1 else ""
        raise EfficientNetLiteWeightsError(
            "these are not the weights of an EfficientNet-lite as efficientnet-lite-pytorch names them; "
            f"of {variant}, which is the most similar, {wrong[variant][0]}{more}"
        )
    for name, value in weights.items():
        if not torch.isfinite(value).all():
            raise EfficientNetLiteWeightsError(f"{name} has values that are not finite")
    return variant, {new: weights[name] for name, (new, _) in _list_weights(variant).items()}


def _find_mistakes(weights, expected):
    """list[str]: what differs, in words."""
    found = []
    for name, (_, shape) in expected.items():
        if not isinstance(weights.get(name), torch.Tensor):
            found.append(f"{name} is absent")
        elif weights[name].shape != shape:
            found.append(f"{name} has shape {tuple(weights[name].shape)}, not {tuple(shape)}")
    return found + [f"{name} is unknown" for name in weights if name not in expected]


@functools.cache
def _list_weights(variant):
    """dict: published name -> (name here, shape)."""
    with torch.device("meta"):
        network = EfficientNetLite(variant, out_features=["linear"], num_classes=1000)
    names = {
        **_name_conv("stem.0", "_conv_stem", "_bn0"),
        **_name_conv("conv_head", "_conv_head", "_bn1"),
        **{f"_fc.{part}": f"linear.{part}" for part in ("weight", "bias")},
    }
    blocks = [(name, each) for name, each in network.named_modules() if isinstance(each, MBConv)]
    for number, (name, block) in enumerate(blocks):
        for part, norm in (("expand", "_bn0"), ("depthwise", "_bn1"), ("project", "_bn2")):
            if getattr(block, part) is not None:
                published = f"_blocks.{number}."
                names |= _name_conv(f"{name}.{part}", f"{published}_{part}_conv", published + norm)
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    return {published: (name, shapes[name]) for published, name in names.items()}


def _name_conv(name, conv, norm):
    """dict: published name -> name here, of a convolution and its norm."""
    return {
        f"{conv}.weight": f"{name}.weight",
        **{f"{norm}.{part}": f"{name}.norm.{part}" for part in _NORM},
    }
