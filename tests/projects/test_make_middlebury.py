"""projects/CompressibleMTL/make_middlebury.py, and the data set that it makes."""

import imagecodecs
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from d2_featcomp.data.datasets.image_folders import register_image_folders
from d2_featcomp.data.disparity import read_disparity

SCRIPT = "projects/CompressibleMTL/make_middlebury.py"


@pytest.fixture
def pairs(tmp_path):
    """One of 520 x 400 pixels whose map is floats, and one of 512 x 400 to be halved."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (400, 520, 3), dtype=np.uint8)
    Image.fromarray(image).save(tmp_path / "floats.png")
    disparity = np.linspace(5, 60, 400 * 520, dtype=np.float32).reshape(400, 520)
    disparity[150, 300] = np.inf
    np.savez(tmp_path / "floats.npz", disparity)
    Image.fromarray(image[:, :512]).save(tmp_path / "bytes.jpg")
    Image.fromarray(np.full((400, 512), 90, np.uint8)).save(tmp_path / "bytes.png")
    return tmp_path, image, disparity


def test_crops_and_their_disparity(pairs, run_tool):
    folder, image, disparity = pairs
    first = ("--pair", folder / "floats.png", folder / "floats.npz", 1)
    second = ("--pair", folder / "bytes.jpg", folder / "bytes.png", 2)
    status, told, error = run_tool(SCRIPT, *first, *second, "--output", folder / "out")
    assert status == 0, error
    assert "floats.png: 4 crops" in told and "bytes.jpg: 1 crops" in told
    name = f"stereo:{folder / 'out'}"
    register_image_folders([name])
    records = DatasetCatalog.get(name)
    assert [record["image_id"] for record in records] == [
        "bytes_0.png",
        *(f"floats_{index}.png" for index in range(4)),
    ]
    assert {(record["width"], record["height"]) for record in records} == {(256, 192)}
    np.testing.assert_allclose(read_disparity(records[0]["disparity_file_name"]), 45)
    # The second of the upper row, 4 pixels from the left and 8 from above where the crops begin.
    with Image.open(records[2]["file_name"]) as crop:
        np.testing.assert_array_equal(np.array(crop), image[8:200, 260:516])
    found, there = read_disparity(records[2]["disparity_file_name"]), disparity[8:200, 260:516]
    assert found[150 - 8, 300 - 260] == 0
    known = np.isfinite(there)
    np.testing.assert_allclose(found[known], there[known], atol=1 / 512)


def test_tiff_files_of_floats(pairs, run_tool):
    folder, image, _ = pairs
    disparity = np.full((400, 520), 7.25, np.float32)
    colours = imagecodecs.tiff_encode(image.astype(np.float32), photometric="rgb")
    (folder / "left.tif").write_bytes(colours)
    (folder / "map.tif").write_bytes(imagecodecs.tiff_encode(disparity))
    pair = ("--pair", folder / "left.tif", folder / "map.tif", 1)
    status, _, error = run_tool(SCRIPT, *pair, "--output", folder / "out")
    assert status == 0, error
    with Image.open(folder / "out" / "images" / "left_0.png") as crop:
        np.testing.assert_array_equal(np.array(crop), image[8:200, 4:260])
    assert (read_disparity(str(folder / "out" / "disparity" / "left_3.png")) == 7.25).all()


@pytest.mark.parametrize(
    ("pair", "words"),
    [
        (("floats.png", "bytes.png", 1), "is of 520 x 400 pixels"),
        (("floats.png", "floats.png", 1), "is an image of mode RGB: maps are gray, of 8 bits"),
        (("floats.png", "floats.npz", 3), "3 times smaller, has 173 x 133 pixels: crops are of 256 x"),
        (("floats.png", "floats.npz", 0), "must be a whole number from 1"),
        (("none.png", "floats.npz", 1), "none.png"),
        (("floats.png", "floats.tif", 1), "floats.tif' cannot be read"),
    ],
)
def test_mistakes(pairs, run_tool, pair, words):
    folder = pairs[0]
    image, disparity, factor = pair
    (folder / "floats.tif").write_bytes(b"II*")
    given = ("--pair", folder / image, folder / disparity, factor)
    status, _, error = run_tool(SCRIPT, *given, "--output", folder / "out")
    assert status == 2 and words in error


def test_an_image_without_a_map(pairs):
    folder = pairs[0]
    (folder / "pair" / "images").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "pair" / "images" / "a.png")
    name = f"stereo:{folder / 'pair'}"
    register_image_folders([name])
    with pytest.raises(FileNotFoundError, match=r"no disparity map .*a\.png"):
        DatasetCatalog.get(name)
