import networks
import numpy as np
import pytest
import torch
from detectron2.data import Metadata, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances, RotatedBoxes
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.deploy import demo
from d2_featcomp.deploy.pictures import collect_metadata, draw_outputs, draw_truth
from d2_featcomp.deploy.pictures.colours import (
    class_colours,
    contrasting_colour,
    relative_luminance,
)
from d2_featcomp.deploy.pictures.detections import place_label
from d2_featcomp.engine import setup_config

NAMES = Metadata(thing_classes=["disk", "star"])
IMAGE = np.zeros((400, 400, 3), np.uint8)


def found(boxes, classes, scores, **fields):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    boxes = Boxes(boxes) if boxes.shape[1] == 4 else RotatedBoxes(boxes)
    return {
        "instances": Instances(
            IMAGE.shape[:2],
            pred_boxes=boxes,
            pred_classes=torch.tensor(classes),
            scores=torch.tensor(scores),
            **fields,
        )
    }


def has(picture, colour):
    return (picture == np.uint8(colour)).all(axis=-1)


def test_colours_are_the_same_whenever_asked_and_light_and_differ():
    colours = class_colours(80)
    assert np.array_equal(class_colours(3), colours[:3]) and class_colours(0).shape == (0, 3)
    assert min(map(relative_luminance, colours)) > 0.24
    assert len(np.unique(colours, axis=0)) == 80
    apart = np.abs(colours[:8, None].astype(int) - colours[None, :8]).sum(axis=-1)
    assert apart[~np.eye(8, dtype=bool)].min() > 60


def test_luminance_and_text_colour():
    # By hand: white 1, black 0, and of pure red, green, blue the weights themselves.
    assert relative_luminance((255, 255, 255)) == pytest.approx(1)
    for index, weight in enumerate((0.2126, 0.7152, 0.0722)):
        assert relative_luminance(np.eye(3)[index] * 255) == pytest.approx(weight)
    assert contrasting_colour((255, 255, 0)) == "black" and contrasting_colour((0, 0, 128)) == "white"


def test_one_colour_a_class_for_what_is_found_and_for_the_truth():
    """Whatever else is in the picture, and however often it is drawn."""
    box = [40, 200, 120, 280]
    alone = draw_outputs(IMAGE, found([box], [1], [0.9]), NAMES, 0.5)
    both = found([[200, 40, 380, 100], box], [0, 1], [0.9, 0.8])
    beside = draw_outputs(IMAGE, both, NAMES, 0.5)
    truth = {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1, "iscrowd": 0}
    annotated = draw_truth(IMAGE, [truth], NAMES)
    first, second = class_colours(2)
    for picture in (alone, beside, annotated):
        assert has(picture[270:290, 35:125], second).sum() > 100  # the lower edge
    assert has(beside, first).any() and not has(alone, first).any()
    assert np.array_equal(beside, draw_outputs(IMAGE, both, NAMES, 0.5))
    assert not has(draw_outputs(IMAGE, both, NAMES, 0.85), second).any()  # below the threshold


def test_truth_draws_masks_and_keypoints_and_no_crowds():
    truth = {
        "bbox": [40, 200, 80, 80],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": 0,
        "segmentation": [[40, 200, 120, 200, 120, 280, 40, 280]],
        "keypoints": [300, 300, 2, 350, 350, 0],
    }
    picture = draw_truth(IMAGE, [truth, {**truth, "iscrowd": 1, "category_id": 1}], NAMES)
    assert np.array_equal(picture[240, 80], np.round(0.4 * class_colours(1)[0]))  # blended with black
    assert has(picture[295:306, 295:306], class_colours(1)[0]).any()
    assert not picture[340:360, 340:360].any()  # a keypoint that is not labelled
    assert not has(picture, class_colours(2)[1]).any()
    assert not draw_truth(IMAGE, [], NAMES).any()


