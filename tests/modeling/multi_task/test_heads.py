import math

import pytest
import torch
from detectron2.layers import ShapeSpec
from torch import nn

from d2_featcomp.engine import setup_config
from d2_featcomp.modeling import (
    DisparityHead,
    ReconstructionHead,
    SegmentationHead,
    UpsamplingDecoder,
)

SHAPE = ShapeSpec(channels=256, stride=16)


@pytest.fixture(scope="module")
def cfg():
    return setup_config("configs/mtl_R34_encoder2.yaml", ["MODEL.DEVICE", "cpu"])


def widths(decoder):
    return [
        (type(layer).__name__, layer.in_channels, layer.out_channels, layer.kernel_size[0])
        for layer in decoder
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d))
    ]


@pytest.mark.parametrize(
    ("head", "least", "out"),
    [(SegmentationHead, 16, 19), (DisparityHead, 32, 1), (ReconstructionHead, 16, 3)],
)
@pytest.mark.parametrize(("channels", "stride"), [(256, 16), (512, 32)])
def test_decoders_are_those_of_the_paper(cfg, head, least, out, channels, stride):
    decoder = head(cfg, ShapeSpec(channels=channels, stride=stride)).decoder
    expected, width = [], channels
    for stage in range(int(math.log2(stride))):
        narrow = width if head is DisparityHead and stage == 0 else max(width // 2, least)
        expected += [("ConvTranspose2d", width, narrow, 2), ("Conv2d", narrow, narrow, 3)]
        width = narrow
    assert widths(decoder) == [*expected, ("Conv2d", width, out, 1)]


@pytest.mark.parametrize(
    ("head", "channels", "parameters"),
    [
        (SegmentationHead, 256, 370_723),  # in the summary that their published results begin with
        (DisparityHead, 256, 1_218_529),  # of the layers in their code
        (DisparityHead, 512, 4_889_569),
    ],
)
def test_decoders_have_as_many_parameters_as_the_authors(cfg, head, channels, parameters):
    decoder = head(cfg, ShapeSpec(channels=channels, stride=channels // 16))
    assert sum(p.numel() for p in decoder.parameters()) == parameters


def test_the_disparity_decoder_of_small_networks_is_as_narrow_as_the_others():
    cfg = setup_config("configs/quick/mtl_R34.yaml", ["MODEL.DEVICE", "cpu"])
    assert sum(p.numel() for p in DisparityHead(cfg, SHAPE).parameters()) == 379_425


def test_decoders_are_linear_unless_told_otherwise():
    settings = {"in_channels": 8, "stride": 4, "min_channels": 4, "out_channels": 2}
    linear = UpsamplingDecoder(**settings)
    x, y = torch.randn(2, 1, 8, 3, 5, generator=torch.Generator().manual_seed(0))
    zero = linear(torch.zeros_like(x))
    assert torch.allclose(linear(x + y) - zero, linear(x) + linear(y) - 2 * zero, atol=1e-5)
    assert linear(x).shape == (1, 2, 12, 20)
    bent = UpsamplingDecoder(**settings, activation="relu")
    assert sum(isinstance(layer, nn.ReLU) for layer in bent) == 4
    assert not isinstance(bent[-1], nn.ReLU)


def test_fresh_decoders_keep_the_scale_of_their_input():
    torch.manual_seed(0)
    decoder = UpsamplingDecoder(in_channels=256, stride=32, min_channels=16, out_channels=8)
    out = decoder(torch.randn(2, 256, 4, 4))
    assert 0.3 < float(out.detach().std()) < 3


@pytest.mark.parametrize("stride", [1, 6, 0])
def test_strides_that_cannot_be_decoded(stride):
    with pytest.raises(ValueError, match=f"stride {stride} cannot be decoded"):
        UpsamplingDecoder(in_channels=8, stride=stride, min_channels=4, out_channels=1)


def test_unknown_activation():
    with pytest.raises(ValueError, match="ACTIVATION is 'gelu': choose one of '', 'relu'"):
        UpsamplingDecoder(in_channels=8, stride=2, min_channels=4, out_channels=1, activation="gelu")


def test_segmentation_loss_by_hand(cfg):
    head = SegmentationHead(cfg, SHAPE)
    logits = torch.zeros(2, 19, 2, 3)
    logits[0, 4, 0, 0] = 2.0
    # Of two images, 1 x 2 and 2 x 3 pixels; one pixel to be ignored. The padding does not count.
    records = [
        {"sem_seg": torch.tensor([[4, 255]])},
        {"sem_seg": torch.zeros(2, 3, dtype=torch.int64)},
    ]
    right = math.log(math.exp(2) + 18) - 2
    expected = (right + 6 * math.log(19)) / 7
    assert float(head.loss(logits, records)) == pytest.approx(expected, rel=1e-5)


def test_disparity_loss_by_hand(cfg):
    head = DisparityHead(cfg, SHAPE)
    assert head.scale == 10
    predictions = torch.full((2, 1, 2, 2), 1.0)  # 10 pixels
    records = [
        {"disparity": torch.tensor([[10.0, 0.0], [30.0, 0.0]])},
        {"disparity": torch.tensor([[5.0]])},
    ]
    assert float(head.loss(predictions, records)) == pytest.approx((0 + 4 + 0.25) / 3)


def test_reconstruction_loss_by_hand(cfg):
    head = ReconstructionHead(cfg, SHAPE)
    predictions = torch.full((2, 3, 2, 2), 0.5)
    records = [
        {"image": torch.full((3, 1, 2), 255, dtype=torch.uint8)},
        {"image": torch.zeros(3, 2, 2, dtype=torch.uint8)},
    ]
    records[1]["image"][:] = 127
    assert float(head.loss(predictions, records)) == pytest.approx((2 * 0.5 + 4 * (0.5 - 127 / 255)) / 6)


@pytest.mark.parametrize(
    ("head", "record"),
    [
        (SegmentationHead, {"sem_seg": torch.full((2, 2), 255)}),
        (DisparityHead, {"disparity": torch.zeros(2, 2)}),
        (ReconstructionHead, {"image": torch.zeros(3, 0, 0)}),
    ],
)
def test_nothing_to_learn_from_costs_nothing(cfg, head, record):
    head = head(cfg, ShapeSpec(channels=4, stride=2))
    features = torch.randn(1, 4, 1, 1, requires_grad=True)
    loss = head.loss(head(features), [record])
    loss.backward()
    assert float(loss.detach()) == 0 and torch.isfinite(features.grad).all()


def test_classes_beyond_the_last_are_named(cfg):
    head = SegmentationHead(cfg, SHAPE)
    with pytest.raises(
        ValueError, match=r"holds class 33, but .*NUM_CLASSES is 19 and IGNORE_VALUE 255"
    ):
        head.loss(torch.zeros(1, 19, 1, 2), [{"sem_seg": torch.tensor([[33, 255]])}])


def test_missing_targets_are_named(cfg):
    with pytest.raises(ValueError, match=r"training data lack 'disparity'.*MultiTaskMapper"):
        DisparityHead(cfg, SHAPE).loss(torch.zeros(1, 1, 2, 2), [{"image": torch.zeros(3, 2, 2)}])


def test_outputs_have_the_sizes_they_promise(cfg):
    image_size, output_size = (3, 6), (6, 12)
    found = SegmentationHead(cfg, SHAPE).finish(torch.rand(19, 16, 16), image_size, output_size)
    assert found["sem_seg"].shape == (19, 6, 12)
    prediction = torch.full((1, 16, 16), 99.0)
    prediction[:, :3, :6] = 0.5
    prediction[:, 0, 0] = -3.0
    found = DisparityHead(cfg, SHAPE).finish(prediction, image_size, output_size)["disparity"]
    # 0.5 * 10 pixels of an image of half the width are 10 pixels; the padding plays no part.
    assert found.shape == (6, 12) and found.max() == 10 and found.min() == 0
    prediction = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1).expand(3, 16, 16)
    found = ReconstructionHead(cfg, SHAPE).finish(prediction, image_size, output_size)
    assert found["reconstruction"].shape == (3, 3, 6)
    assert found["reconstruction"][:, 0, 0].tolist() == [0, 0.5, 1]


def test_disparity_scale_must_be_positive():
    cfg = setup_config("configs/mtl_R34_encoder2.yaml", ["MODEL.MULTI_TASK.DISPARITY_SCALE", 0.0])
    with pytest.raises(ValueError, match=r"DISPARITY_SCALE is 0.0"):
        DisparityHead(cfg, SHAPE)
