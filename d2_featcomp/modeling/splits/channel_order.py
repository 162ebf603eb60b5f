"""Files that say which channels of a layer to code: what tools/select_channels.py writes.

JSON: {"layer": number of the layer, "order": channels, best first, "scores": of channel 0, 1, ...,
"images": how many were looked at}.
"""

import json

import torch

__all__ = ["format_channel_order", "read_channel_order"]


def format_channel_order(layer, order, scores, images):
    """Formats an order of channels as a file.

    Args:
        layer (int): number of the layer.
        order (Tensor): (P,) int64, best first.
        scores (Tensor): (P,) float, of channel 0, 1, ...
        images (int): number of images that the scores come from.

    Returns:
        str: text of the file.
    """
    data = {
        "layer": layer,
        "images": images,
        "order": order.tolist(),
        "scores": [round(score, 6) for score in scores.tolist()],
    }
    return json.dumps(data) + "\n"


def read_channel_order(path, *, layer, channels):
    """Reads a file of :func:`format_channel_order`.

    Args:
        path (str): file.
        layer (int): number of the layer that it must be for.
        channels (int): P, of that layer.

    Returns:
        Tensor: (P,) int64, a permutation of 0 to P - 1, best first.

    Raises:
        ValueError: it is no such file, or one for another layer.
        OSError: it cannot be read.
    """
    with open(path, encoding="utf-8") as file:
        try:
            data = json.load(file)
            order = torch.tensor([int(channel) for channel in data["order"]])
            found = data["layer"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path!r} is no file of tools/select_channels.py ({error})") from error
    if found != layer:
        raise ValueError(f"{path!r} is for layer {found}, not for layer {layer}: select channels again")
    if sorted(order.tolist()) != list(range(channels)):
        raise ValueError(f"{path!r} does not order the {channels} channels of layer {layer}")
    return order
