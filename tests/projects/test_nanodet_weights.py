"""projects/NanoDet/convert_weights.py, on files that are written here and on the real one, if given.

The environment variable NANODET_GRAPH names the real graph, nanodet.json, and NANODET_IMAGES a folder of
images to compare on.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tfjs_graphs
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp.engine import setup_config

CONFIG = "projects/NanoDet/configs/nanodet_msfc.yaml"
SCRIPT = "projects/NanoDet/convert_weights.py"
LAYOUT = {"stem": 4, "blocks": (1, 2, 2, 3), "channels": 8, "outputs": 3 + 44}
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.NANODET.STEM_CHANNELS", "4", "MODEL.NANODET.CHANNELS", "8"),
    *("MODEL.NANODET.NUM_CLASSES", "3"),
]


@pytest.fixture
def convert(run_tool, nanodet, tmp_path):
    def call(graph, *overrides):
        output = tmp_path / "converted.pth"
        return output, run_tool(SCRIPT, "--graph", graph, "--output", output, *overrides)

    return call


def compute_raw(output, image, *overrides):
    """list of (1, K + 44, H, W): the raw predictions of a converted network."""
    weights = torch.load(output, weights_only=True)["model"]
    network = build_model(setup_config(CONFIG, [*overrides, "MODEL.FEATCOMP.ENABLED", "False"]))
    network.load_state_dict(weights)
    with torch.no_grad():
        features = network.backbone(image)
        predictions = network.head([features[name] for name in network.head_in_features])
    return [
        torch.cat([logits, distances.flatten(2)], dim=2).transpose(1, 2)
        for logits, distances in predictions
    ]


@pytest.mark.parametrize(("dtype", "shards"), [("float16", 1), ("float16", 3), (None, 1)])
def test_a_converted_network_computes_what_the_graph_does(convert, tmp_path, dtype, shards):
    writer = tfjs_graphs.GraphWriter(dtype=dtype)
    tfjs_graphs.write_nanodet(writer, 64, **LAYOUT)
    graph = writer.write(tmp_path, shards)
    output, (status, told, _) = convert(graph, *TINY)
    assert status == 0 and told.startswith(f"{output}: ")
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = tfjs_graphs.run_graph(graph, image, ["out_0", "out_1", "out_2"])
    for found, raw in zip(compute_raw(output, image, *TINY), expected, strict=True):
        assert raw.std() > 0.1
        torch.testing.assert_close(found, raw.flatten(2), atol=1e-4, rtol=1e-4)


@pytest.fixture
def graph(tmp_path):
    writer = tfjs_graphs.GraphWriter()
    tfjs_graphs.write_nanodet(writer, 64, **LAYOUT)
    return writer.write(tmp_path)


def cut(path):
    data = path.with_name("graph0.bin")
    data.write_bytes(data.read_bytes()[:-10])


def lengthen(path):
    data = path.with_name("graph0.bin")
    data.write_bytes(data.read_bytes() + b"123")


def remove(path):
    path.with_name("graph0.bin").unlink()


def damage(path):
    data = path.with_name("graph0.bin")
    data.write_bytes(b"\xff" * len(data.read_bytes()))


def drop_a_convolution(path):
    model = json.loads(path.read_text())
    nodes = model["modelTopology"]["node"]
    nodes.remove(next(node for node in nodes if node["name"] == "convolution_7"))
    path.write_text(json.dumps(model))


MISTAKES = {
    "cut short": (cut, "graph0.bin ends in weight 'transpose_417/perm': 110178 bytes, at least 110188"),
    "too long": (lengthen, "has 3 bytes too many"),
    "no weights": (remove, "no file '"),
    "damaged": (damage, "'convolution' has values that are not finite"),
    "no JSON": (lambda path: path.write_text("{"), "is no JSON"),
    "other JSON": (lambda path: path.write_text("[1]"), "is no TensorFlow.js graph model"),
    "no graph": (lambda path: path.unlink(), "no such file"),
    "scaled": (
        lambda path: tfjs_graphs.rename(path, '"dtype": "float16"', '"dtype": "uint8", "scale": 1'),
        "is stored as uint8",
    ),
    "another graph": (drop_a_convolution, "has 33 convolutions, this network 34"),
    "no bias": (
        lambda path: tfjs_graphs.rename(path, '"op": "Add"', '"op": "Mul"'),
        "no bias follows convolution 'convolution', but 'Mul'",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_a_file_that_does_not_fit_is_told_in_one_line(convert, graph, case):
    spoil, words = MISTAKES[case]
    spoil(graph)
    output, (status, _, stderr) = convert(graph, *TINY)
    assert status == 2 and len(stderr.splitlines()) == 1 and words in stderr
    assert not output.exists()


def test_another_number_of_classes_is_told(convert, graph):
    _, (status, _, stderr) = convert(graph, *TINY[:-1], "4")
    assert status == 2 and "'convolution_29' has weights (47, 8, 1, 1)" in stderr
    assert "head.levels.0.2 of this network (48, 8, 1, 1)" in stderr


REAL = [os.environ.get(name) for name in ("NANODET_GRAPH", "NANODET_IMAGES")]


@pytest.mark.skipif(not all(REAL), reason="NANODET_GRAPH and NANODET_IMAGES are not set")
def test_the_real_file_on_real_images(convert):
    graph, images = map(Path, REAL)
    output, (status, told, _) = convert(graph, "MODEL.DEVICE", "cpu")
    assert status == 0 and "3786068 parameters" in told
    names = ["Identity", *(f"Identity_{number}" for number in range(1, 6))]
    for path in sorted(images.glob("*.jpg"))[:3]:
        with Image.open(path) as picture:
            pixels = np.array(picture.convert("RGB").resize((416, 416)), np.float32)[..., ::-1]
        mean, std = [103.53, 116.28, 123.675], [57.375, 57.12, 58.395]
        image = torch.tensor(((pixels - mean) / std).transpose(2, 0, 1)[None], dtype=torch.float32)
        expected = tfjs_graphs.run_graph(graph, image, names)
        for level, found in enumerate(compute_raw(output, image, "MODEL.DEVICE", "cpu")):
            scores, distances = found[:, :80].sigmoid(), found[:, 80:]
            assert (scores.transpose(1, 2) - expected[level]).abs().max() < 1e-3
            assert (distances.transpose(1, 2) - expected[level + 3]).abs().max() < 1e-3
