import copy

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, DatasetMapper, detection_utils
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image

from d2_featcomp.data.images import read_image, read_sem_seg
from d2_featcomp.data.mappers import ImageMapper, build_test_mapper, build_train_mapper
from d2_featcomp.engine import setup_config
from d2_featcomp.engine.inference import make_input
from d2_featcomp.images import find_upright_size, read_picture

TURNED = 0x112  # EXIF


def save(array, path, **options):
    Image.fromarray(array).save(path, **options)
    return str(path)


def test_gray_images_of_16_bits_are_scaled_by_their_range(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 65406, 65407]], np.uint16)
    expected = [[0, 1, 128, 255], [0, 1, 254, 255]]  # 257 = 65535 / 255, rounded at its half
    for name in ("a.png", "a.tif"):
        path = save(values, tmp_path / name)
        for format in ("RGB", "BGR"):
            found = read_image(path, format)
            assert found.dtype == np.uint8 and found.shape == (2, 4, 3)
            assert all(found[..., channel].tolist() == expected for channel in range(3))
        assert read_image(path, "L")[..., 0].tolist() == expected
    # The mode in which older releases of Pillow open 16-bit PNG.
    Image.fromarray(values.astype(np.int32), mode="I").save(tmp_path / "b.tif")
    assert read_image(str(tmp_path / "b.tif"), "L")[..., 0].tolist() == expected


@pytest.mark.parametrize("turn", range(12))
def test_sizes_are_those_of_upright_images(tmp_path, turn):
    exif = Image.Exif()
    exif[TURNED] = turn  # 1 to 8; others turn nothing
    path = save(np.zeros((2, 5, 3), np.uint8), tmp_path / "a.jpg", exif=exif)
    height, width, _ = read_picture(path).shape
    with Image.open(path) as image:
        assert find_upright_size(image) == (width, height)
    assert (height, width) == ((5, 2) if 5 <= turn <= 8 else (2, 5))


def test_gray_images_of_16_bits_are_turned_as_exif_says(tmp_path):
    exif = Image.Exif()
    exif[TURNED] = 6
    path = save(np.array([[0, 65535, 257]], np.uint16), tmp_path / "a.png", exif=exif)
    assert read_image(path, "L")[..., 0].tolist() == [[0], [255], [1]]


def test_pixels_of_unknown_range_are_refused(tmp_path):
    Image.fromarray(np.array([[0, 70000]], np.int32), mode="I").save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif' holds values from 0 to 70000"):
        read_image(str(tmp_path / "a.tif"), "RGB")
    save(np.array([[0.5, 2.0]], np.float32), tmp_path / "b.tif")
    with pytest.raises(ValueError, match=r"b\.tif' holds floating-point pixels"):
        read_image(str(tmp_path / "b.tif"), "RGB")


