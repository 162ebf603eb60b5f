"""projects/NanoDet: another lab's detector, and MSFC on it."""

import json
import math

import processes
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.engine import setup_config

CONFIG = "projects/NanoDet/configs/nanodet_msfc.yaml"
TINY = [
    *("MODEL.DEVICE", "cpu", "MODEL.NANODET.STEM_CHANNELS", 4, "MODEL.NANODET.CHANNELS", 8),
    *("MODEL.NANODET.NUM_CLASSES", 3, "MODEL.FEATCOMP.SSFC.CHANNELS", 4, "DATASETS.TRAIN", "()"),
]
TASK_ALONE = ("MODEL.FEATCOMP.ENABLED", False)


@pytest.fixture
def build(nanodet):
    def make(*overrides, seed=0):
        torch.manual_seed(seed)
        return build_model(setup_config(CONFIG, [*TINY, *map(str, overrides)]))

    return make


def make_records(sizes, seed=0, objects=2):
    generator = torch.Generator().manual_seed(seed)
    records = []
    for height, width in sizes:
        target = Instances((height, width))
        target.gt_boxes = Boxes(
            torch.tensor([[8.0, 8.0, 40.0, 56.0], [30.0, 4.0, 62.0, 30.0]])[:objects]
        )
        target.gt_classes = torch.tensor([0, 2])[:objects]
        image = torch.rand(3, height, width, generator=generator) * 255
        records.append({"image": image, "instances": target, "height": 2 * height, "width": 3 * width})
    return records


def test_the_pyramid_has_three_levels_of_equal_width(build):
    network = build(*TASK_ALONE)
    levels = network.backbone(torch.zeros(2, 3, 64, 96))
    assert {name: tuple(x.shape) for name, x in levels.items()} == {
        "p3": (2, 8, 8, 12),
        "p4": (2, 8, 4, 6),
        "p5": (2, 8, 2, 3),
    }
    shapes = network.backbone.output_shape()
    assert {name: (shape.channels, shape.stride) for name, shape in shapes.items()} == {
        "p3": (8, 8),
        "p4": (8, 16),
        "p5": (8, 32),
    }


def test_nanodet_g_has_its_number_of_parameters(nanodet):
    network = build_model(setup_config(CONFIG, ["MODEL.DEVICE", "meta", *map(str, TASK_ALONE)]))
    assert sum(p.numel() for p in network.parameters()) == 3786068
    assert sum(isinstance(module, torch.nn.Conv2d) for module in network.modules()) == 34


def test_distances_are_expectations_in_strides(nanodet):
    logits = torch.full((1, 4, 11), -1e4)
    for side, bins in enumerate([(2,), (3, 4), (0,), (10,)]):
        logits[0, side, list(bins)] = 0.0
    distances = nanodet.head.decode_distances(logits)
    torch.testing.assert_close(distances, torch.tensor([[2.0, 3.5, 0.0, 10.0]]))
    centres = nanodet.head.make_centres(2, 3, 16)
    assert centres[4].tolist() == [24.0, 24.0]  # second row, second column
    boxes = nanodet.head.decode_boxes(centres[4:5], 16 * distances)
    assert boxes.tolist() == [[-8.0, -32.0, 24.0, 184.0]]


def test_detections_of_predictions_made_by_hand(build):
    network = build(*TASK_ALONE).eval()
    predictions = []
    for side in (8, 4, 2):
        logits, distances = torch.full((1, side**2, 3), -20.0), torch.full((1, side**2, 4, 11), -1e4)
        distances[..., 1] = 0.0
        predictions.append((logits, distances))
    first, second = predictions[0][0][0], predictions[1][0][0]
    first[9, 1], first[10, 1], first[9, 2] = 2.0, 1.0, 0.5  # at (12, 12) and (20, 12)
    first[63, 0] = math.log(0.04 / 0.96)  # below the least score
    predictions[0][1][0, 10, 0], predictions[0][1][0, 10, 0, 2] = -1e4, 0.0  # its box begins at x = 4
    second[15, 0] = 3.0  # at (56, 56)
    features = [torch.zeros(1, 8, side, side) for side in (8, 4, 2)]
    images = network.preprocess_image(make_records([(64, 64)]))
    (found,) = network.forward_inference(images, features, predictions)
    assert found.pred_classes.tolist() == [0, 1, 2]  # of class 1 the other overlaps by 2 / 3
    expected = torch.tensor([3.0, 2.0, 0.5]).sigmoid()
    torch.testing.assert_close(found.scores, expected)
    assert found.pred_boxes.tensor.tolist() == [[40, 40, 72, 72], [4, 4, 20, 20], [4, 4, 20, 20]]


def test_locations_of_an_object_by_hand(nanodet):
    centres = [nanodet.head.make_centres(8, 8, 8), nanodet.head.make_centres(4, 4, 16)]
    boxes = torch.tensor([[12.0, 12.0, 52.0, 52.0]])  # as large as a square of the first level
    owners = nanodet.assigner.assign_atss(centres, [8, 16], boxes, topk=4)
    # The four squares around its middle are 4 pixels off: 36^2 / (2 * 40^2 - 36^2) = 0.68. Those of the
    # other level, of 80 pixels, overlap it by 40^2 / 80^2 = 0.25: mean and deviation are 0.695 together.
    assert (owners == -1).all()
    owners = nanodet.assigner.assign_atss(centres, [8, 16], boxes + 4, topk=4)
    # Now the nearest square is the box; the three others are less than the mean and deviation.
    assert (owners == 0).nonzero().flatten().tolist() == [4 * 8 + 4] and owners.max() == 0
    both = nanodet.assigner.assign_atss(centres, [8, 16], torch.cat([boxes - 100, boxes + 4]), topk=4)
    assert both[4 * 8 + 4] == 1
    assert (nanodet.assigner.assign_atss(centres, [8, 16], boxes[:0]) == -1).all()


