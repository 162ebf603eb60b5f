import math

import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2_featcomp.codecs import BitstreamError
from d2_featcomp.modeling.yolo.decoding import decode_predictions
from d2_featcomp.modeling.yolo.losses import compute_yolo_losses

ANCHORS = [torch.tensor([[60.0, 60.0], [90.0, 60.0]]), torch.tensor([[10.0, 20.0], [20.0, 10.0]])]
STRIDES = [32, 16]
SIZE = (64, 96)
CLASSES = 3


def random_raw(seed=0, images=2):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(images, 2 * (5 + CLASSES), SIZE[0] // stride, SIZE[1] // stride, generator=generator)
        for stride in STRIDES
    ]


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def literal_boxes(raw, image):
    """Every prediction by hand: (scale, anchor, row, column) -> (cx, cy, w, h)."""
    boxes = {}
    for scale, (x, anchors, stride) in enumerate(zip(raw, ANCHORS, STRIDES, strict=True)):
        for a, (width, height) in enumerate(anchors.tolist()):
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    t = x[image, a * (5 + CLASSES) : (a + 1) * (5 + CLASSES), row, column].tolist()
                    boxes[scale, a, row, column] = (
                        (sigmoid(t[0]) + column) * stride,
                        (sigmoid(t[1]) + row) * stride,
                        width * math.exp(t[2]),
                        height * math.exp(t[3]),
                    )
    return boxes


def test_predictions_are_decoded_as_in_the_paper():
    raw = random_raw()
    expected = literal_boxes(raw, image=1)
    for scale, x in enumerate(raw):
        boxes, objectness, logits = decode_predictions(x, ANCHORS[scale], STRIDES[scale])
        wanted = torch.tensor([box for key, box in expected.items() if key[0] == scale])
        torch.testing.assert_close(boxes[1], wanted, rtol=1e-5, atol=1e-4)
        assert objectness[1, 0] == x[1, 4, 0, 0]
        assert logits[1, 0].tolist() == x[1, 5 : 5 + CLASSES, 0, 0].tolist()


def overlap(a, b):
    """Intersection over union of two (cx, cy, w, h)."""
    sides = [
        max(
            0.0,
            min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2)
            - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2),
        )
        for i in (0, 1)
    ]
    both = sides[0] * sides[1]
    return both / (a[2] * a[3] + b[2] * b[3] - both)


def literal_losses(raw, objects, threshold):
    """The losses, one prediction at a time; `objects`: for each image (cx, cy, w, h, class)."""
    loss_box = loss_objectness = loss_cls = 0.0
    for image, found in enumerate(objects):
        boxes = literal_boxes(raw, image)
        owner = {}
        for cx, cy, w, h, label in found:
            fits = {
                (s, a): overlap((0, 0, w, h), (0, 0, *anchor))
                for s, anchors in enumerate(ANCHORS)
                for a, anchor in enumerate(anchors.tolist())
            }
            s, a = max(fits, key=fits.get)
            stride, anchor = STRIDES[s], ANCHORS[s][a].tolist()
            column, row = int(cx // stride), int(cy // stride)
            owner[s, a, row, column] = label
            t = raw[s][image, a * (5 + CLASSES) : (a + 1) * (5 + CLASSES), row, column].tolist()
            error = 0.0
            for x, wanted in ((t[0], cx / stride - column), (t[1], cy / stride - row)):
                error -= wanted * math.log(sigmoid(x)) + (1 - wanted) * math.log(1 - sigmoid(x))
            for x, side, width in ((t[2], w, anchor[0]), (t[3], h, anchor[1])):
                error += (x - math.log(side / width)) ** 2 / 2
            loss_box += (2 - w * h / (SIZE[0] * SIZE[1])) * error
            for k in range(CLASSES):
                p = sigmoid(t[5 + k])
                loss_cls -= math.log(p if k == label else 1 - p)
        for (s, a, row, column), box in boxes.items():
            p = sigmoid(raw[s][image, a * (5 + CLASSES) + 4, row, column].item())
            if (s, a, row, column) in owner:
                loss_objectness -= math.log(p)
            elif all(overlap(box, object_[:4]) <= threshold for object_ in found):
                loss_objectness -= math.log(1 - p)
    n = len(objects)
    return {"loss_box": loss_box / n, "loss_objectness": loss_objectness / n, "loss_cls": loss_cls / n}


def instances(objects):
    target = Instances(SIZE)
    boxes = torch.tensor([o[:4] for o in objects]).reshape(-1, 4)
    target.gt_boxes = Boxes(
        torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1)
    )
    target.gt_classes = torch.tensor([o[4] for o in objects], dtype=torch.int64)
    return target


