"""projects/BaF/recompress_images.py, on a data set of two images."""

import json
import os
import re

import numpy as np
import pytest
from PIL import Image

from d2_featcomp.codecs import build_image_codec

SCRIPT = "projects/BaF/recompress_images.py"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    ramp = np.add.outer(np.arange(40), np.arange(60)).astype(np.uint8)
    for number, shift in enumerate((0, 90)):
        Image.fromarray(np.stack([ramp + shift, ramp, 99 - ramp], axis=2)).save(folder / f"{number}.jpg")
    data = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 60, "height": 40} for n in range(2)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


def test_images_are_those_that_the_decoder_gives_and_their_bytes_are_counted(photos, run_tool):
    output = photos.parent / "coded"
    given = ("--dataset", f"images:{photos}", "--codec", "jpeg420", "--quality", 30, "--output", output)
    status, told, error = run_tool(SCRIPT, *given)
    assert status == 0, error
    codec, sizes, originals = build_image_codec("jpeg420", bits=8, quality=30), [], []
    for number in range(2):
        with Image.open(photos / f"{number}.jpg") as image:
            pixels = np.array(image)
        coded = codec.encode(pixels)
        expected = codec.decode(coded, shape=pixels.shape, bits=8, lossless=False)
        with Image.open(output / f"{number}.png") as image:
            assert np.array_equal(np.array(image), expected) and not np.array_equal(expected, pixels)
        sizes.append(len(coded))
        originals.append(os.path.getsize(photos / f"{number}.jpg"))
    numbers = [float(number) for number in re.findall(r"([\d.]+) kB", told)]
    assert numbers == [round(sum(each) / 2000, 2) for each in (sizes, originals)]
    data = json.loads((output / "annotations.json").read_text())
    assert [image["file_name"] for image in data["images"]] == ["0.png", "1.png"]
    assert data["annotations"][0]["bbox"] == [1, 2, 3, 4]


def test_images_of_one_name_are_told_apart(photos, run_tool):
    (photos / "more").mkdir()
    data = json.loads((photos / "annotations.json").read_text())
    os.rename(photos / "1.jpg", photos / "more" / "0.jpg")
    data["images"][1]["file_name"] = "more/0.jpg"
    with Image.open(photos / "0.jpg") as image:
        image.save(photos / "0.png")
    data["images"].append({"id": 2, "file_name": "0.png", "width": 60, "height": 40})
    (photos / "annotations.json").write_text(json.dumps(data))
    output = photos.parent / "coded"
    given = ("--dataset", f"images:{photos}", "--quality", 30, "--output", output)
    assert run_tool(SCRIPT, *given)[0] == 0
    written = json.loads((output / "annotations.json").read_text())["images"]
    names = {image["file_name"] for image in written}
    assert names == {name for name in os.listdir(output) if name.endswith(".png")} and len(names) == 3


def test_nothing_of_the_user_is_replaced(photos, run_tool):
    with Image.open(photos / "0.jpg") as image:
        image.save(photos / "0.png")
    data = json.loads((photos / "annotations.json").read_text())
    data["images"][0]["file_name"] = "0.png"
    before = json.dumps(data)
    (photos / "annotations.json").write_text(before)
    given = ("--dataset", f"images:{photos}", "--quality", 30)
    status, _, error = run_tool(SCRIPT, *given, "--output", photos)
    assert status == 2 and "is an original: choose another --output" in error
    other = photos.parent / "other"
    other.mkdir()
    (other / "annotations.json").write_text("{}")
    for _ in range(2):  # the same again is no other
        assert run_tool(SCRIPT, *given, "--output", other)[0] == 0
    assert (other / "annotations.bak.json").read_text() == "{}"
    assert len(list(other.glob("annotations.bak*"))) == 1
    assert (photos / "annotations.json").read_text() == before


def test_a_codec_of_single_channels_is_refused(photos, run_tool):
    given = ("--dataset", f"images:{photos}", "--codec", "hevc", "--quality", 30, "--output", photos)
    status, _, error = run_tool(SCRIPT, *given)
    assert status and "is for single channels" in error
