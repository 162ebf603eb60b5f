"""The edge without PyTorch, part by part: what it prepares, quantizes and codes is what PyTorch does."""

import itertools
import types

import networks
import numpy as np
import pytest
import torch
from detectron2.data.transforms import Resize, ResizeShortestEdge
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp.codecs import QUANTIZER_REGISTRY, build_quantizer
from d2_featcomp.data.images import read_image
from d2_featcomp.deploy import export_onnx, onnx_edge, onnx_export, onnx_int8
from d2_featcomp.deploy.configuration import describe_network
from d2_featcomp.deploy.onnx_edge import OnnxEdge, build_array_codec
from d2_featcomp.engine import setup_config
from d2_featcomp.engine.inference import describe_input, get_pixels, make_input
from d2_featcomp.ops import arrays, quantization
from d2_featcomp.preprocessing import find_resized_size, normalize_image, pad_image, prepare_pixels


@pytest.mark.parametrize("settings", [(800, 1333), (192, 256), (61, 73), (416, 416)])
def test_images_are_resized_as_by_detectron2(settings):
    """Sizes of any shape; pixels of one."""
    shortest, longest = settings
    described = {"min_size": shortest, "max_size": longest, "format": "RGB"}
    for height, width in itertools.product((1, 63, 64, 97, 480, 641, 1999), repeat=2):
        expected = ResizeShortestEdge.get_output_shape(height, width, shortest, longest)
        assert find_resized_size(height, width, described) == expected
    picture = np.random.default_rng(0).integers(0, 256, (97, 64, 3), dtype=np.uint8)
    resize = ResizeShortestEdge([shortest], longest, "choice").get_transform(picture)
    found = prepare_pixels(picture, described)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.transpose(1, 2, 0), resize.apply_image(picture))
    bgr = prepare_pixels(picture, {"size": [31, 50], "format": "BGR"})
    expected = Resize((31, 50)).get_transform(picture).apply_image(picture)
    np.testing.assert_array_equal(bgr[::-1].transpose(1, 2, 0), expected)