OBJECTS = [
    [(30.0, 30.0, 58.0, 50.0, 1), (70.0, 20.0, 12.0, 19.0, 0), (95.0, 63.0, 2.0, 2.0, 2)],
    [],
]


@pytest.mark.parametrize("threshold", [0.1, 0.5])
def test_losses_are_those_of_a_literal_reading(threshold):
    raw = random_raw(seed=3)
    arguments = {
        "anchors": ANCHORS,
        "strides": STRIDES,
        "image_size": SIZE,
        "ignore_threshold": threshold,
    }
    found = compute_yolo_losses(raw, [instances(objects) for objects in OBJECTS], **arguments)
    expected = literal_losses(raw, OBJECTS, threshold)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def losses_of(raw, *objects):
    return compute_yolo_losses(
        raw,
        [instances(list(objects))],
        anchors=ANCHORS,
        strides=STRIDES,
        image_size=SIZE,
        ignore_threshold=0.5,
    )


def zeros():
    return [torch.zeros_like(x[:1]).requires_grad_() for x in random_raw()]


def test_losses_by_hand():
    """An object of 60 x 60 pixels, the first anchor's shape, in the middle of the first cell; tx = 6,
    tw = 1, all else 0.

    It covers 3600 of 6144 pixels: weight 1.4140625. Centre: -0.5 log(s) - 0.5 log(1 - s) is 3.0024757
    for s = sigmoid(6) = 0.9975274, and log 2 for ty. Size: half of 1. Gradient of tx: 1.4140625 times
    0.4975274, as in Darknet's code (the target minus sigmoid(tx), not times the sigmoid's slope).
    Objectness: 60 predictions; the wider anchor (2/3 of the object) is ignored. Classes: 3 log 2.
    """
    raw = zeros()
    with torch.no_grad():
        raw[0][0, 0, 0, 0], raw[0][0, 2, 0, 0] = 6.0, 1.0
    losses = losses_of(raw, (16.0, 16.0, 60.0, 60.0, 1))
    log2 = 0.69314718
    assert losses["loss_box"].item() == pytest.approx(1.4140625 * (3.0024757 + log2 + 0.5), rel=1e-5)
    assert losses["loss_objectness"].item() == pytest.approx(59 * log2, rel=1e-5)
    assert losses["loss_cls"].item() == pytest.approx(3 * log2, rel=1e-5)
    sum(losses.values()).backward()
    gradient = raw[0].grad[0, : 5 + CLASSES, 0, 0].tolist()
    expected = [0.7035348, 0.0, 1.4140625, 0.0, -0.5, 0.5, -0.5, 0.5]
    assert gradient == pytest.approx(expected, abs=1e-5)
    # A centre that is far off is corrected as fast: Darknet's 0.956 for an object of 482 pixels.
    raw = zeros()
    with torch.no_grad():
        raw[1][0, 0, 0, 0] = 6.0
    losses_of(raw, (8.0, 8.0, 16.0, 30.125, 0))["loss_box"].backward()
    assert raw[1].grad[0, 0, 0, 0].item() == pytest.approx(0.956, abs=1e-3)


def test_two_objects_in_one_slot_give_both_classes_and_the_later_box():
    raw = zeros()
    first, second = (16.0, 16.0, 60.0, 60.0, 0), (24.0, 16.0, 60.0, 60.0, 2)
    losses = losses_of(raw, first, second)
    assert losses["loss_cls"].item() == pytest.approx(3 * 0.69314718, rel=1e-5)
    (losses["loss_cls"] + losses["loss_box"]).backward()
    slot = raw[0].grad[0, :, 0, 0].tolist()
    assert slot[5:8] == pytest.approx([-0.5, 0.5, -0.5])
    # sigmoid(tx) = 0.5 where 24 / 32 is wanted, times the weight.
    assert slot[:4] == pytest.approx([1.4140625 * (0.5 - 0.75), 0, 0, 0], abs=1e-6)
    for other in (first, second):  # the same class twice is one class
        raw = zeros()
        losses_of(raw, other, other)["loss_cls"].backward()
        assert raw[0].grad[0, 5:8, 0, 0].abs().tolist() == [0.5, 0.5, 0.5]


def test_a_class_that_the_network_does_not_have_is_refused(build_yolo):
    network = build_yolo("MODEL.YOLOV3.NUM_CLASSES", 2).train()
    target = instances([(30.0, 30.0, 20.0, 20.0, 2)])
    with pytest.raises(ValueError, match=r"MODEL.YOLOV3.NUM_CLASSES is 2, .* class 2.* at least 3"):
        network([{**record(*SIZE), "instances": target}])