def test_losses_by_hand(nanodet):
    focal, distribution = nanodet.losses.quality_focal_loss, nanodet.losses.distribution_focal_loss
    # sigma = 0.5: (y - 0.5)^2 times ln 2.
    found = focal(torch.zeros(3), torch.tensor([1.0, 0.0, 0.5]))
    assert float(found) == pytest.approx(2 * 0.25 * math.log(2))
    # Uniform over 11 bins: ln 11, whatever the distance; else shares of the two bins around it.
    assert distribution(torch.zeros(1, 11), torch.tensor([3.3])).item() == pytest.approx(math.log(11))
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25]]))
    expected = 0.75 * math.log(2) + 0.25 * math.log(4)
    assert distribution(logits, torch.tensor([0.25])).item() == pytest.approx(expected)
    assert distribution(logits, torch.tensor([2.0])).item() == pytest.approx(math.log(4))


def test_losses_fall_and_objects_are_found(build):
    network = build(*TASK_ALONE, "MODEL.NANODET.BLOCKS", "(1, 1, 1, 1)")
    records = make_records([(64, 64)])
    records[0]["height"], records[0]["width"] = 64, 64
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        losses = network.train()(records)
        assert set(losses) == {"loss_qfl", "loss_dfl", "loss_giou"}
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    found = network.eval()(records)[0]["instances"]
    for box, label in zip(records[0]["instances"].gt_boxes, (0, 2), strict=True):
        best = found[found.pred_classes == label][0]
        assert best.scores > 0.3 and pairwise_iou(best.pred_boxes, Boxes(box[None])) > 0.6


def test_an_image_without_objects_has_losses_too(build):
    network = build(*TASK_ALONE).train()
    losses = network(make_records([(64, 64)], objects=0))
    assert losses["loss_qfl"] > 0 and losses["loss_dfl"] == losses["loss_giou"] == 0
    sum(losses.values()).backward()


def test_an_object_of_an_unknown_class_is_told(build):
    network = build(*TASK_ALONE, "MODEL.NANODET.NUM_CLASSES", 2).train()
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 2, but an object is of class 2.*at least 3"):
        network(make_records([(64, 64)]))


def test_msfc_codes_the_three_levels(build):
    model = build().eval()
    assert type(model.network).__name__ == "NanoDet" and model.feature_split.fused == ("p3", "p4", "p5")
    records = make_records([(64, 64), (64, 96)])
    outputs = model(records)
    for record, output in zip(records, outputs, strict=True):
        (stream,) = model.edge_inference([record])
        assert stream.feature_elements == 8 * sum(
            record["image"].shape[1] * record["image"].shape[2] // s**2 for s in (8, 16, 32)
        )
        (again,) = model.cloud_inference([FeatureBitstream.from_bytes(stream.to_bytes())])
        assert again["instances"].image_size == (record["height"], record["width"])
        assert torch.equal(again["instances"].scores, output["instances"].scores)


@pytest.mark.parametrize("loss", ["task", "distill"])
def test_msfc_is_trained_and_the_frozen_detector_stays(build, loss):
    overrides = ("MODEL.FEATCOMP.LOSS", loss, "MODEL.FEATCOMP.FREEZE_TASK_NETWORK", True)
    model = build(*overrides).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-3)
    losses = model(make_records([(64, 64), (64, 64)]))
    named = {"loss_distill"} if loss == "distill" else {"loss_qfl", "loss_dfl", "loss_giou"}
    assert set(losses) == {*named, "loss_entropy"}
    sum(losses.values()).backward()
    optimizer.step()
    changed = {
        name for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed and all(name.startswith(("feature_split.", "feature_codec.")) for name in changed)
    assert any(name.startswith("feature_split.msff.") for name in changed)


def test_the_tools_train_and_measure_it(few_scenes, tmp_path):
    """All stages from labels on, and evaluation through bytes after each."""
    overrides = {
        "MODEL.NANODET.NUM_CLASSES": 6,
        "MODEL.NANODET.SCORE_THRESH_TEST": 0.0,
        "MODEL.FEATCOMP.INPUT_SIZE": "(64, 64)",
        "MODEL.FEATCOMP.TRAIN.STEPS": "(1, 2, 3)",
        **{f"MODEL.FEATCOMP.TRAIN.STEP{stage}.MAX_ITER": 2 for stage in (1, 2, 3)},
        "DATASETS.TRAIN": "('few_train',)",
        "DATASETS.TEST": "('few_val',)",
        "DATALOADER.NUM_WORKERS": 0,
        "SOLVER.IMS_PER_BATCH": 2,
        "TEST.EVAL_PERIOD": 0,
        "OUTPUT_DIR": tmp_path / "output",
    }
    arguments = ["--import", "projects/NanoDet/nanodet", "--config-file", CONFIG, *TINY]
    arguments += [part for pair in overrides.items() for part in pair]
    environment = {"DETECTRON2_DATASETS": str(few_scenes)}
    status, _, stderr = processes.call(
        "tools/train_net.py", list(map(str, arguments)), tmp_path / "told", environment
    )
    assert status == 0, stderr
    for stage, measured in ((1, {"bbox/AP"}), (3, {"bbox/AP", "feature_rate/BPFE"})):
        lines = (tmp_path / "output" / f"step{stage}" / "metrics.json").read_text().splitlines()
        assert measured <= json.loads(lines[-1]).keys()
    weights = torch.load(tmp_path / "output" / "model_final.pth", weights_only=True)["model"]
    assert "head.levels.2.0.weight" in weights and "feature_codec.context_models.0.head_bias" in weights