def test_gray_images_are_made_as_by_detectron2(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (97, 64, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    gray = read_image(str(tmp_path / "a.png"), "L")
    expected = ResizeShortestEdge([61], 73, "choice").get_transform(gray).apply_image(gray)
    found = prepare_pixels(picture, {"min_size": 61, "max_size": 73, "format": "L"})
    np.testing.assert_array_equal(found.transpose(1, 2, 0), expected)
    kept = prepare_pixels(picture, {"size": [97, 64], "format": "L"})
    np.testing.assert_array_equal(kept.transpose(1, 2, 0), gray)


def test_networks_of_gray_images_are_exported(tmp_path):
    pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    gray = {"INPUT.FORMAT": "L", "MODEL.PIXEL_MEAN": [110.0], "MODEL.PIXEL_STD": [58.0]}
    cfg = setup_config(networks.MSFC, networks.listed({**networks.TINY, **gray}))
    network, path = build_model(cfg).eval(), str(tmp_path / "edge.onnx")
    export_onnx(network, path, describe_network(cfg, network, [{"id": 0, "name": "thing"}]))
    edge, picture = OnnxEdge(path), np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    inputs = make_input(picture, cfg)
    (expected,) = network.edge_features([inputs])
    found = edge.compute(picture)
    assert found.sizes == expected.sizes
    np.testing.assert_allclose(found.tensors[0], expected.tensors[0].numpy(), atol=1e-4)
    shown = get_pixels(inputs, cfg)
    assert shown.shape[2] == 3 and (shown == shown[..., :1]).all()


def test_an_image_may_keep_its_size():
    assert find_resized_size(5, 7, {"min_size": 0, "max_size": 3}) == (5, 7)


@pytest.mark.parametrize(
    ("kind", "overrides", "expected"),
    [
        ("msfc", {}, {"multiple": 32, "value": 0.0}),
        ("baf", {"MODEL.YOLOV3.LETTERBOX": 0}, {"multiple": 32, "value": 0.5}),
        ("baf", {"MODEL.YOLOV3.LETTERBOX": 160}, {"side": 160, "value": 0.5, "position": "middle"}),
        ("tasks", {}, {"multiple": 16, "value": 0.0}),
    ],
)
def test_padding_is_told(kind, overrides, expected):
    path, settings = networks.KINDS[kind]
    cfg = setup_config(path, networks.listed({**settings, **overrides}))
    network, settings = build_model(cfg).eval(), describe_input(cfg)
    assert onnx_export.find_padding(network, settings) == {"padding": expected}
    for size in ((64, 96), (33, 97), (1, 100)):
        image = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.float32)
        found = pad_image(normalize_image(image, settings), expected)
        wanted = network.normalized_images([{"image": torch.from_numpy(image)}]).tensor[0]
        np.testing.assert_array_equal(found, wanted.numpy())


def test_an_own_way_to_prepare_images_is_not_told(monkeypatch):
    cfg = networks.config_of("msfc")
    network = build_model(cfg).eval()
    ours = network.network.preprocess_image

    def brighter(records):
        return ours([{**record, "image": record["image"] + 1} for record in records])

    monkeypatch.setattr(network.network, "preprocess_image", brighter)
    assert onnx_export.find_padding(network, describe_input(cfg)) == {}


def test_an_image_larger_than_its_square_is_refused():
    with pytest.raises(ValueError, match="90 x 60 pixels does not fit into the network's square of 64"):
        pad_image(np.zeros((3, 60, 90), np.float32), {"side": 64, "value": 0.0})


# ---- quantizing ------------------------------------------------------------------------------------

LATENTS = {
    "usual": lambda rng: rng.normal(0, 1, (5, 6, 7)),
    "one value": lambda rng: np.full((3, 4, 5), 0.3),
    "zeros": lambda rng: np.zeros((3, 4, 5)),
    "on borders": lambda rng: rng.integers(-8, 9, (4, 5, 6)) / 8,
    "one channel is constant": lambda rng: np.stack([np.full((3, 4), 2.0), rng.normal(size=(3, 4))]),
    "beyond float16": lambda rng: rng.normal(0, 1e6, (2, 3, 4)),
    "tiny": lambda rng: rng.normal(0, 1e-9, (2, 3, 4)),
}


@pytest.mark.parametrize("name", LATENTS)
@pytest.mark.parametrize("quantizer", sorted(name for name, _ in QUANTIZER_REGISTRY))
def test_arrays_are_quantized_as_tensors(name, quantizer):
    y = LATENTS[name](np.random.default_rng(1)).astype(np.float32)
    chosen = build_quantizer(quantizer)
    for bits in (2, 5, 8, 10, 16):
        symbols, low, high = chosen.quantize(y, bits)
        expected = chosen.quantize(torch.from_numpy(y), bits)
        assert symbols.dtype == (np.uint8 if bits <= 8 else np.uint16)
        np.testing.assert_array_equal(symbols, expected[0].numpy())
        for ours, theirs in zip((low, high), expected[1:], strict=True):
            assert ours.dtype == np.float32 and ours.shape == tuple(theirs.shape)
            assert ours.tobytes() == theirs.numpy().tobytes()


def test_functions_of_arrays_have_the_names_of_those_of_tensors():
    assert set(arrays.__all__) - {"round_to_float16_below"} <= set(quantization.__all__)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(value):
    y = np.zeros((2, 3, 4), np.float32)
    y[1, 2, 3] = value
    for quantizer, _ in QUANTIZER_REGISTRY:
        with pytest.raises(ValueError, match="cannot quantize: the features contain NaN or infinite"):
            build_quantizer(quantizer).quantize(y, 4)


# ---- coding ----------------------------------------------------------------------------------------

CODECS = {
    "raw": {},
    "raw float32": {"NAME": "raw", "BITS": 32},
    "png": {"EFFORT": 3},
    "jpegxl": {"BITS": 10, "QUANTIZER": "channel"},
    "jpegxl lossy": {"NAME": "jpegxl", "BITS": 8, "QUALITY": 2.0, "QUANTIZER": "tensor"},
    "jpegls": {"QUANTIZER": "narrow", "NARROW": 0.6},
    "jpeg": {"BITS": 8, "QUALITY": 30},
    "avif": {"BITS": 6},
    "hevc": {"BITS": 4},
    "learned": {"BITS": 3, "LEARNED.HYPER": 2},
    "variable_rate": {"BITS": 5, "QUANTIZER": "tensor"},
    "deviation": {"NAME": "raw", "QUANTIZER": "deviation", "DEVIATIONS": 1.5},
}


def build_both(name):
    """(codec, codec of arrays) by their settings, through what an export tells."""
    settings = {"NAME": name, "BITS": 4, **CODECS[name]}
    keys = {f"MODEL.FEATCOMP.CODEC.{key}": value for key, value in settings.items()}
    network = networks.build(networks.MSFC, networks.listed({**networks.TINY, **keys}), 0)
    codec = network.feature_codec
    generator = torch.Generator().manual_seed(0)
    for parameter in codec.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    codec.train().eval()  # integers follow
    cfg = setup_config(networks.MSFC, networks.listed({**networks.TINY, **keys}))
    about = {**onnx_export.describe_codec(codec), "codec": settings["NAME"]}
    return codec, build_array_codec(about, dict(cfg.MODEL.FEATCOMP.CODEC), "edge.onnx")


@pytest.mark.parametrize("name", CODECS)
def test_arrays_are_coded_to_the_same_bytes(name):
    if name == "hevc":
        pytest.importorskip("av")
    codec, light = build_both(name)
    rng = np.random.default_rng(0)
    smooth = np.add.accumulate(rng.normal(0, 0.1, (4, 9, 14)), axis=2).astype(np.float32)
    constant = np.stack([np.full((9, 14), 0.25, np.float32), *smooth[:3]])
    noise = rng.uniform(-1, 1, (4, 3, 5)).astype(np.float32)  # fixed length is shorter
    for y in (smooth, constant, noise):
        for rate in (0.0, 0.4, 1.0) if codec.rate is not None else (None,):
            if rate is not None:
                codec.rate = light.rate = rate
            assert light.compress([y]) == codec.compress([torch.from_numpy(y)])
            if codec.bits <= 16:
                symbols, *_ = codec._quantize_latent(torch.from_numpy(y), 0)
                assert np.array_equal(light.find_symbols(y, 0, like=y), symbols.numpy())


def test_symbols_are_compared_as_they_are_sent(tmp_path):
    """Of an edge in 8 bits: at the rate of the codec, whose step sizes are larger than the finest."""
    codec, light = build_both("variable_rate")
    codec.rate = light.rate = 0.8
    first, noise = np.random.default_rng(0).uniform(-1, 1, (2, 4, 3, 5)).astype(np.float32)
    first.flat[:2] = -1, 1
    noise.flat[:2] = 0
    latents = first, np.clip(first + 0.2 * noise, -1, 1)  # of one range
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.png")
    edges = [
        types.SimpleNamespace(
            feature_codec=light,
            compute=lambda picture, y=y: types.SimpleNamespace(tensors=[y]),
            encode=lambda features: types.SimpleNamespace(to_bytes=lambda: b"1234"),
        )
        for y in latents
    ]
    one, other = (codec._quantize_latent(torch.from_numpy(y), 0)[0] for y in latents)
    expected = int((one != other).sum())
    found = onnx_int8._compare(*edges, [str(tmp_path / "a.png")])
    assert found == (expected, 60, 4, 4, 1) and 0 < expected < 30


def test_settings_that_cannot_be(tmp_path):
    cfg = networks.config_of("msfc")
    settings = {**cfg.MODEL.FEATCOMP.CODEC, "TARGET_KB": 1.0}
    about = {"bits": "4", "codec": "raw", "quantizer": "fixed", "value_range": "[-1.0, 1.0]"}
    with pytest.raises(ValueError, match="TARGET_KB is 1, but codec 'raw' has one rate"):
        build_array_codec(about, settings, "edge.onnx")
    settings["TARGET_KB"] = 0.0
    with pytest.raises(ValueError, match=r"'edge\.onnx' cannot be used without PyTorch: unknown"):
        build_array_codec({**about, "codec": "mine"}, settings, "edge.onnx")


def test_overrides():
    config = {"MODEL": {"WEIGHTS": "", "DEVICE": "cuda", "FEATCOMP": {"INPUT_SIZE": [3, 4]}}}
    config["MODEL"]["FEATCOMP"]["CODEC"] = {"RATE": 1.0, "TARGET_KB": 0.0, "BITS": 4, "QUALITY": None}
    codec, same = config["MODEL"]["FEATCOMP"]["CODEC"], "MODEL.FEATCOMP.CODEC."
    accepted = ["MODEL.WEIGHTS", "a.onnx", "MODEL.DEVICE", "cpu", "MODEL.FEATCOMP.INPUT_SIZE", "(3, 4)"]
    accepted += [
        same + "BITS",
        "4",
        same + "QUALITY",
        "None",
        same + "RATE",
        "0.5",
        same + "TARGET_KB",
        "3",
    ]
    onnx_edge._apply(config, accepted, "edge.onnx")
    assert (codec["RATE"], codec["TARGET_KB"]) == (0.5, 3)
    onnx_edge._apply(config, [same + "RATE", "1e-2", "MODEL.WEIGHTS", "a: b: c"], "edge.onnx")
    assert codec["RATE"] == 0.01  # as where PyTorch reads it
    for pair, words in [
        ((same + "BITS", "5"), "BITS is 4 in 'edge.onnx', where only"),
        (("MODEL.FEATCOMP.INPUT_SIZE", "(3, 5)"), "INPUT_SIZE is"),
        (("MODEL.DEVICE", "cuda"), "computed on the CPU"),
        ((same + "RATE", "fast"), "RATE must be a number"),
        ((same + "TARGET_KB", "{"), "TARGET_KB must be a number"),
        (("MODEL.NOTHING", "1"), "no key MODEL.NOTHING"),
        (("MODEL.WEIGHTS.MORE", "1"), "no key MODEL.WEIGHTS.MORE"),
    ]:
        with pytest.raises(ValueError, match=words):
            onnx_edge._apply(config, pair, "edge.onnx")


def test_files_that_are_none(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(FileNotFoundError, match="no file"):
        OnnxEdge(str(tmp_path / "edge.onnx"))
    (tmp_path / "edge.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match="no ONNX file that onnxruntime can read"):
        OnnxEdge(str(tmp_path / "edge.onnx"))
    onnx = pytest.importorskip("onnx")
    value = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["image"], ["y"])
    graph = onnx.helper.make_graph(
        [node], "g", [value], [onnx.helper.make_tensor_value_info("y", 1, [1])]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "edge.onnx")
    with pytest.raises(ValueError, match="holds no edge network of featcomp export --onnx"):
        OnnxEdge(str(tmp_path / "edge.onnx"))
