import cv2
import numpy as np
import pytest
import torch
from detectron2.layers import Conv2d

from d2_featcomp.modeling import DarknetWeightsError, load_darknet_weights
from d2_featcomp.modeling.split_backbone import unsplit_backbone
from d2_featcomp.modeling.yolo.darknet import Shortcut, TinyPool


def darknet_cfg(backbone, classes, size):
    """A Darknet configuration of the networks, written from their published description."""
    lines = [f"[net]\nwidth={size}\nheight={size}\nchannels=3\n"]

    def conv(filters, kernel, stride=1, norm=True):
        lines.append(
            f"[convolutional]\n{'batch_normalize=1' if norm else ''}\nfilters={filters}\nsize={kernel}\n"
            f"stride={stride}\npad=1\nactivation={'leaky' if norm else 'linear'}\n"
        )

    def yolo(mask):
        lines.append(
            f"[yolo]\nmask={mask}\nanchors=10,14, 23,27, 37,58, 81,82, 135,169, 344,319, 350,350, "
            f"360,360, 370,370\nclasses={classes}\nnum=9\n"
        )

    out = 3 * (5 + classes)
    if backbone == "DarknetTiny":
        for number, filters in enumerate((16, 32, 64, 128, 256, 512, 1024)):
            conv(filters, 3)
            if number < 6:
                lines.append(f"[maxpool]\nsize=2\nstride={1 if number == 5 else 2}\n")
        conv(256, 1), conv(512, 3), conv(out, 1, norm=False), yolo("3,4,5")
        lines.append("[route]\nlayers=-4\n")
        conv(128, 1), lines.append("[upsample]\nstride=2\n"), lines.append("[route]\nlayers=-1,8\n")
        conv(256, 3), conv(out, 1, norm=False), yolo("1,2,3")
        return "\n".join(lines), ["conv_15", "conv_22"]
    conv(32, 3)
    channels = 32
    for blocks in (1, 2, 8, 8, 4):
        channels *= 2
        conv(channels, 3, stride=2)
        for _ in range(blocks):
            conv(channels // 2, 1), conv(channels, 3)
            lines.append("[shortcut]\nfrom=-3\nactivation=linear\n")
    for width, skip in ((512, None), (256, 61), (128, 36)):
        if skip is not None:
            lines.append("[route]\nlayers=-4\n")
            conv(width, 1), lines.append("[upsample]\nstride=2\n")
            lines.append(f"[route]\nlayers=-1,{skip}\n")
        for _ in range(3):
            conv(width, 1), conv(2 * width, 3)
        conv(out, 1, norm=False), yolo("0,1,2")
    return "\n".join(lines), ["conv_81", "conv_93", "conv_105"]


CONFIGS = {"DarknetTiny": "configs/baf_yolov3_tiny.yaml", "Darknet53": "configs/baf_yolov3.yaml"}


@pytest.mark.parametrize("backbone", ["DarknetTiny", pytest.param("Darknet53", marks=pytest.mark.slow)])
def test_raw_outputs_are_those_of_opencv(backbone, build_yolo, write_darknet, tmp_path):
    overrides = ("MODEL.YOLOV3.NUM_CLASSES", 2)
    network = build_yolo(*overrides, config=CONFIGS[backbone], seed=1)
    write_darknet(network, tmp_path / "a.weights")
    other = build_yolo(*overrides, config=CONFIGS[backbone], seed=2)
    load_darknet_weights(other, str(tmp_path / "a.weights"))
    text, names = darknet_cfg(backbone, classes=2, size=96)
    (tmp_path / "a.cfg").write_text(text)
    image = np.random.default_rng(0).random((96, 96, 3), dtype=np.float32)
    reference = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    reference.setInput(cv2.dnn.blobFromImage(image))
    with torch.no_grad():
        raw = other.predict(unsplit_backbone(other)(torch.from_numpy(image).permute(2, 0, 1)[None]))
    for name, found in zip(names, raw, strict=True):
        expected = reference.forward(name)
        assert found.shape == expected.shape
        assert np.abs(expected).max() > 1e-2
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-3)