def test_images_without_objects_have_losses_with_gradients():
    raw = [x.requires_grad_() for x in random_raw()]
    losses = compute_yolo_losses(
        raw,
        [instances([]), instances([])],
        anchors=ANCHORS,
        strides=STRIDES,
        image_size=SIZE,
        ignore_threshold=0.5,
    )
    assert losses["loss_box"] == losses["loss_cls"] == 0
    sum(losses.values()).backward()
    assert all(torch.isfinite(x.grad).all() for x in raw)


def record(height, width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"image": torch.randint(0, 256, (3, height, width), generator=generator).float()}


def test_images_are_put_in_the_middle_of_the_letterbox(build_yolo):
    network = build_yolo()
    batch = [record(192, 256), record(256, 101, seed=1)]
    images = network.preprocess_image(batch)
    assert images.tensor.shape == (2, 3, 256, 256)
    assert images.image_sizes == [(192, 256), (256, 101)]
    torch.testing.assert_close(images.tensor[0, :, 32:224], batch[0]["image"] / 255)
    torch.testing.assert_close(images.tensor[1, :, :, 77:178], batch[1]["image"] / 255)
    gray = images.tensor.clone()
    gray[0, :, 32:224], gray[1, :, :, 77:178] = 0.5, 0.5
    assert (gray == 0.5).all()
    with pytest.raises(ValueError, match="larger than the letterbox"):
        network.preprocess_image([record(192, 257)])


def test_without_letterbox_images_are_padded_to_whole_cells(build_yolo):
    network = build_yolo("MODEL.YOLOV3.LETTERBOX", 0)
    assert network.preprocess_image([record(65, 40)]).tensor.shape == (1, 3, 96, 64)
    with pytest.raises(ValueError, match="LETTERBOX is 100"):
        build_yolo("MODEL.YOLOV3.LETTERBOX", 100)


