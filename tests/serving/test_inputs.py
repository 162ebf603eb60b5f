"""What the edge program reads: upright, and by names of its own."""

import struct

import numpy as np
import pytest
from PIL import Image

from d2_featcomp.serving import list_inputs, name_inputs, read_all_frames, read_frames

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