def test_layer_12_of_yolov3_is_where_baf_cuts(build_yolo):
    network = build_yolo(config=CONFIGS["Darknet53"])
    layer = unsplit_backbone(network).layers[12]
    assert (layer.in_channels, layer.out_channels) == (128, 256)
    assert layer.kernel_size == (3, 3) and layer.stride == (2, 2)
    seen = []
    layer.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.no_grad():
        outputs = unsplit_backbone(network)(torch.zeros(1, 3, 512, 512))
    assert seen == [(1, 256, 64, 64)]
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "dark3": (256, 64, 64),
        "dark4": (512, 32, 32),
        "dark5": (1024, 16, 16),
    }
    assert sum(isinstance(layer, Conv2d) for layer in unsplit_backbone(network).layers) == 52
    # Nothing added later comes from before layer 12.
    shortcuts = [
        number - layer.back
        for number, layer in enumerate(unsplit_backbone(network).layers)
        if isinstance(layer, Shortcut) and number > 12
    ]
    assert min(shortcuts) == 12


def test_shapes_that_the_backbones_announce_are_those_they_give(build_yolo):
    for config in CONFIGS.values():
        backbone = unsplit_backbone(build_yolo(config=config))
        with torch.no_grad():
            outputs = backbone(torch.zeros(1, 3, 64, 96))
        assert backbone.size_divisibility == 32
        assert list(outputs) == list(backbone.output_shape())
        for name, shape in backbone.output_shape().items():
            assert outputs[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)


def test_pooling_at_stride_1_keeps_the_size():
    x = torch.tensor([[-5.0, -1.0], [-3.0, -4.0]])[None, None]
    assert TinyPool(1)(x).tolist() == [[[[-1.0, -1.0], [-3.0, -4.0]]]]
    assert TinyPool(2)(x).tolist() == [[[[-1.0]]]]


def header_of_pytorch_yolov3(data):
    """Its `np.array([0, 0, 0, seen, 0], dtype=np.int32)` in place of version 0.2 and an int64."""
    return np.array([0, 0, 0, 3200, 0], "<i4").tobytes() + data[20:]


@pytest.mark.parametrize(
    ("version", "change"),
    [
        ((0, 0, 0), bytes),
        ((0, 1, 0), bytes),
        ((0, 2, 5), bytes),
        ((1, 0, 0), bytes),
        ((0, 2, 0), header_of_pytorch_yolov3),
    ],
)
def test_all_headers_are_read(version, change, build_yolo, write_darknet, tmp_path):
    network, other = build_yolo(seed=1), build_yolo(seed=2)
    path = tmp_path / "a.weights"
    write_darknet(network, path, version=version)
    path.write_bytes(change(path.read_bytes()))
    load_darknet_weights(other, str(path))
    for name, value in network.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: b"", "no Darknet weight file"),
        (lambda data: b"GIF89a, and more of a picture" + data, "no Darknet weight file"),
        (lambda data: data[:-2], "cut short"),
        (lambda data: data[:20], r"ends in layer backbone.layers.0"),
        (lambda data: data[: len(data) // 8 * 4], r"ends in layer backbone.layers.12: its weight"),
        (lambda data: data[:-4], r"ends in layer head.scales.1.predictor.1"),
        (lambda data: data + bytes(8), "2 numbers more"),
        (lambda data: data + bytes(4), "1 numbers more"),
        (lambda data: data[:20] + b"\xff" * 4 + data[24:], "does not fit from layer backbone.layers.0"),
    ],
)
def test_files_that_do_not_fit_name_the_layer(change, words, build_yolo, write_darknet, tmp_path):
    network, other = build_yolo(seed=1), build_yolo(seed=2)
    path = tmp_path / "a.weights"
    write_darknet(network, path)
    path.write_bytes(change(path.read_bytes()))
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(DarknetWeightsError, match=words):
        load_darknet_weights(other, str(path))
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


@pytest.mark.parametrize(
    ("config", "classes", "words"),
    [
        ("configs/baf_yolov3.yaml", 6, "from layer backbone.layers.0 on"),
        ("configs/quick/yolov3_tiny.yaml", 5, r"from layer head.laterals.0 on"),
    ],
)
def test_files_of_other_networks_name_the_layer(
    config, classes, words, build_yolo, write_darknet, tmp_path
):
    write_darknet(build_yolo(), tmp_path / "a.weights")
    other = build_yolo("MODEL.YOLOV3.NUM_CLASSES", classes, config=config)
    with pytest.raises(DarknetWeightsError, match=words):
        load_darknet_weights(other, str(tmp_path / "a.weights"))
