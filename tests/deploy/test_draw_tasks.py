import networks
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from PIL import Image

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.deploy.demo import remove_drawn
from d2_featcomp.deploy.pictures import tasks
from d2_featcomp.deploy.pictures.colours import class_colours
from d2_featcomp.engine import draw_images, setup_config


@pytest.fixture
def picture(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 72, 3), dtype=np.uint8)).save(tmp_path / "own.png")
    return str(tmp_path / "own.png")


@pytest.mark.parametrize("heads", [None, ["DisparityHead"], ["SegmentationHead", "ReconstructionHead"]])
def test_ones_own_image_is_drawn_without_the_data_set(picture, tmp_path, heads):
    overrides = [*networks.listed(networks.TINY_TASKS), "INPUT.MIN_SIZE_TEST", 64]
    if heads:
        overrides += ["MODEL.MULTI_TASK.HEADS", heads]
    path = "configs/mtl_R34_encoder2.yaml"
    cfg, model = setup_config(path, overrides), networks.build(path, overrides)
    drawn = draw_images(cfg, model, [{"file_name": picture}], str(tmp_path / "out"))
    assert drawn == ["own_tasks.png", "own_features.png"]
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["own.d2fc", "own_features.png", "own_tasks.png"]
    FeatureBitstream.from_bytes((tmp_path / "out" / "own.d2fc").read_bytes())
    with Image.open(tmp_path / "out" / "own_tasks.png") as drawn:
        width, _ = drawn.size
    shown = 115 * 3  # of 64 x 115 pixels, enlarged to leave room for captions
    cells = {None: 4, 1: 2, 2: 3}[heads and len(heads)]  # with the input
    columns = 2 if cells % 2 == 0 else cells
    assert width == columns * shown + (columns - 1) * 6


def test_what_was_drawn_is_removed_and_nothing_else(tmp_path):
    for end in (".d2fc", "_features.png", "_tasks.png", "_detections.png"):
        (tmp_path / f"drawn{end}").touch()
    others = {"mine.png", "drawn.png", "without_stream_features.png", "alone.d2fc"}
    for name in others:
        (tmp_path / name).touch()
    remove_drawn(str(tmp_path))
    remove_drawn(str(tmp_path / "nowhere"))
    assert {path.name for path in tmp_path.iterdir()} == others


def outputs_of(*tasks):
    scores = torch.zeros(3, 24, 32)
    scores[1, :, 16:], scores[2, 12:] = 1, 2
    disparity = torch.full((24, 32), 2.0)
    disparity[:, :8] = 0
    everything = {"sem_seg": scores, "disparity": disparity, "reconstruction": torch.rand(3, 24, 32)}
    return {task: everything[task] for task in tasks}


@pytest.fixture
def truth(tmp_path):
    """A record with a map of classes 0, 1 and none, and disparity up to 4 px."""
    labels = np.zeros((24, 32), np.uint8)
    labels[:, 8:16], labels[:, 16:] = 1, 255
    Image.fromarray(labels).save(tmp_path / "labels.png")
    stored = np.full((24, 32), 4 * 256 + 1, np.uint16)
    Image.fromarray(stored).save(tmp_path / "disparity.png")
    return {
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "disparity_file_name": str(tmp_path / "disparity.png"),
    }


@pytest.fixture
def noted(monkeypatch):
    """What draw_tasks has written: captions, columns, the legend's texts, the ends of the colour bar."""
    told = {"legend": []}

    def arrange(cells, columns, draw=tasks.arrange):
        told.update(captions=[caption for caption, _ in cells], columns=columns)
        return draw(cells, columns)

    def draw_legend(entries, width, draw=tasks.draw_legend):
        told["legend"] = [text for text, _ in entries]
        return draw(entries, width)

    def draw_colour_bar(low, high, width, draw=tasks.draw_colour_bar):
        told["bar"] = low, high
        return draw(low, high, width)

    for function in (arrange, draw_legend, draw_colour_bar):
        monkeypatch.setattr(tasks, function.__name__, function)
    return told


ALL = "sem_seg", "disparity", "reconstruction"
NAMES = Metadata(stuff_classes=["road", "sky", "tree"])


def draw(outputs, record, metadata=NAMES):
    image = np.full((24, 32, 3), 77, np.uint8)
    return tasks.draw_tasks(image, outputs, record, metadata, bgr=False)


def test_truth_beside_what_is_predicted_with_legend_and_units(truth, noted):
    picture = draw(outputs_of(*ALL), truth)
    assert noted["captions"] == [
        *("input", "reconstruction", "segmentation, truth", "segmentation"),
        *("disparity, truth", "disparity"),
    ]
    assert noted["columns"] == 2 and picture.shape[1] == 2 * 8 * 32 + 6
    assert noted["legend"] == ["road", "sky", "tree", "no class", "no disparity known"]
    assert noted["bar"] == ("disparity: 0", "4 px")
    for colour in class_colours(3):
        assert (picture == colour).all(axis=-1).sum() > 192


@pytest.mark.parametrize("chosen", [ALL[:1], ALL[:2], ALL[1:], ALL])
@pytest.mark.parametrize("known", [False, True])
def test_grids_have_no_blank_cells(truth, noted, chosen, known):
    picture = draw(outputs_of(*chosen), truth if known else {})
    assert len(noted["captions"]) % noted["columns"] == 0
    assert picture.shape[1] == noted["columns"] * (8 * 32 + 6) - 6
    assert any("truth" in caption for caption in noted["captions"]) == known
    assert ("bar" in noted) == ("disparity" in chosen)
    assert ("road" in noted["legend"]) == ("sem_seg" in chosen)
    if "disparity" in chosen and not known:
        assert noted["bar"][1] == "2 px"


def test_colours_of_the_data_set_are_used():
    colours = [(1, 2, 3), (90, 80, 70), (50, 150, 250)]
    picture = draw(outputs_of("sem_seg"), {}, Metadata(stuff_classes="abc", stuff_colors=colours))
    for colour in colours:
        assert (picture == np.uint8(colour)).all(axis=-1).sum() > 192
