"""The split that sends the image itself: the anchor of all others."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

ENABLED = ("MODEL.FEATCOMP.ENABLED", True)
SCORE = ("MODEL.YOLOV3.SCORE_THRESH_TEST", 0.0)


def record(height=60, width=90, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": F.avg_pool2d(image.float(), 5, 1, 2), "height": 2 * height, "width": 2 * width}


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_images_are_sent_unpadded_and_the_cloud_runs_the_network(build_yolo, order):
    settings = (
        *("MODEL.FEATCOMP.SPLIT", "ImageSplit", "MODEL.FEATCOMP.CODEC.BITS", 8),
        *("MODEL.FEATCOMP.CODEC.NAME", "png", "INPUT.FORMAT", order),
    )
    network = build_yolo(*ENABLED, *SCORE, *settings)
    uncut = build_yolo("MODEL.FEATCOMP.ENABLED", False, *SCORE)
    sent = record()
    sent["image"] = sent["image"].round()
    (found,) = network([sent])
    with torch.no_grad():
        (expected,) = uncut([sent])
    assert torch.equal(found["instances"].scores, expected["instances"].scores)
    stream = found["bitstream"]
    assert stream.feature_elements == 3 * 60 * 90
    assert stream.description.shapes == ((3, 60, 90),)
    (pixels,) = network.decode(stream)
    red = 0 if order == "RGB" else 2
    assert np.array_equal(pixels[0].numpy(), sent["image"][red].numpy())


def test_any_network_can_send_its_image(small_model, make_record):
    model = small_model(
        MODEL__FEATCOMP__SPLIT="ImageSplit",
        MODEL__FEATCOMP__CODEC__NAME="raw",
        MODEL__FEATCOMP__CODEC__BITS=8,
    )
    sent = make_record()
    found = model([sent])[0]
    assert found["bitstream"].payload_bits == 8 * sent["image"].numel()
    with torch.no_grad():
        expected = model.network([sent])[0]
    assert torch.equal(found["instances"].scores, expected["instances"].scores)


def test_images_in_gray_are_refused(build_yolo):
    settings = (
        *("MODEL.FEATCOMP.SPLIT", "ImageSplit", "MODEL.FEATCOMP.CODEC.BITS", 8),
        *("MODEL.PIXEL_MEAN", [0.0], "MODEL.PIXEL_STD", [255.0]),
    )
    words = "PIXEL_MEAN has 1 channels: ImageSplit codes images of three"
    with pytest.raises(ValueError, match=words):
        build_yolo(*ENABLED, *settings)
