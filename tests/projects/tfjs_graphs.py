"""TensorFlow.js graph models: writes small ones of NanoDet's layout, and runs them node by node.

Values are as in TensorFlow, (N, H, W, C); graphs that were converted from ONNX transpose around each
convolution, and so does what is written here.
"""

import base64
import json
import re

import numpy as np
import torch
import torch.nn.functional as F


def text(value):
    return {"s": base64.b64encode(value.encode()).decode()}


def numbers(*values):
    return {"list": {"i": [str(value) for value in values]}}


class GraphWriter:
    """Builds a graph node by node; a method returns the name of its result, of layout (N, C, H, W)."""

    def __init__(self, seed=0, dtype="float16"):
        self.random = np.random.default_rng(seed)
        self.dtype, self.nodes, self.weights, self.count = dtype, [], [], 0

    def node(self, op, name, inputs, **attributes):
        self.nodes.append({"op": op, "name": name, "input": list(inputs), "attr": attributes})
        return name

    def const(self, name, values):
        values = np.asarray(values)
        dtype = "float32" if values.dtype.kind == "f" else "int32"
        self.weights.append((name, values.astype(dtype), self.dtype if dtype == "float32" else None))
        return self.node("Const", name, ())

    def transpose(self, x, order):
        name = f"transpose_{len(self.nodes)}"
        return self.node("Transpose", name, (x, self.const(f"{name}/perm", order)))

    def pad(self, x, value=None):
        name, sides = f"pad_{len(self.nodes)}", [[0, 0], [0, 0], [1, 1], [1, 1]]
        inputs = [x, self.const(f"{name}/paddings", sides)]
        if value is not None:
            inputs.append(self.const(f"{name}/value", np.float32(value)))
        return self.node("Pad" if value is None else "PadV2", name, inputs)

    def conv(self, x, inputs, outputs, size=3, stride=1, active=True):
        """A convolution, its bias and, if active, a leaky ReLU."""
        name = "convolution" if self.count == 0 else f"convolution_{self.count}"
        self.count += 1
        weight = self.random.normal(
            0, (2 / (size * size * inputs)) ** 0.5, (size, size, inputs, outputs)
        )
        x = self.transpose(self.pad(x) if size == 3 else x, [0, 2, 3, 1])
        weight = self.const(f"weight_{self.count}", weight.astype(np.float32))
        strides, padding = numbers(1, stride, stride, 1), text("VALID")
        x = self.node("Conv2D", name, (x, weight), strides=strides, padding=padding)
        bias = self.const(f"bias_{self.count}", self.random.normal(0, 0.2, outputs).astype(np.float32))
        x = self.transpose(self.node("Add", f"add_{self.count}", (x, bias)), [0, 3, 1, 2])
        return self.node("LeakyRelu", f"leaky_{self.count}", (x,), alpha={"f": 0.1}) if active else x

    def pool(self, x):
        x = self.transpose(self.pad(x, -np.inf), [0, 2, 3, 1])
        sizes = {"ksize": numbers(1, 3, 3, 1), "strides": numbers(1, 2, 2, 1)}
        x = self.node("MaxPool", f"pool_{len(self.nodes)}", (x,), padding=text("VALID"), **sizes)
        return self.transpose(x, [0, 3, 1, 2])

    def concat(self, *parts):
        name = f"concat_{len(self.nodes)}"
        return self.node("ConcatV2", name, (*parts, self.const(f"{name}/axis", 1)))

    def resize(self, x, side):
        name = f"resize_{len(self.nodes)}"
        x = self.transpose(x, [0, 2, 3, 1])
        size = self.const(f"{name}/size", [side, side])
        x = self.node("ResizeBilinear", name, (x, size), half_pixel_centers={"b": True})
        return self.transpose(x, [0, 3, 1, 2])

    def add(self, a, b):
        return self.node("AddV2", f"sum_{len(self.nodes)}", (a, b))

    def write(self, folder, shards=1):
        """Writes graph.json and its shards; returns the path of the former."""
        data, entries = b"", []
        for name, values, stored in self.weights:
            entry = {"name": name, "shape": list(values.shape), "dtype": str(values.dtype)}
            if stored:
                entry["quantization"], values = {"dtype": stored}, values.astype(stored)
            entries.append(entry)
            data += values.tobytes()
        size = -(-len(data) // shards)
        paths = [f"graph{number}.bin" for number in range(shards)]
        for number, path in enumerate(paths):
            (folder / path).write_bytes(data[number * size : (number + 1) * size])
        manifest = [{"paths": paths, "weights": entries}]
        model = {"modelTopology": {"node": self.nodes}, "weightsManifest": manifest}
        (folder / "graph.json").write_text(json.dumps(model))
        return folder / "graph.json"


def write_nanodet(writer, side, stem, blocks, channels, outputs):
    """Writes NanoDet-g's layout in other sizes; results are "out_0" to "out_2", (N, outputs, H, W)."""
    x = writer.node("Placeholder", "input_1", ())
    x = writer.pool(writer.conv(x, 3, stem, stride=2))
    width, features = stem, []
    for number, count in enumerate(blocks):
        first = x = writer.conv(x, width, width, stride=1 if number == 0 else 2)
        for _ in range(count):
            half = writer.conv(x, width, width // 2)
            x = writer.concat(writer.conv(half, width // 2, width // 2), half)
        x = writer.concat(writer.conv(x, width, width), first)
        width *= 2
        features.append((x, width))
    levels = [writer.conv(x, width, channels, 1, active=False) for x, width in features[-3:]]
    sides = [side // stride for stride in (8, 16, 32)]
    for fine in (1, 0):
        levels[fine] = writer.add(levels[fine], writer.resize(levels[fine + 1], sides[fine]))
    for coarse in (1, 2):
        levels[coarse] = writer.add(levels[coarse], writer.resize(levels[coarse - 1], sides[coarse]))
    for number, x in enumerate(levels):
        x = writer.conv(writer.conv(x, channels, channels), channels, outputs, 1, active=False)
        writer.node("Identity", f"out_{number}", (x,))


def read_weights(path, model):
    """dict: name -> Tensor."""
    found = {}
    for group in model["weightsManifest"]:
        data, position = b"".join((path.parent / name).read_bytes() for name in group["paths"]), 0
        for entry in group["weights"]:
            stored = np.dtype(entry.get("quantization", {}).get("dtype", entry["dtype"]))
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, stored, count, position).astype(entry["dtype"])
            position += count * stored.itemsize
            found[entry["name"]] = torch.from_numpy(values.reshape(entry["shape"]))
    return found


def run_graph(path, image, wanted):
    """Evaluates a graph, node by node.

    Args:
        path (Path): of the JSON file.
        image (Tensor): (1, 3, H, W) float.
        wanted (list[str]): names of nodes.

    Returns:
        list[Tensor]
    """
    model = json.loads(path.read_text())
    nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
    weights, values = read_weights(path, model), {}

    def value(name):
        name, _, place = name.partition(":")
        if name not in values:
            node = nodes[name]
            inputs = [value(other) for other in node.get("input", ())]
            values[name] = run_node(node, inputs, weights, image)
        return values[name][int(place or 0)] if isinstance(values[name], tuple) else values[name]

    return [value(name) for name in wanted]


def run_node(node, inputs, weights, image):
    op, attributes = node["op"], node.get("attr", {})
    if op == "Placeholder":
        return image
    if op == "Const":
        return weights[node["name"]]
    if op in ("Add", "AddV2"):
        return inputs[0] + inputs[1]
    if op == "Transpose":
        return inputs[0].permute(*inputs[1].tolist())
    if op in ("Pad", "PadV2"):
        sides = [side for pair in reversed(inputs[1].tolist()) for side in pair]
        return F.pad(inputs[0], sides, value=float(inputs[2]) if op == "PadV2" else 0)
    if op == "LeakyRelu":
        return F.leaky_relu(inputs[0], attributes["alpha"]["f"])
    if op == "Sigmoid":
        return inputs[0].sigmoid()
    if op == "Identity":
        return inputs[0]
    if op == "ConcatV2":
        return torch.cat(inputs[:-1], int(inputs[-1]))
    if op == "SplitV":
        return tuple(inputs[0].split(inputs[1].tolist(), int(inputs[2])))
    if op == "SparseToDense":  # of no values: shape and default
        return torch.full(inputs[1].tolist(), int(inputs[3]))
    if op == "Reshape":
        return inputs[0].reshape(inputs[1].tolist())
    if op == "ResizeBilinear":
        assert attributes["half_pixel_centers"]["b"]
        size = inputs[1].tolist()
        return F.interpolate(inputs[0].permute(0, 3, 1, 2), size, mode="bilinear").permute(0, 2, 3, 1)
    stride = int(attributes["strides"]["list"]["i"][1])
    assert base64.b64decode(attributes["padding"]["s"]) == b"VALID"
    x = inputs[0].permute(0, 3, 1, 2)
    if op == "Conv2D":
        return F.conv2d(x, inputs[1].permute(3, 2, 0, 1), stride=stride).permute(0, 2, 3, 1)
    assert op == "MaxPool", op
    size = int(attributes["ksize"]["list"]["i"][1])
    return F.max_pool2d(x, size, stride).permute(0, 2, 3, 1)


def rename(path, before, after):
    """Replaces text in a graph's file."""
    path.write_text(re.sub(before, after, path.read_text()))