def other_backbone(*levels):
    """Overrides: of a ResNet, which does not say what sides must be multiples of."""
    settings = {
        "MODEL.BACKBONE.NAME": "build_resnet_backbone",
        "MODEL.RESNETS.DEPTH": 18,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
        "MODEL.RESNETS.OUT_FEATURES": list(levels),
        "MODEL.YOLOV3.ANCHORS": [[[32.0, 32.0]]] * len(levels),
        "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
        "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    }
    return [part for item in settings.items() for part in item]


@pytest.mark.parametrize("letterbox", [0, 128])
def test_other_backbones_give_the_scales(build_yolo, letterbox):
    levels = other_backbone("res3", "res4", "res5")
    network = build_yolo(*levels, "MODEL.YOLOV3.LETTERBOX", letterbox)
    images = network.preprocess_image([record(65, 40)])
    assert images.tensor.shape == ((1, 3, 128, 128) if letterbox else (1, 3, 96, 64))
    pixels = images.tensor[0] * network.pixel_std + network.pixel_mean
    torch.testing.assert_close(pixels[:, -1], torch.full_like(pixels[:, -1], 127.5))  # gray
    with torch.no_grad():
        raw = network.predict(network.backbone(images.tensor))
    assert [x.shape[-1] for x in raw] == [images.tensor.shape[-1] // stride for stride in (32, 16, 8)]
    with pytest.raises(ValueError, match="LETTERBOX is 100: it must be a multiple of 32"):
        build_yolo(*levels, "MODEL.YOLOV3.LETTERBOX", 100)
    with pytest.raises(ValueError, match=r"MODEL\.YOLOV3\.NORM is 'Batch': choose a norm of Detectron2"):
        build_yolo(*levels, "MODEL.YOLOV3.NORM", "Batch")


@pytest.mark.parametrize("levels", [("res2", "res3", "res4", "res5"), ("res3", "res5"), ("res5",)])
def test_other_numbers_of_scales_are_refused(build_yolo, levels):
    with pytest.raises(ValueError, match="two or three scales, each of half the stride"):
        build_yolo(*other_backbone(*levels))


@pytest.mark.parametrize("letterbox", [0, 256])
def test_boxes_come_back_in_pixels_of_the_original_image(letterbox, build_yolo):
    """An object whose raw prediction is made from its box is found where it was."""
    network = build_yolo("MODEL.YOLOV3.LETTERBOX", letterbox)
    width, height = 192, 96
    left, top = (32, 80) if letterbox else (0, 0)
    padded = (256, 256) if letterbox else (96, 192)
    box, stride, anchor = (40.0, 20.0, 100.0, 84.0), 32, (64.0, 64.0)
    cx, cy = (box[0] + box[2]) / 2 + left, (box[1] + box[3]) / 2 + top
    raw = [torch.full((1, 3 * 11, padded[0] // s, padded[1] // s), -20.0) for s in (32, 16)]
    raw[0].view(1, 3, 11, *raw[0].shape[-2:])[0, 1, :, int(cy // stride), int(cx // stride)] = (
        torch.tensor(
            [
                math.log((cx % stride) / (stride - cx % stride)),
                math.log((cy % stride) / (stride - cy % stride)),
                math.log((box[2] - box[0]) / anchor[0]),
                math.log((box[3] - box[1]) / anchor[1]),
                *(9.0, -9.0, -9.0, 9.0, -9.0, -9.0, -9.0),
            ]
        )
    )
    network.predict = lambda features: raw
    (output,) = network([{**record(height, width), "height": 2 * height, "width": 3 * width}])
    found = output["instances"]
    assert found.pred_classes.tolist() == [2] and found.image_size == (2 * height, 3 * width)
    expected = torch.tensor([[box[0] * 3, box[1] * 2, box[2] * 3, box[3] * 2]])
    torch.testing.assert_close(found.pred_boxes.tensor, expected, rtol=1e-4, atol=1e-2)


def test_of_two_alike_the_surer_stays_and_classes_do_not_compete(build_yolo):
    network = build_yolo()
    boxes = torch.tensor([[0.0, 0, 10, 10], [1.0, 0, 11, 10], [30.0, 0, 40, 10]])
    scores = torch.zeros(3, 6)
    scores[:, 0] = torch.tensor([0.6, 0.9, 0.3])
    scores[0, 1] = 0.5
    kept = network._select(boxes, scores, (64, 64))
    assert kept.scores.tolist() == pytest.approx([0.9, 0.5, 0.3])
    assert kept.pred_classes.tolist() == [0, 1, 0]


def test_a_network_learns_one_image_by_heart(build_yolo):
    """Losses, letterbox and detection agree: what was trained is what is found."""
    network = build_yolo("MODEL.YOLOV3.LETTERBOX", 128)
    sample = record(96, 128)
    target = Instances((96, 128))
    target.gt_boxes = Boxes(torch.tensor([[10.0, 8.0, 60.0, 66.0], [90.0, 50.0, 116.0, 80.0]]))
    target.gt_classes = torch.tensor([4, 1])
    network.train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    for _ in range(60):
        losses = network([{**sample, "instances": target}])
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        found = network([sample])[0]["instances"][:2]
    order = found.pred_classes.argsort(descending=True)
    assert found.pred_classes[order].tolist() == [4, 1]
    assert (found.pred_boxes.tensor[order] - target.gt_boxes.tensor).abs().max() < 6


@pytest.mark.parametrize("letterbox", [0, 256])
def test_cut_after_its_backbone_it_finds_the_same(letterbox, build_yolo):
    """Every output of the backbone sent as float32, and nothing else."""
    overrides = ("MODEL.YOLOV3.LETTERBOX", letterbox, "MODEL.YOLOV3.SCORE_THRESH_TEST", 0.2)
    codec = ("MODEL.FEATCOMP.CODEC.NAME", "raw", "MODEL.FEATCOMP.CODEC.BITS", 32)
    cut = ("MODEL.FEATCOMP.ENABLED", True, "MODEL.FEATCOMP.SPLIT", "PyramidSplit")
    network, split = build_yolo(*overrides), build_yolo(*overrides, *cut, *codec)
    batch = [{**record(192, 256), "height": 96, "width": 128}, record(160, 200, seed=1)]
    with torch.no_grad():
        expected = [network([image])[0]["instances"] for image in batch]
        found = split(batch)
    for one, other in zip(expected, found, strict=True):
        assert len(one) > 0
        assert torch.equal(one.pred_boxes.tensor, other["instances"].pred_boxes.tensor)
        assert torch.equal(one.scores, other["instances"].scores)
        assert one.image_size == other["instances"].image_size


def test_features_of_another_letterbox_are_refused(build_yolo):
    """Boxes would be shifted by half of the difference."""
    settings = ("MODEL.FEATCOMP.ENABLED", True, "MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit")
    edge, cloud = (build_yolo(*settings, "MODEL.YOLOV3.LETTERBOX", side) for side in (64, 96))
    streams = edge.edge_inference([record(48, 64)])
    assert len(edge.cloud_inference(streams)) == 1
    with pytest.raises(BitstreamError, match=r"padded to \(64, 64\) .*LETTERBOX, 96, pads it to"):
        cloud.cloud_inference(streams)
    corner = build_yolo(*settings, "MODEL.YOLOV3.LETTERBOX", 0)  # pads such an image as 64 does
    corner.load_state_dict(edge.state_dict())
    assert corner.edge_inference([record(48, 64)])[0].sizes == streams[0].sizes
    with pytest.raises(BitstreamError, match="fingerprint"):
        corner.cloud_inference(streams)
