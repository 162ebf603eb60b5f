import math

import numpy as np
import pytest
import torch
from detectron2.data import transforms
from PIL import Image

from d2_featcomp.data.disparity import (
    LARGEST_DISPARITY,
    convert_disparity,
    make_stored_disparity,
    read_disparity,
)
from d2_featcomp.data.mappers import ImageMapper, MultiTaskMapper, build_train_mapper
from d2_featcomp.engine import setup_config

HEIGHT, WIDTH = 4, 8


@pytest.fixture
def record(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
        tmp_path / "image.png"
    )
    labels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.fromarray(np.uint16(labels) * 256).save(tmp_path / "disparity.png")
    return {
        "file_name": str(tmp_path / "image.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
        "disparity_file_name": str(tmp_path / "disparity.png"),
        "height": HEIGHT,
        "width": WIDTH,
    }


def test_disparity_is_decoded_as_cityscapes_says(tmp_path):
    Image.fromarray(np.array([[0, 1, 257, 65535]], np.uint16)).save(tmp_path / "d.png")
    found = read_disparity(str(tmp_path / "d.png"))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 0, 1, 65534 / 256]])


def test_disparities_that_16_bits_cannot_hold_are_refused():
    stored = make_stored_disparity(np.array([0, 1 / 256, LARGEST_DISPARITY]))
    assert stored.tolist() == [0, 2, 65535]
    assert convert_disparity(stored).tolist() == [0, 1 / 256, LARGEST_DISPARITY]
    for value in (256.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match=r"between 0 \(unknown\) and 255\.99 pixels"):
            make_stored_disparity(np.array([1.0, value]))


def test_maps_of_32_bits_in_memory_are_read_too(tmp_path):
    """Older releases of Pillow open 16-bit PNG in that mode."""
    Image.fromarray(np.array([[0, 257]], np.int32), mode="I").save(tmp_path / "d.tif")
    np.testing.assert_allclose(read_disparity(str(tmp_path / "d.tif")), [[0, 1]])


def test_all_targets_are_read_and_the_record_is_kept(record):
    before = dict(record)
    out = MultiTaskMapper(augmentations=[], image_format="BGR")(record)
    assert record == before
    assert out["image"].dtype == torch.uint8 and out["image"].shape == (3, HEIGHT, WIDTH)
    pixel = Image.open(record["file_name"]).getpixel((2, 1))
    assert out["image"][:, 1, 2].tolist() == list(pixel[::-1])
    assert out["sem_seg"].dtype == torch.int64 and out["sem_seg"][1, 2] == 10
    assert out["disparity"][1, 2] == pytest.approx(10 - 1 / 256)


def test_targets_are_flipped_and_resized_alike(record):
    half = [transforms.Resize((HEIGHT // 2, WIDTH // 2)), transforms.RandomFlip(prob=1.0)]
    out = MultiTaskMapper(augmentations=half, image_format="RGB")(record)
    assert out["image"].shape == (3, 2, 4) and out["sem_seg"].shape == out["disparity"].shape == (2, 4)
    # Disparity is in pixels of the narrower image.
    restored = out["disparity"] * 2 + 1 / 256
    assert torch.equal(restored.round().long(), out["sem_seg"])
    assert out["sem_seg"][0, 0] > out["sem_seg"][0, 3]


@pytest.mark.parametrize("mapper", [ImageMapper, MultiTaskMapper])
def test_labels_above_255_are_augmented_too(mapper, record, tmp_path):
    """As of the 847 classes of ADE20K; what is padded is of no class."""
    Image.fromarray(np.array([[0, 300], [846, 255]], np.uint16)).save(tmp_path / "labels.png")
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(tmp_path / "image.png")
    steps = [
        transforms.Resize((4, 4)),
        transforms.RandomFlip(prob=1.0),
        transforms.FixedSizeCrop((4, 5)),
    ]
    others = {"is_train": True} if mapper is ImageMapper else {}
    settings = {"augmentations": steps, "image_format": "RGB", "sem_seg_classes": 847, **others}
    inputs = {key: record[key] for key in ("file_name", "sem_seg_file_name")}
    found = mapper(**settings)(inputs)["sem_seg"]
    assert found.dtype == torch.int64
    assert found.tolist() == 2 * [[300, 300, 0, 0, 255]] + 2 * [[255, 255, 846, 846, 255]]


def test_a_crop_leaves_disparities_as_they_are(record):
    crop = transforms.FixedSizeCrop((2, 2))
    out = MultiTaskMapper(augmentations=[crop], image_format="RGB")(record)
    assert torch.equal((out["disparity"] + 1 / 256).round().long(), out["sem_seg"])


def test_images_without_targets(record):
    out = MultiTaskMapper(augmentations=[], image_format="RGB")({"file_name": record["file_name"]})
    assert "sem_seg" not in out and "disparity" not in out


def test_wrong_files_are_named(record, tmp_path):
    mapper = MultiTaskMapper(augmentations=[], image_format="RGB")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "8.png")
    with pytest.raises(ValueError, match=r"8\.png' is an image of mode L: disparity maps .* 16 bits"):
        mapper({**record, "disparity_file_name": str(tmp_path / "8.png")})
    Image.fromarray(np.zeros((HEIGHT, WIDTH + 1), np.uint16)).save(tmp_path / "wide.png")
    with pytest.raises(ValueError, match=r"wide\.png' has 9 x 4 pixels, its image 8 x 4"):
        mapper({**record, "disparity_file_name": str(tmp_path / "wide.png")})
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        mapper({**record, "disparity_file_name": str(tmp_path / "none.png")})
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png' is no image"):
        mapper({**record, "disparity_file_name": str(tmp_path / "text.png")})


def test_the_mapper_is_chosen_by_the_config():
    cfg = setup_config("configs/quick/mtl_R34.yaml", ["MODEL.DEVICE", "cpu"])
    assert isinstance(build_train_mapper(cfg), MultiTaskMapper)
    wrong = setup_config("", ["MODEL.FEATCOMP.TRAIN.MAPPER", "Mapper"])
    with pytest.raises(ValueError, match=r"unknown mapper 'Mapper'.*MultiTaskMapper"):
        build_train_mapper(wrong)
