"""BaF and its anchors, on YOLO-v3-tiny; layer 12 on YOLO-v3."""

import json

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_model

from d2_featcomp.codecs import BitstreamError, FeatureBitstream
from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import format_channel_order, read_channel_order, split_network
from d2_featcomp.modeling.checkpoint_names import make_saved_name
from d2_featcomp.modeling.conv_layer import ConvLayer
from d2_featcomp.modeling.split_point import InsideLayer
from d2_featcomp.modeling.splits import BaF, BaFPredictor
from d2_featcomp.ops import consolidate, dequantize_uniform, minmax_range, quantize_uniform

ENABLED = ("MODEL.FEATCOMP.ENABLED", True)
SCORE = ("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0)


@pytest.fixture
def build_baf(build_yolo):
    """A cut YOLO-v3 with a channel order, and norms with random statistics."""

    def build(*overrides, order=True, **more):
        network = build_yolo(*ENABLED, *SCORE, *overrides, **more)
        generator = torch.Generator().manual_seed(5)
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                for values, low, high in (
                    (module.weight, 0.5, 1.5),
                    (module.bias, -0.2, 0.2),
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                ):
                    values.data.uniform_(low, high, generator=generator)
        split = network.feature_split
        if order and isinstance(split, BaF):
            split.set_channel_order(torch.randperm(split.layer.out_channels, generator=generator))
        return network

    return build


def record(height=60, width=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": F.avg_pool2d(image.float(), 5, 1, 2), "height": 2 * height, "width": 2 * width}


# ---- where it is cut -------------------------------------------------------------------------------


def test_layer_12_of_yolov3_is_that_of_the_paper():
    cfg = setup_config("configs/baf_yolov3.yaml", ["MODEL.DEVICE", "cpu"])
    network = build_model(cfg).eval()
    split = network.feature_split
    assert split.layer.number == cfg.MODEL.FEATCOMP.LAYER == 12
    darknet = network.backbone.backbone
    conv = darknet.layers[12]
    assert (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride) == (
        128,
        256,
        (3, 3),
        (2, 2),
    )
    assert darknet.list_split_layers() == [0, 1, 5, 12]
    with torch.no_grad():
        x = darknet.compute_input(12, torch.zeros(1, 3, 512, 512))
        assert split.layer(x).shape == (1, 256, 64, 64)
    assert split.reduced_shapes((512, 512)) == [(64, 64, 64)]
    assert [conv.out_channels for conv in split.predictor.convs] == [128] * 4
    assert split.predictor.scale == 2


@pytest.mark.parametrize("config", ["configs/quick/yolov3_tiny.yaml", "configs/baf_yolov3.yaml"])
def test_what_is_cut_and_put_together_is_the_network(build_yolo, config):
    backbone = build_yolo("MODEL.FEATCOMP.ENABLED", False, config=config).backbone
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = backbone(images)
        for number in backbone.list_split_layers():
            layer = ConvLayer(backbone, number)
            z = layer(backbone.compute_input(number, images))
            assert z.shape[-2:] == tuple(side // backbone.find_stride(number) for side in (64, 96))
            found = backbone.resume(number, layer.activate(z))
            assert list(found) == list(expected)
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-4)
            some = torch.tensor([3, 0, 7])
            torch.testing.assert_close(
                layer(backbone.compute_input(number, images), some), z[:, some], rtol=1e-4, atol=1e-5
            )


@pytest.mark.parametrize("number", [1, 7, 10, 12, 99, -1])
def test_layers_that_cannot_be_cut_are_refused(build_yolo, number):
    """Pools, layers after an output, and what is no layer."""
    with pytest.raises(ValueError, match=r"MODEL\.FEATCOMP\.LAYER .* layers 0, 2, 4, 6, 8"):
        build_yolo(*ENABLED, "MODEL.FEATCOMP.LAYER", number)


def test_backbones_that_cannot_be_cut_are_refused(small_config):
    with pytest.raises(ValueError, match="FPN cannot be split inside"):
        build_model(small_config(MODEL__FEATCOMP__SPLIT="BaF"))


# ---- inference -------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [4, 8])
def test_the_cloud_gets_detections_from_the_bytes_alone(build_baf, layer):
    overrides = ("MODEL.FEATCOMP.LAYER", layer, "MODEL.FEATCOMP.BAF.CHANNELS", 16)
    edge, cloud = build_baf(*overrides), build_baf(*overrides)
    cloud.fingerprint()  # looks once at what the edge reads
    cloud.backbone.backbone.compute_input = None  # the cloud must not run it
    records = [record(), record(100, 64, seed=1)]
    streams = [FeatureBitstream.from_bytes(s.to_bytes()) for s in edge.edge_inference(records)]
    for found, expected, stream in zip(
        cloud.cloud_inference(streams), edge(records), streams, strict=True
    ):
        assert len(expected["instances"]) > 0
        assert torch.equal(found["instances"].pred_boxes.tensor, expected["instances"].pred_boxes.tensor)
        stream = found["bitstream"]
        channels, side = 2 ** (4 + layer // 2), 256 // 2 ** (layer // 2)
        assert stream.description.shapes == ((16, side, side),)
        assert stream.feature_elements == channels * side * side
        assert stream.quantizer == "channel" and stream.side_info_bits == 16 * 32
    image = found["instances"].image_size
    assert image == (200, 128)


def test_the_edge_runs_only_what_it_sends(build_baf):
    network = build_baf()
    expected = network.edge_inference([record()])[0].to_bytes()
    number = network.feature_split.layer.number
    for module in [
        *network.backbone.backbone.layers[number + 1 :],
        network.head,
        network.feature_split.predictor,
    ]:
        module.forward = None
    assert network.edge_inference([record()])[0].to_bytes() == expected
    network.accelerate("fused")
    computed = []
    hook = torch.nn.functional.conv2d

    def conv2d(x, weight, *more):
        computed.append(len(weight))
        return hook(x, weight, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "conv2d", conv2d)
        network.edge_inference([record()])
    assert computed[-1] == network.feature_split.channels


def test_restoring_is_the_paper_step_by_step(build_baf):
    """Fig. 2 and eq. 6, written out."""
    network = build_baf("MODEL.FEATCOMP.BAF.CHANNELS", 8, "MODEL.FEATCOMP.LAYER", 6)
    split, darknet = network.feature_split, network.backbone.backbone
    conv = darknet.layers[6]
    norm, sent = conv.norm, split.order[:8]
    images = network.normalized_images([record()]).tensor
    with torch.no_grad():
        x = darknet.compute_input(6, images)
        z = norm(F.conv2d(x, conv.weight, padding=1))
        low, high = minmax_range(z[0, sent], per_channel=True)
        received = dequantize_uniform(quantize_uniform(z[0, sent], 6, low, high), 6, low, high)[None]
        wide = (norm.running_var + norm.eps).sqrt()[sent, None, None]
        mean = norm.running_mean[sent, None, None]
        weight, bias = norm.weight[sent, None, None], norm.bias[sent, None, None]
        h = (received - bias) / weight * wide + mean
        for number in range(3):
            h = split.predictor.convs[number](h)
            slope = split.predictor.activations[number].weight[:, None, None]
            h = torch.where(h >= 0, h, slope * h)
        predicted = norm(F.conv2d(split.predictor.convs[3](h), conv.weight, padding=1))
        step = (high - low) / 63
        expected = predicted.clone()
        ends = low[None], high[None]
        expected[:, sent] = consolidate(predicted[:, sent], received, step, *ends)
        for end, least in zip(ends, (True, False), strict=True):  # eq. 6 does not leave the range
            beyond = expected[:, sent] < end - 1e-5 if least else expected[:, sent] > end + 1e-5
            assert not beyond.any()
        found = split.restore([received], None, [step])["z"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(found[:, sent], predicted[:, sent], atol=1e-3)
        torch.testing.assert_close(split.restore([received], None)["z"], predicted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("overrides", [(), ("MODEL.FEATCOMP.BAF.CONSOLIDATE", False)])
def test_received_values_are_kept_to_half_a_step_by_consolidation(build_baf, overrides):
    network = build_baf("MODEL.FEATCOMP.BAF.CHANNELS", 256, "MODEL.FEATCOMP.CODEC.BITS", 4, *overrides)
    seen, darknet = [], network.backbone.backbone
    darknet.resume, resume = lambda n, y: seen.append(y) or resume(n, y), darknet.resume
    network([record()])
    with torch.no_grad():
        images = network.normalized_images([record()]).tensor
        z = network.feature_split.layer(darknet.compute_input(8, images))
    y = network.feature_split.layer.activate(z)
    span = z.amax((2, 3), keepdim=True) - z.amin((2, 3), keepdim=True)
    within = ((seen[-1] - y).abs() <= 1.02 * span / 15).all()
    assert bool(within) == (not overrides)


def test_symbols_that_count_from_the_middle_say_nothing_of_the_ends(build_baf):
    """With few of them the values that were quantized reach beyond the decoded ones."""
    variable = ("MODEL.FEATCOMP.CODEC.NAME", "variable_rate", "MODEL.FEATCOMP.CODEC.BITS", 6)
    found = {}
    for name, overrides in {"min-max": (), "variable_rate": variable}.items():
        network = build_baf("MODEL.FEATCOMP.BAF.CHANNELS", 4, *overrides)
        split = network.feature_split
        y_hat = torch.zeros(1, 4, 6, 8)
        with torch.no_grad():
            predicted = split.restore([y_hat], None)["z"][:, split.latent_channels]
            restored = split.restore([y_hat], None, [torch.tensor(1e3)])["z"][:, split.latent_channels]
        found[name] = torch.equal(restored, predicted)
    assert found == {"min-max": False, "variable_rate": True}


def test_all_channels_as_floats_are_the_uncut_network(build_baf, build_yolo):
    network = build_baf(
        *("MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit"),
        *("MODEL.FEATCOMP.CODEC.NAME", "raw", "MODEL.FEATCOMP.CODEC.BITS", 32),
    )
    uncut = build_yolo("MODEL.FEATCOMP.ENABLED", False, *SCORE)
    uncut.load_state_dict(network.state_dict())
    found = network([record()])[0]
    with torch.no_grad():
        expected = uncut([record()])[0]["instances"]
    assert len(expected) > 0
    torch.testing.assert_close(found["instances"].scores, expected.scores, rtol=1e-4, atol=1e-5)
    stream = found["bitstream"]
    assert stream.payload_bits == 32 * stream.feature_elements == 32 * 256 * 16 * 16


def test_another_order_of_channels_is_another_model(build_baf):
    edge, cloud = build_baf(), build_baf()
    streams = edge.edge_inference([record()])
    cloud.feature_split.set_channel_order(cloud.feature_split.order.flip(0))
    with pytest.raises(BitstreamError, match="another model"):
        cloud.cloud_inference(streams)
    # Deeper layers and the predictor are the cloud's own affair.
    edge.feature_split.predictor.convs[0].bias.data += 1
    edge.backbone.backbone.layers[12].weight.data += 1
    assert len(edge.cloud_inference(streams)) == 1


def test_without_an_order_nothing_is_sent(build_baf):
    with pytest.raises(ValueError, match="not known which channels"):
        build_baf(order=False).edge_inference([record()])


# ---- settings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("MODEL.FEATCOMP.BAF.CHANNELS", 0), "layer 8 has 256 channels"),
        (("MODEL.FEATCOMP.BAF.CHANNELS", 257), "layer 8 has 256 channels"),
        (("MODEL.FEATCOMP.BAF.HIDDEN_CHANNELS", 0), "HIDDEN_CHANNELS"),
        (("MODEL.FEATCOMP.BAF.TRAIN_BITS", (4, 1)), "TRAIN_BITS: bit depth 1"),
        (("MODEL.FEATCOMP.CODEC.NAME", "jpeg420", "MODEL.FEATCOMP.CODEC.BITS", 8), "colour images"),
        (("MODEL.FEATCOMP.SPLIT", "ImageSplit"), "BITS is 6"),
        (("MODEL.FEATCOMP.CODEC.QUANTIZER", "fixed"), "own range"),
    ],
)
def test_settings_out_of_range_are_refused(build_yolo, overrides, words):
    with pytest.raises(ValueError, match=words):
        build_yolo(*ENABLED, *overrides)


def test_channels_that_fill_no_square_are_noted(build_baf, caplog):
    with caplog.at_level("INFO", "d2_featcomp"):
        build_baf("MODEL.FEATCOMP.BAF.CHANNELS", 64)
        assert "no power of two" not in caplog.text
        network = build_baf("MODEL.FEATCOMP.BAF.CHANNELS", 48)
    assert "48 is no power of two" in caplog.text
    assert network([record()])[0]["bitstream"].description.shapes[0][0] == 48


def test_files_of_channel_orders(tmp_path, build_yolo):
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "order.json"
    path.write_text(format_channel_order(8, order, torch.rand(256), 10))
    assert torch.equal(read_channel_order(str(path), layer=8, channels=256), order)
    assert path.stat().st_size < 10_000
    named = ("MODEL.FEATCOMP.BAF.CHANNEL_ORDER", path)
    assert torch.equal(build_yolo(*ENABLED, *named).feature_split.order, order)
    for damaged, words in (
        ("{", "no file of tools/select_channels.py"),
        ("[]", "no file of tools/select_channels.py"),
        (json.dumps({"layer": 8, "order": ["x"]}), "no file of tools/select_channels.py"),
        (json.dumps({"layer": 6, "order": order.tolist()}), "for layer 6, not for layer 8"),
        (json.dumps({"layer": 8, "order": order.tolist()[1:]}), "does not order the 256"),
        (json.dumps({"layer": 8, "order": [0] * 256}), "does not order the 256"),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=words):
            build_yolo(*ENABLED, *named)
    with pytest.raises(OSError, match="nowhere"):
        build_yolo(*ENABLED, "MODEL.FEATCOMP.BAF.CHANNEL_ORDER", tmp_path / "nowhere.json")


# ---- training --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["distill", "task", "both"])
def test_gradients_reach_the_predictor_alone_and_norms_stay(build_baf, loss, make_record):
    network = build_baf("MODEL.FEATCOMP.LOSS", loss, "MODEL.FEATCOMP.FREEZE_TASK_NETWORK", True).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    inputs = [make_record(64, 96, seed) for seed in range(2)]
    losses = network(inputs)
    assert ("loss_distill" in losses) == (loss != "task")
    assert ("loss_box" in losses) == (loss != "distill")
    sum(losses.values()).backward()
    parameters = {make_saved_name(name): p for name, p in network.named_parameters()}
    moved = {name for name, p in parameters.items() if p.grad is not None}
    assert moved == {name for name in parameters if name.startswith("feature_split.predictor.")}
    assert all(p.grad.abs().sum() > 0 for p in network.feature_split.predictor.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_loss_is_eq_7_on_quantized_channels_without_eq_6(build_baf, make_record):
    network = build_baf(
        *("MODEL.FEATCOMP.LOSS", "distill", "MODEL.FEATCOMP.FREEZE_TASK_NETWORK", True),
        *("MODEL.FEATCOMP.BAF.CHANNELS", 16, "MODEL.FEATCOMP.CODEC.BITS", 2),
    ).train()
    inputs = [make_record(64, 96, seed) for seed in range(2)]
    found = network(inputs)["loss_distill"].item()
    split, sent = network.feature_split, network.feature_split.order[:16]
    with torch.no_grad():
        z = split.layer(
            network.backbone.backbone.compute_input(8, network.normalized_images(inputs).tensor)
        )
        received = []
        for image in z[:, sent]:
            low, high = minmax_range(image, per_channel=True)
            symbols = quantize_uniform(image, 2, low, high)
            received.append(dequantize_uniform(symbols, 2, low, high))
        restored = split.restore([torch.stack(received)], None)["z"]
        error = split.layer.activate(restored) - split.layer.activate(z)
        assert found == pytest.approx((error.square() + 1e-6).sqrt().mean().item(), rel=1e-4)


def test_each_image_is_quantized_with_one_of_the_depths(build_baf):
    codec = build_baf("MODEL.FEATCOMP.BAF.TRAIN_BITS", (2, 3)).feature_codec.train()
    y = torch.linspace(0, 1, 81).view(1, 1, 9, 9).repeat(20, 64, 1, 1)
    torch.manual_seed(0)
    (y_hat,), _ = codec([y])
    assert {len((image[0] * 1e3).round().unique()) for image in y_hat} == {4, 8}


@pytest.mark.parametrize("scale", [1, 2])
def test_a_predictor_starts_as_the_convolution_that_it_is_given(scale):
    torch.manual_seed(0)
    predictor = BaFPredictor(in_channels=5, out_channels=6, hidden_channels=9, scale=scale)
    weight, bias, x = torch.randn(6, 5, 3, 3), torch.randn(6), torch.randn(2, 5, 7, 8)
    predictor.start_linear(weight, bias)
    enlarged = x.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    expected = F.conv2d(enlarged, weight, bias, padding=1)
    torch.testing.assert_close(predictor(x), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="HIDDEN_CHANNELS is 4"):
        BaFPredictor(in_channels=5, out_channels=6, hidden_channels=4, scale=1).start_linear(
            weight, bias
        )


def test_standardizing_takes_the_scale_of_channels_out():
    torch.manual_seed(0)
    predictor = BaFPredictor(in_channels=3, out_channels=2, hidden_channels=4, scale=1)
    x = torch.randn(1, 3, 6, 6)
    expected = predictor(x)
    mean, deviation = torch.tensor([1.0, -20.0, 0.0]), torch.tensor([2.0, 30.0, 0.1])
    predictor.standardize(mean, deviation)
    found = predictor(x * deviation[:, None, None] + mean[:, None, None])
    # At the edges zeros are no longer means.
    torch.testing.assert_close(found[..., 4:-4, 4:-4], expected[..., 4:-4, 4:-4], rtol=1e-3, atol=1e-3)


def test_cutting_by_hand(build_yolo):
    """Without a config, as another project would."""
    from d2_featcomp.codecs import FeatureCodec, build_image_codec

    network = build_yolo("MODEL.FEATCOMP.ENABLED", False)
    point = InsideLayer(network.backbone, 4, activated=False)
    split = BaF(layer=point.layer, stride=4, channels=8, hidden_channels=32)
    split.set_channel_order(torch.arange(64))
    codec = FeatureCodec(image_codec=build_image_codec("jpegls", bits=6), quantizer="channel")
    settings = {"split_point": point, "feature_split": split, "feature_codec": codec}
    cut = split_network(network, loss="distill", **settings).eval()
    (found,) = cut([record()])
    assert found["bitstream"].split == "BaF" and found["bitstream"].codec == "jpegls"
    assert found["instances"].image_size == (120, 180)
