"""What the edge program reads: upright, and by names of its own."""

import fractions
import struct

import numpy as np
import pytest
from PIL import Image

from d2_featcomp.serving import list_inputs, name_inputs, read_all_frames, read_frames
from d2_featcomp.serving.inputs import (
    CutShortError,
    Sampling,
    count_all_frames,
    count_frames,
    describe_left_out,
    end_where_cut,
    read_timed_frames,
)

av = pytest.importorskip("av")
ONE = 0x10000  # 1.0 in the file's fixed-point numbers
# Degrees that a player turns the picture clockwise -> a, b, u, c, d, v, x, y, w of the track header.
MATRICES = {
    0: (ONE, 0, 0, 0, ONE, 0, 0, 0, 0x40000000),
    90: (0, ONE, 0, -ONE, 0, 0, 64 * ONE, 0, 0x40000000),
    180: (-ONE, 0, 0, 0, -ONE, 0, 96 * ONE, 64 * ONE, 0x40000000),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 96 * ONE, 0x40000000),
}


def write_video(path, clockwise=0, frames=1):
    """96 x 64 pixels as stored, the upper left quarter white."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:32, :48] = 255
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        shown = [av.VideoFrame.from_ndarray(picture, format="rgb24") for _ in range(frames)]
        for frame in (*shown, None):
            for packet in stream.encode(frame):
                container.mux(packet)
    data = bytearray(path.read_bytes())
    at = data.find(struct.pack(">9i", *MATRICES[0]), data.find(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", *MATRICES[clockwise])
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("clockwise", "shape", "corner"),
    [(0, (64, 96), (0, 0)), (90, (96, 64), (0, 1)), (180, (64, 96), (1, 1)), (270, (96, 64), (1, 0))],
)
def test_videos_are_turned_as_players_turn_them(tmp_path, clockwise, shape, corner):
    write_video(tmp_path / "v.mp4", clockwise)
    ((name, picture),) = read_frames(str(tmp_path / "v.mp4"))
    assert name == "v_000000" and picture.shape == (*shape, 3) and picture.flags.c_contiguous
    height, width = shape
    for row in range(2):
        for column in range(2):
            middle = picture[height // 4 + row * height // 2, width // 4 + column * width // 2]
            assert (middle > 200).all() if (row, column) == corner else (middle < 60).all()


def test_names_tell_all_inputs_apart(tmp_path):
    write_video(tmp_path / "x.mp4", frames=2)
    for name in ("x.png", "y.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    given = [str(tmp_path / "*.mp4"), str(tmp_path), str(tmp_path / "." / "y.png"), "camera:3"]
    entries = list_inputs(given)
    assert len(entries) == 4  # y.png once
    assert name_inputs(entries) == ["x.mp4", "x.png", "y", "camera3"]
    names = [name for name, _ in read_all_frames(given[:-1])]
    assert names == ["x.mp4_000000", "x.mp4_000001", "x.png", "y"]


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        ({}, range(12)),  # 5 frames a second: 2.4 s
        ({"stride": 5}, (0, 5, 10)),
        ({"fps": 2}, (0, 3, 5, 8, 10)),  # the first ones at or after 0, 0.5, 1, 1.5 and 2 s
        ({"fps": 1}, (0, 5, 10)),
        ({"fps": 25}, range(12)),
        ({"stride": 2, "fps": 1}, (0, 6, 10)),
    ],
)
def test_frames_are_chosen_by_number_and_time(tmp_path, settings, numbers):
    write_video(tmp_path / "v.mp4", frames=12)
    entry, sampling = str(tmp_path / "v.mp4"), Sampling(**settings)
    frames = list(read_timed_frames(entry, None, sampling))
    assert [frame.name for frame in frames] == [f"v_{number:06d}" for number in numbers]
    assert [frame.time for frame in frames] == pytest.approx([number / 5 for number in numbers])
    assert count_frames(entry, sampling) == len(frames)


def test_times_in_whole_milliseconds_lose_no_frame():
    """As Matroska has them, of 30 frames a second, and of 29.97."""
    for rate in (30.0, 29.97):
        times = [round(number / rate, 3) for number in range(90)]
        is_taken = Sampling(fps=rate).make_test()
        assert all(is_taken(number, seconds) for number, seconds in enumerate(times))
        is_taken = Sampling(fps=10).make_test()
        taken = [number for number, seconds in enumerate(times) if is_taken(number, seconds)]
        assert taken == list(range(0, 90, 3))


def test_images_have_no_time_and_are_all_taken(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    write_video(tmp_path / "y.mp4", frames=7)
    entries = list_inputs([str(tmp_path / "*.png"), str(tmp_path / "*.mp4")])
    (frame,) = read_timed_frames(entries[0], None, Sampling(stride=3, fps=1))
    assert (frame.name, frame.time) == ("x", None)
    assert count_all_frames(entries, Sampling(stride=3)) == 1 + 3
    assert count_all_frames(entries, limit=5) == 5
    assert count_all_frames([*entries, "camera:0"]) is None


def test_nothing_is_counted_of_what_is_no_video(tmp_path):
    (tmp_path / "v.mp4").write_bytes(b"no video")
    assert count_frames(str(tmp_path / "v.mp4")) is None
    with pytest.raises(ValueError, match="no video that can be read"):
        list(read_timed_frames(str(tmp_path / "v.mp4")))


@pytest.mark.parametrize("settings", [{"stride": 0}, {"fps": 0}, {"fps": float("nan")}])
def test_samplings_out_of_range(settings):
    with pytest.raises(ValueError, match="must be"):
        Sampling(**settings)


def write_noise(path, seconds, with_sound=False):
    """A video of 5 frames a second whose bytes are spread evenly; sound is 4 s longer."""
    rng = np.random.default_rng(0)
    options = {"movflags": "faststart"} if path.suffix == ".mp4" else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream("aac", rate=8000, layout="mono") if with_sound else None
        for _ in range(5 * seconds):
            picture = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
        if sound:
            for second in range(seconds + 4):
                silence = np.zeros((1, 8000), np.float32)
                frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 8000, 8000 * second
                container.mux(sound.encode(frame))
            container.mux(sound.encode(None))


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("with_sound", [False, True])
def test_a_video_that_is_cut_short_is_told(tmp_path, suffix, with_sound):
    path = tmp_path / f"v.{suffix}"
    write_noise(path, 6, with_sound)
    assert len(list(read_timed_frames(str(path)))) == 30
    assert len(list(read_timed_frames(str(path), None, Sampling(stride=30)))) == 1
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        CutShortError, match=rf"v\.{suffix}' ends after [123]\.\d of 6\.0 s: it is cut short"
    ):
        list(read_timed_frames(str(path)))
    told = []
    seen = list(end_where_cut(read_timed_frames(str(path)), told.append))
    assert 5 <= len(seen) < 20 and len(told) == 1


def test_a_video_of_a_picture_that_is_shown_for_long(tmp_path):
    """Its last frame has a time long before the end."""
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for number in (0, 40):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 96, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, fractions.Fraction(1, 5)
            packets = stream.encode(frame)
            for packet in packets:
                packet.duration *= 50
            container.mux(packets)
        container.mux(stream.encode(None))
    assert len(list(read_timed_frames(str(path)))) == 2


def test_a_video_without_a_frame_is_told(tmp_path):
    path = tmp_path / "v.mkv"
    write_noise(path, 6)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\x1f\x43\xb6\x75") + 20])  # the head of the first cluster
    with pytest.raises(ValueError, match=r"v\.mkv' holds no frame that can be decoded"):
        list(read_timed_frames(str(path)))


def test_a_camera_that_ends_is_told(monkeypatch):
    cv2 = pytest.importorskip("cv2")

    class Camera:
        left = 3

        def __init__(self, number):
            pass

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

        def release(self):
            pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with pytest.raises(CutShortError, match="'camera:0' gives no more pictures after 3 frames"):
        list(read_timed_frames("camera:0"))


def test_what_is_left_out_of_folders_is_told(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "images.json", "a.d2fc", ".hidden"):
        (photos / name).touch()
    assert describe_left_out([str(photos), str(photos / "a.png"), "camera:0"]) == []
    for name in ("IMG_0001.HEIC", "c.jfif"):
        (photos / name).touch()
    (line,) = describe_left_out([str(photos)])
    assert line.startswith(f"2 files of {str(photos)!r} are no images") and "'IMG_0001.HEIC'" in line
    (photos / "more").mkdir()
    (line,) = describe_left_out([str(photos)])
    assert line.endswith(f"sub-folders of {str(photos)!r} are not looked into, e.g. 'more'")