def test_rotated_boxes():
    # 90 degrees: 100 wide and 20 high becomes 20 wide and 100 high.
    picture = draw_outputs(IMAGE, found([[200, 200, 100, 20, 90]], [0], [0.9]), NAMES, 0.5)
    rows, columns = np.nonzero(has(picture[140:], class_colours(1)[0]))
    assert 188 <= columns.min() <= 192 and rows.max() + 140 == pytest.approx(250, abs=2)
    truth = {"bbox": [200, 200, 100, 20, 90], "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0}
    assert has(draw_truth(IMAGE, [truth], NAMES), class_colours(1)[0]).any()


def test_segments_have_names_and_colours_of_their_data_set():
    segments = torch.zeros(400, 400, dtype=torch.int32)
    segments[:200], segments[200:] = 1, 2
    infos = [
        {"id": 1, "isthing": True, "category_id": 0},
        {"id": 2, "isthing": False, "category_id": 1},
    ]
    metadata = Metadata(
        thing_classes=["disk"], stuff_classes=["a", "b"], stuff_colors=[(1, 2, 3), (9, 90, 200)]
    )
    picture = draw_outputs(IMAGE, {"panoptic_seg": (segments, infos)}, metadata, 0.5)
    assert np.array_equal(picture[100, 20], np.round(0.4 * class_colours(1)[0]))
    assert np.array_equal(picture[390, 20], np.round(0.4 * np.array((9, 90, 200))))
    rows, columns = np.nonzero(has(picture, (0, 0, 0)))  # letters and frames of the labels
    assert rows.min() < 200 < rows.max() and columns.min() > 100
    scores = torch.zeros(2, 400, 400)
    scores[1] = 1
    outputs = {"sem_seg": scores}
    picture = draw_outputs(IMAGE, outputs, collect_metadata(outputs), 0.5)
    assert np.array_equal(picture[390, 20], np.round(0.4 * class_colours(2)[1]))


def test_names_are_of_the_first_data_set_that_has_them():
    """Networks that are tested on data without classes were trained on others."""
    MetadataCatalog.get("named_without_classes").set(image_root="")
    MetadataCatalog.get("named_two").set(stuff_classes=["a", "b"])
    MetadataCatalog.get("named_three").set(stuff_classes=["c", "d", "e"], stuff_colors=[(1, 2, 3)] * 3)
    names = ("named_without_classes", "named_two", "named_three")
    try:
        two, three, four = (
            collect_metadata({"sem_seg": torch.zeros(count, 4, 4)}, datasets=names)
            for count in (2, 3, 4)
        )
    finally:
        for name in names:
            MetadataCatalog.pop(name)
    assert two.stuff_classes == ["a", "b"] and two.get("stuff_colors") is None
    assert three.stuff_classes == ["c", "d", "e"] and three.stuff_colors == [(1, 2, 3)] * 3
    assert four.stuff_classes == ["0", "1", "2", "3"]


def test_small_images_are_enlarged_by_a_whole_number():
    picture = draw_outputs(np.zeros((60, 90, 3), np.uint8), found([[1, 1, 50, 50]], [0], [1]), NAMES, 0)
    assert picture.shape == (7 * 60, 7 * 90, 3)


def test_labels_stay_in_the_picture_and_avoid_each_other():
    placed = []
    for extent in ([0, 0, 300, 300], [2, 0, 300, 300], [4, 0, 300, 300]):
        placed.append(place_label(extent, (60, 20), (400, 400), placed))
    assert placed[0] == (0, 0, 60, 20)
    for index, (x0, y0, x1, y1) in enumerate(placed):
        assert x0 >= 0 and y0 >= 0 and x1 <= 400 and y1 <= 400
        assert (x1 - x0, y1 - y0) == (60, 20)
        for a0, b0, a1, b1 in placed[:index]:
            assert x1 <= a0 or a1 <= x0 or y1 <= b0 or b1 <= y0
    # The usual place is above the box, at its left.
    assert place_label([50, 100, 200, 200], (60, 20), (400, 400), []) == (50, 80, 110, 100)


@pytest.fixture
def drawn(tmp_path, monkeypatch):
    """Draws one random image: [caption], bitstream and width."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "own.png")
    captions, taken = [], {}

    def arrange(panels, columns, arrange=demo.arrange):
        captions.extend(caption for caption, _ in panels)
        return arrange(panels, columns)

    monkeypatch.setattr(demo, "arrange", arrange)

    def draw(reference=None, **record):
        cfg = setup_config(networks.MSFC, networks.listed(networks.TINY))
        model = networks.build(networks.MSFC, networks.listed(networks.TINY))
        record["file_name"] = str(tmp_path / "own.png")
        out = str(tmp_path / "out")
        demo.draw_images(cfg, model, [record], out, reference=reference, take_panels=taken.__setitem__)
        assert [caption for caption, _ in taken["own_detections.png"]] == captions
        assert {panel.shape for _, panel in taken["own_detections.png"]} == {(4 * 96, 4 * 128, 3)}
        data = (tmp_path / "out" / "own.d2fc").read_bytes()
        FeatureBitstream.from_bytes(data)
        with Image.open(tmp_path / "out" / "own_detections.png") as picture:
            return captions, len(data), picture.width

    return draw


ANNOTATION = {"bbox": [8, 8, 40, 40], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}


def test_panels_tell_what_they_are_and_their_bytes(drawn):
    reference = networks.build(networks.MSFC, [*networks.listed(networks.TINY), *NOT_SPLIT])
    captions, size, width = drawn(reference, annotations=[ANNOTATION])
    assert captions[0] == "ground truth"
    assert captions[1] == "network that is not split, not compressed"
    assert captions[2].startswith("MSFC, ") and captions[2].endswith(f" bits: {size} bytes")
    assert " image, " in captions[3] and " bytes" in captions[3]
    assert len(captions) == 4 and width == 2 * 4 * 128 + 6


NOT_SPLIT = ["MODEL.FEATCOMP.ENABLED", False]


def test_no_truth_without_annotations_and_nothing_beside_without_a_reference(drawn):
    captions, size, width = drawn()
    assert len(captions) == 1 and captions[0].endswith(f": {size} bytes") and width == 4 * 128


def test_truth_without_a_reference(drawn):
    captions, _, width = drawn(annotations=[])
    assert captions[0] == "ground truth" and len(captions) == 2 and width == 2 * 4 * 128 + 6
