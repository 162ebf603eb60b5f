"""The weights of the edge and of the cloud sub-model."""

import torch
from torch import nn

from .checkpoint_names import make_saved_name
from .fingerprint import read_weights
from .modes import evaluating
from .split_backbone import DecodedLatents

__all__ = ["drop_other_weights", "find_sub_model_weights"]

_STATISTICS = ("running_mean", "num_batches_tracked")


def find_sub_model_weights(model):
    """Finds out what each sub-model reads, by running the network on a small image.

    Args:
        model (SplitNetwork): computed in evaluation mode, so that norms keep their statistics; its mode
            stays as it is.

    Returns:
        dict[str, set[str]]: "edge" and "cloud" -> names in the state dict. The codec belongs to both; so
        may a layer that is computed on both sides, and what of split and backbone was not seen to be
        read: other images may need it, and TorchScript does not tell.
    """
    state = set(model.state_dict())
    codec = {name for name in state if name.startswith("feature_codec.")}
    inside = {name for name in state if name.startswith(("backbone.", "feature_split."))}
    if model.sends_image:
        return {"edge": codec, "cloud": state}
    with evaluating(model.modules()):
        edge, cloud = (names & state for names in _read(model))
    either = codec | inside - edge - cloud
    return {"edge": edge | either, "cloud": cloud | either | (state - inside)}


@torch.no_grad()
def _read(model):
    split_backbone = model.network.backbone
    side = -(-64 // max(1, split_backbone.size_divisibility)) * max(1, split_backbone.size_divisibility)
    side = split_backbone.padding_constraints.get("square_size", 0) or side
    image = torch.zeros(len(model.pixel_mean), side, side, dtype=torch.uint8)
    latents = []

    def head():
        images = model.normalized_images([{"image": image}]).tensor  # larger where there is a letterbox
        latents[:] = split_backbone.encode_features(images[..., :side, :side])

    def tail():
        steps = [torch.zeros(1, 1, 1, 1, device=y.device) for y in latents]
        split_backbone.decode_features(DecodedLatents(latents, steps, (side, side)))

    found = []
    for part in (head, tail):
        names = {make_saved_name(name) for name in read_weights(model, part)}
        # Counters that no output depends on stay with the statistics that they count for.
        counters = {name.replace(*_STATISTICS) for name in names if name.endswith(_STATISTICS[0])}
        found.append(names | counters)
    return found


def drop_other_weights(model, kept):
    """Moves weights out of memory, to the device "meta".

    Args:
        model (SplitNetwork): changed in place.
        kept (set[str]): names in the state dict of those that stay.
    """
    for prefix, module in model.named_modules():
        for values in (module._parameters, module._buffers):
            for name, value in values.items():
                full = make_saved_name(f"{prefix}.{name}" if prefix else name)
                if value is None or full in kept or name in module._non_persistent_buffers_set:
                    continue
                gone = value.detach().to("meta")
                values[name] = nn.Parameter(gone, False) if values is module._parameters else gone
