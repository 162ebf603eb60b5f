"""projects/BaF/make_photos.py, on a few photographs and a short video."""

import json

import av
import numpy as np
import pytest
from PIL import Image

SCRIPT = "projects/BaF/make_photos.py"
FRAMES = 8


@pytest.fixture
def sources(tmp_path):
    for folder in ("photos", "coco/train2017", "coco/val2017", "pets09"):
        (tmp_path / folder).mkdir(parents=True)
    for name, size in (("a", (1200, 300)), ("b", (300, 100)), ("c", (250, 240))):
        Image.new("RGB", size).save(tmp_path / "photos" / f"{name}.jpg")
    Image.new("RGB", (30, 20)).save(tmp_path / "coco" / "train2017" / "1.jpg")
    Image.new("RGB", (40, 20)).save(tmp_path / "coco" / "val2017" / "2.jpg")
    with av.open(str(tmp_path / "video.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), 20 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
        container.mux(stream.encode())
    # Frame 7 is the seventh, number 6 from 0; of every sixth frame the second.
    (tmp_path / "pets09" / "gt.txt").write_text("7,1,11,11,20,30,1,-1,-1,-1\n2,1,1,1,9,9,1,-1,-1,-1\n")
    return tmp_path


@pytest.fixture
def make(sources, run_tool):
    def run(**changes):
        given = {"coco": sources / "coco", "boxes": sources / "pets09" / "gt.txt", **changes}
        flags = ("--photos", sources / "photos", "--video", sources / "video.avi")
        more = ("--coco", given["coco"], "--boxes", given["boxes"], "--output", sources / "out")
        return run_tool(SCRIPT, *flags, *more)

    return run


def test_photographs_links_frames_and_boxes(sources, make):
    status, told, error = make()
    assert status == 0, error
    train, val = sources / "out" / "train", sources / "out" / "val"
    assert sorted(path.name for path in train.iterdir()) == ["coco1.jpg", "photo000.png", "photo001.png"]
    with Image.open(train / "photo000.png") as photo:
        assert photo.size == (1024, 256)  # the second is too small
    assert (train / "coco1.jpg").resolve() == sources / "coco" / "train2017" / "1.jpg"
    assert sorted(path.name for path in val.iterdir()) == ["0000.png", "0006.png", "annotations.json"]
    with Image.open(val / "0006.png") as frame:
        assert abs(np.array(frame).mean() - 120) < 5
    data = json.loads((val / "annotations.json").read_text())
    names = {image["id"]: image["file_name"] for image in data["images"]}
    assert [(names[a["image_id"]], a["bbox"]) for a in data["annotations"]] == [
        ("0006.png", [10, 10, 20, 30])
    ]
    size = (sources / "coco" / "val2017" / "2.jpg").stat().st_size
    assert f"1 validation images, {size / 1000:.1f} kB each" in told


def test_what_is_missing_is_told(sources, make):
    status, told, _ = make(coco=sources / "none", boxes=sources / "none.txt")
    assert status == 0
    assert "BaF is trained without any of COCO" in told
    assert "AP cannot be measured on the frames" in told
    assert not (sources / "out" / "val" / "annotations.json").exists()
