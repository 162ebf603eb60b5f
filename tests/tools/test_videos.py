"""Videos through edge, cloud and demo, as processes: chosen frames, times, and a video of results."""

import json

import numpy as np
import processes
import pytest
from deployed import CONFIG, OPTS, call
from pycocotools.coco import COCO

from d2_featcomp.serving import read_frames

av = pytest.importorskip("av")
FRAMES, RATE = 20, 10
TAKEN = [f"walk_{number:06d}" for number in (0, 5, 10, 15)]  # of --stride 5
TIMES = [0.0, 0.5, 1.0, 1.5]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Two seconds of noise that gets brighter, 96 x 64 pixels."""
    path = tmp_path_factory.mktemp("video") / "walk.mp4"
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in range(FRAMES):
            picture = rng.integers(0, 100, (64, 96, 3), dtype=np.uint8) + np.uint8(7 * number)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_times(path):
    with av.open(str(path)) as container:
        return [frame.time for frame in container.decode(video=0)]


def test_through_files(root, video, tmp_path):
    out, results = tmp_path / "out", tmp_path / "results"
    status, told, errors = call(root, "edge", "--input", video, "--stride", 5, "--output", out)
    assert status == 0, errors
    assert sorted(path.stem for path in out.glob("*.d2fc")) == TAKEN
    assert "4/4" in errors and "4 images" in told  # the bar counts frames
    listed = json.loads((out / "images.json").read_text())["images"]
    assert [(image["name"], image["time"]) for image in listed] == list(zip(TAKEN, TIMES, strict=True))

    drawn = tmp_path / "drawn.mp4"
    more = ("--output", results, "--images", video, "--draw", drawn)
    status, told, errors = call(root, "cloud", "--input", out, *more)
    assert status == 0, errors
    assert f"{drawn}: 4 frames" in told
    assert read_times(drawn) == pytest.approx(TIMES, abs=1e-3)
    assert len(dict(read_frames(str(drawn)))) == 4
    for name, seconds in zip(TAKEN, TIMES, strict=True):
        assert json.loads((results / f"{name}.json").read_text())["time"] == seconds
    coco = COCO(str(results / "images.json"))
    assert [image["time"] for image in coco.dataset["images"]] == TIMES
    assert len(coco.loadRes(str(results / "results.json")).anns) > 0

    # More into the same folder: what is known of the first frames stays.
    status, _, errors = call(root, "edge", "--input", video, "--fps", 1, "--output", out)
    assert status == 0, errors
    times = {i["name"]: i["time"] for i in json.loads((out / "images.json").read_text())["images"]}
    assert times == dict(zip(TAKEN, TIMES, strict=True))  # frames 0 and 10


def test_over_the_network(root, video, server, tmp_path):
    pytest.importorskip("uvicorn")
    one, answers = server(), tmp_path / "answers"
    more = ("--connect", one.address, "--spool", tmp_path / "spool", "--output", answers)
    chosen = ("--fps", 2, "--limit", 3, "--draw", tmp_path / "drawn.mp4")
    status, told, errors = call(root, "edge", "--input", video, *more, *chosen)
    assert status == 0, errors
    assert "3 frames, 3 of them answered" in told and "3 sent" in told
    assert read_times(tmp_path / "drawn.mp4") == pytest.approx(TIMES[:3], abs=1e-3)
    images = json.loads((answers / "images.json").read_text())["images"]
    assert [image["time"] for image in images] == TIMES[:3]


def test_demo(root, video, tmp_path):
    drawn = tmp_path / "drawn.mp4"
    arguments = ("--config-file", CONFIG, "--input", video, "--fps", 2, "--draw", drawn, *OPTS)
    weights = ("MODEL.WEIGHTS", root / "whole.pth", "--confidence-threshold", 0)
    status, told, errors = processes.call("tools/demo.py", [*arguments, *weights], tmp_path / "told")
    assert status == 0, errors
    assert f"{drawn}: 4 frames" in told and "kB of features a frame" in told and "4/4" in errors
    assert read_times(drawn) == pytest.approx(TIMES, abs=1e-3)


@pytest.mark.parametrize(
    ("tool", "arguments", "words"),
    [
        ("edge", ("--output", "o", "--draw", "d.mp4"), "add --connect and --output"),
        ("edge", ("--output", "o", "--connect", "x:1", "--draw", "d.mp4"), "takes one video"),
        ("edge", ("--output", "o", "--stride", "0"), "--stride is 0"),
        ("cloud", ("--output", "o", "--draw", "d.mp4"), "give --images VIDEO and --draw VIDEO"),
    ],
)
def test_mistakes(root, tmp_path, monkeypatch, tool, arguments, words):
    arguments = [str(tmp_path / word) if word in ("o", "d.mp4") else word for word in arguments]
    status, _, errors = call(root, tool, "--input", root / "photos", *arguments)
    assert status == 2 and words in errors and "Traceback" not in errors


def test_demo_takes_either_images_or_a_video(run_tool, root, video, tmp_path):
    for arguments in (
        ("--input", video, "--output", tmp_path),
        ("--input", root / "photos", "--draw", tmp_path / "d.mp4"),
        ("--input", video, root / "photos", "--draw", tmp_path / "d.mp4"),
    ):
        status, _, errors = run_tool("tools/demo.py", "--config-file", CONFIG, *arguments)
        assert status == 2 and "give" in errors
