"""Files of TensorFlow.js graph models: a JSON file of the graph, and shards of its weights beside it.

Key `weightsManifest` lists groups, each with `paths` of its shards and `weights`: name, shape, dtype
and, where they are stored in another type, `quantization`. A group's numbers lie in its shards one
weight after the other, little-endian.
"""

import json
import os

import numpy as np
import torch

__all__ = ["TFJSError", "load_tfjs_weights", "read_convolutions"]

_STORED = {"float32": "<f4", "float16": "<f2", "int32": "<i4", "uint8": "u1", "bool": "u1"}


class TFJSError(ValueError):
    """The file is no graph model, or not one of this network."""


def read_convolutions(path):
    """Reads the convolutions of a graph model.

    Args:
        path (str): of the JSON file.

    Returns:
        list[(str, ndarray, ndarray)]: name, weight (O, I, K, K) and bias (O,), both float32, in the
        order in which the graph was built.

    Raises:
        TFJSError: the file is damaged, a shard is missing or of another size, or a convolution has no
            bias. OSError: it cannot be read.
    """
    model = _read_json(path)
    try:
        nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
        weights = _read_weights(model["weightsManifest"], os.path.dirname(path))
        found = [node for node in nodes.values() if node["op"] == "Conv2D"]
        users = {name: node for node in nodes.values() for name in node.get("input", ())}
        return [_read_convolution(node, users, weights) for node in sorted(found, key=_find_number)]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise TFJSError(
            f"{path!r} is no TensorFlow.js graph model of plain convolutions with biases "
            f"({type(error).__name__}: {error})"
        ) from error


def _read_json(path):
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise TFJSError(
                f"{path!r} is no JSON ({error}): give the file that lists the graph"
            ) from error


def _read_weights(manifest, folder):
    """dict: name -> ndarray, of all groups."""
    weights = {}
    for group in manifest:
        shards = [os.path.join(folder, name) for name in group["paths"]]
        data = b"".join(_read_shard(path) for path in shards)
        position = 0
        for entry in group["weights"]:
            stored = entry.get("quantization", {}).get("dtype", entry["dtype"])
            if stored not in _STORED or {"scale", "min"} & entry.get("quantization", {}).keys():
                raise TFJSError(
                    f"weight {entry['name']!r} is stored as {stored}, which is not read here"
                )
            dtype, count = np.dtype(_STORED[stored]), int(np.prod(entry["shape"]))
            end = position + count * dtype.itemsize
            if end > len(data):
                raise TFJSError(
                    f"{', '.join(shards)} ends in weight {entry['name']!r}: {len(data)} bytes, at least "
                    f"{end} are needed; it was cut short"
                )
            values = np.frombuffer(data, dtype, count, position).reshape(entry["shape"])
            weights[entry["name"]], position = values, end
        if position != len(data):
            raise TFJSError(f"{', '.join(shards)} has {len(data) - position} bytes too many")
    return weights


def _read_shard(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError as error:
        raise TFJSError(f"no file {path!r}, which the graph names: put it beside the graph") from error


def _find_number(node):
    """int: of "convolution" 0, of "convolution_7" 7."""
    number = node["name"].rpartition("convolution")[2].lstrip("_")
    return int(number) if number.isdigit() else 0


def _read_convolution(node, users, weights):
    name, addition = node["name"], users[node["name"]]
    if addition["op"] not in ("Add", "AddV2", "BiasAdd"):
        raise TFJSError(f"no bias follows convolution {name!r}, but {addition['op']!r}")
    (bias,) = [weights[other] for other in addition["input"] if other != name]
    weight = weights[node["input"][1]].transpose(3, 2, 0, 1)  # from rows, columns, inputs, outputs
    return name, weight.astype(np.float32), bias.astype(np.float32)


def load_tfjs_weights(network, path):
    """Fills a network with the weights of a graph model.

    Args:
        network (nn.Module): whose convolutions, in the order of its modules, are those of the graph;
            changed in place, unless an error is raised.
        path (str): of the JSON file.

    Raises:
        TFJSError: see :func:`read_convolutions`; or the graph has another number of convolutions, or one
            of another shape, which the message names.
    """
    layers = [item for item in network.named_modules() if isinstance(item[1], torch.nn.Conv2d)]
    found = read_convolutions(path)
    if len(found) != len(layers):
        raise TFJSError(
            f"{path!r} has {len(found)} convolutions, this network {len(layers)}: it is of another "
            "network (MODEL.NANODET)"
        )
    for (name, layer), (given, weight, bias) in zip(layers, found, strict=True):
        shapes = tuple(layer.weight.shape), tuple(layer.bias.shape)
        if (weight.shape, bias.shape) != shapes:
            raise TFJSError(
                f"{path!r}: {given!r} has weights {weight.shape} and biases {bias.shape}, {name} of "
                f"this network {shapes[0]} and {shapes[1]}: it is of another network or number of "
                "classes (MODEL.NANODET)"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise TFJSError(f"{path!r}: {given!r} has values that are not finite: the file is damaged")
    with torch.no_grad():
        for (_, layer), (_, weight, bias) in zip(layers, found, strict=True):
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