def test_other_images_are_read_as_detectron2_does(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[TURNED] = 8
    files = [
        save(pixels, tmp_path / "rgba.png"),
        save(pixels[..., :3], tmp_path / "turned.jpg", exif=exif),
        save(pixels[..., 0], tmp_path / "gray.png"),
    ]
    Image.fromarray(pixels[..., :3]).quantize(16).save(tmp_path / "palette.png")
    for path in [*files, str(tmp_path / "palette.png")]:
        for format in ("RGB", "BGR", "L", None):
            np.testing.assert_array_equal(
                read_image(path, format), detection_utils.read_image(path, format)
            )


def test_files_that_cannot_be_read_are_named(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("half.jpg", "half.png"):
        path = save(pixels, tmp_path / name)
        with open(path, "r+b") as file:
            file.truncate((tmp_path / name).stat().st_size // 2)
        with pytest.raises(ValueError, match=rf"{name}' is no image that can be read"):
            read_image(path, "RGB")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(
        ValueError, match=r"text\.png' is no image that can be read \(of no known format\)$"
    ):
        read_image(str(tmp_path / "text.png"))
    damaged = {"header.ppm": b"P6\n6? 64\n255\n", "pixels.png": b"DDS |" + bytes(3) + bytes(120)}
    for name, content in damaged.items():  # Pillow raises ValueError and NotImplementedError
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}' is no image that can be read"):
            read_image(str(tmp_path / name))
    with pytest.raises(FileNotFoundError, match=r"no image '.*none\.png'"):
        read_image(str(tmp_path / "none.png"))


def test_semantic_maps_hold_numbers_of_classes(tmp_path):
    labels = np.array([[0, 3, 18], [255, 7, 1]], np.uint8)
    palette = Image.fromarray(labels, mode="P")
    palette.putpalette([(37 * i) % 256 for i in range(768)])
    palette.save(tmp_path / "palette.png")
    paths = [save(labels, tmp_path / "8.png"), save(labels.astype(np.uint16), tmp_path / "16.png")]
    for path in [*paths, str(tmp_path / "palette.png")]:
        found = read_sem_seg(path, num_classes=19)
        assert found.dtype == np.uint8 and found.tolist() == labels.tolist()
    many = save(np.array([[300, 0]], np.uint16), tmp_path / "many.png")
    assert read_sem_seg(many).tolist() == [[300, 0]]
    with pytest.raises(ValueError, match=r"8\.png' holds label 18: there are 18 classes"):
        read_sem_seg(paths[0], num_classes=18)
    with pytest.raises(ValueError, match=r"8\.png'\) holds label 18: there are 18 classes"):
        read_sem_seg(tmp_path / "8.png", num_classes=18)
    with pytest.raises(ValueError, match=r"holds label 255: there are 19 classes, .* and 254 for none"):
        read_sem_seg(paths[0], num_classes=19, ignore_label=254)
    rgb = save(np.zeros((2, 2, 3), np.uint8), tmp_path / "rgb.png")
    with pytest.raises(ValueError, match=r"rgb\.png' is an image of mode RGB"):
        read_sem_seg(rgb)


@pytest.fixture
def cfg():
    other_sizes = ["INPUT.MIN_SIZE_TRAIN", (40, 48, 56), "INPUT.MASK_FORMAT", "polygon"]
    return setup_config("configs/quick/msfc_R18.yaml", other_sizes)


def test_training_and_evaluation_get_what_detectron2_gives(cfg, coco_folder, tmp_path):
    record = DatasetCatalog.get(coco_folder())[0]
    record["sem_seg_file_name"] = save(
        np.random.default_rng(0).integers(0, 54, (64, 96), dtype=np.uint8), tmp_path / "labels.png"
    )
    before = copy.deepcopy(record)
    found = []
    for mapper in (build_train_mapper(cfg), DatasetMapper(cfg, is_train=True)):
        seed_all_rng(3)
        found.append(mapper(record))
    ours, theirs = found
    assert isinstance(build_train_mapper(cfg), ImageMapper) and record == before
    assert ours.keys() == theirs.keys()
    assert torch.equal(ours["image"], theirs["image"])
    assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
    assert torch.equal(ours["instances"].gt_boxes.tensor, theirs["instances"].gt_boxes.tensor)
    assert ours["instances"].gt_classes.tolist() == theirs["instances"].gt_classes.tolist()
    ours, theirs = build_test_mapper(cfg)(record), DatasetMapper(cfg, is_train=False)(record)
    assert torch.equal(ours["image"], theirs["image"])
    assert "annotations" not in ours and ours["image_id"] == theirs["image_id"]


def test_mappers_read_16_bits(cfg, tmp_path):
    path = save(np.full((64, 96), 128 * 257, np.uint16), tmp_path / "a.png")
    assert build_test_mapper(cfg)({"file_name": path})["image"].unique().tolist() == [128]
    assert build_train_mapper(cfg)({"file_name": path})["image"].unique().tolist() == [128]
    tasks = setup_config("configs/quick/mtl_R34.yaml")
    assert build_train_mapper(tasks)({"file_name": path})["image"].unique().tolist() == [128]


@pytest.mark.parametrize("config", ["configs/msfc_panoptic_R50.yaml", "configs/Base-MTL-R34.yaml"])
def test_labels_of_no_class_stop_a_training_and_are_named(config, tmp_path):
    """On a GPU such a label would end the process without a word of where it is."""
    cfg = setup_config(config, ["MODEL.SEM_SEG_HEAD.NUM_CLASSES", 19])
    pixels = save(np.zeros((8, 8, 3), np.uint8), tmp_path / "a.png")
    labels = save(np.full((8, 8), 24, np.uint8), tmp_path / "x_gtFine_labelTrainIds.png")
    with pytest.raises(ValueError, match=r"labelTrainIds\.png' holds label 24.*createTrainIdLabelImgs"):
        build_train_mapper(cfg)({"file_name": pixels, "sem_seg_file_name": labels})


def test_a_strip_that_vanishes_is_told():
    cfg = setup_config("configs/quick/msfc_R18.yaml")
    with pytest.raises(ValueError, match="3 x 2000 pixels"):
        make_input(np.zeros((2000, 3, 3), np.uint8), cfg)
    assert make_input(np.zeros((600, 3, 3), np.uint8), cfg)["image"].shape == (3, 256, 1)


def test_all_images_have_the_size_that_a_network_needs(tmp_path):
    size = ["MODEL.FEATCOMP.INPUT_SIZE", "(48, 64)"]
    cfg = setup_config("configs/quick/msfc_R18.yaml", size)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    resized = np.asarray(Image.fromarray(pixels).resize((64, 48), Image.BILINEAR))[:, :, ::-1]
    record = {"file_name": str(tmp_path / "image.png"), "height": 30, "width": 90}
    mapped = build_test_mapper(cfg)(record)
    for found in (mapped, make_input(pixels, cfg)):
        np.testing.assert_array_equal(found["image"].numpy().transpose(1, 2, 0), resized)
        assert (found["height"], found["width"]) == (30, 90)

    # In training after a crop, and with what is annotated.
    crop = ["INPUT.CROP.ENABLED", True, "INPUT.CROP.TYPE", "absolute", "INPUT.CROP.SIZE", [30, 45]]
    cfg = setup_config("configs/quick/msfc_R18.yaml", [*size, *crop, "MODEL.MASK_ON", False])
    box = {"bbox": [0, 0, 90, 30], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 1}
    mapped = build_train_mapper(cfg)({**record, "annotations": [box]})
    assert mapped["image"].shape == (3, 48, 64)
    assert mapped["instances"].gt_boxes.tensor.tolist() == [[0, 0, 64, 48]]
    cfg = setup_config("", ["MODEL.FEATCOMP.INPUT_SIZE", "(48, 0)"])
    with pytest.raises(ValueError, match=r"INPUT_SIZE is \(48, 0\): give \(height, width\) in pixels"):
        build_test_mapper(cfg)
