"""Videos that are written, and results that are drawn onto their frames."""

import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from PIL import Image

from d2_featcomp.codecs import ImageSizes
from d2_featcomp.deploy.classes import make_categories
from d2_featcomp.serving import make_result, read_frames
from d2_featcomp.serving.outputs import list_categories, read_outputs
from d2_featcomp.serving.videos import VideoWriter, draw_answer, draw_video, require_drawable

av = pytest.importorskip("av")
SIZE = (64, 97)  # the width becomes even


class Sizes:
    """Stands for a bitstream."""

    sizes = ImageSizes(original=SIZE, resized=SIZE, padded=SIZE)


def make_output():
    """Two instances, of the third and the first class, whose masks fill the left half of their box."""
    found = Instances(SIZE)
    found.pred_boxes = Boxes(torch.tensor([[10.0, 8.0, 50.0, 40.0], [60.0, 20.0, 90.0, 60.0]]))
    found.scores = torch.tensor([0.9, 0.75])
    found.pred_classes = torch.tensor([2, 0])
    found.pred_masks = torch.zeros(2, *SIZE, dtype=torch.bool)
    found.pred_masks[0, 8:40, 10:30] = True
    found.pred_masks[1, 20:60, 60:75] = True
    return {"bitstream": Sizes(), "instances": found}


def test_results_are_read_back():
    output = make_output()
    answer = json.loads(json.dumps(make_result("x", output, ["dog", "cat", "cow"])))
    categories = list_categories([answer])
    assert [c["name"] for c in categories] == ["dog", "cow"]
    read, written = read_outputs(answer, SIZE)["instances"], output["instances"]
    assert torch.equal(read.pred_classes, written.pred_classes)
    named = read_outputs(answer, SIZE, categories)["instances"].pred_classes
    assert [categories[index]["name"] for index in named] == ["cow", "dog"]
    torch.testing.assert_close(read.pred_boxes.tensor, written.pred_boxes.tensor)
    torch.testing.assert_close(read.scores, written.scores)
    assert torch.equal(read.pred_masks, written.pred_masks)


def test_maps_are_read_back():
    labels = torch.randint(0, 5, SIZE, generator=torch.Generator().manual_seed(0))
    scores = torch.nn.functional.one_hot(labels).permute(2, 0, 1)
    answer = make_result("x", {"bitstream": Sizes(), "sem_seg": scores})
    outputs = read_outputs(answer, SIZE)
    assert torch.equal(outputs["sem_seg"].argmax(dim=0), labels)
    segments = [{"id": 1, "category_id": 3, "isthing": True}]
    answer = make_result("x", {"bitstream": Sizes(), "panoptic_seg": (labels, segments)})
    outputs = read_outputs(answer, SIZE)
    assert torch.equal(outputs["panoptic_seg"][0].long(), labels)
    assert outputs["panoptic_seg"][1] == segments


def test_only_what_is_sure_enough_is_drawn():
    picture = np.full((*SIZE, 3), 127, np.uint8)
    answer = make_result("x", make_output())
    both, one, none = (draw_answer(picture, answer, (), threshold) for threshold in (0.5, 0.8, 0.95))
    assert np.array_equal(none, draw_answer(picture, None))
    scale = none.shape[0] // SIZE[0]
    second = np.s_[scale * 30, scale * 65]  # in its mask
    assert (both[second] != 127).any() and (one[second] == 127).all()
    assert (one[scale * 30, scale * 20] != 127).any()  # in the first one's


def test_a_class_has_one_colour_in_all_frames():
    picture, output = np.full((*SIZE, 3), 127, np.uint8), make_output()
    alone = {**output, "instances": output["instances"][:1]}
    names = ["dog", "cat", "cow"]
    categories = make_categories(names)
    drawn = [
        draw_answer(picture, make_result("x", one, names), categories, threshold=0.8)
        for one in (output, alone)
    ]
    assert np.array_equal(*drawn)
    found = output["instances"]
    both = [draw_answer(picture, make_result("x", one, names), categories) for one in (output, alone)]
    scale = both[0].shape[0] // SIZE[0]
    place = np.s_[scale * 30, scale * 20]  # in the mask of a cow
    assert len(found) == 2 and np.array_equal(both[0][place], both[1][place])


def test_videos_keep_times_and_pictures(tmp_path):
    path = tmp_path / "made" / "v.mp4"
    shades, times = (40, 120, 200), (0.0, 0.5, 1.25)
    with VideoWriter(str(path)) as writer:
        for shade, seconds in zip(shades, times, strict=True):
            writer.write(np.full((*SIZE, 3), shade, np.uint8), seconds)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
        assert [frame.time for frame in frames] == pytest.approx(times, abs=1e-3)
        assert frames[0].format.name == "yuv420p"
    pictures = [picture for _, picture in read_frames(str(path))]
    assert all(picture.shape == (64, 98, 3) for picture in pictures)
    assert [picture.mean() for picture in pictures] == pytest.approx(shades, abs=4)


def test_mistakes(tmp_path):
    with pytest.raises(ValueError, match=r"v\.txt' cannot be written as a video") as raised:
        VideoWriter(str(tmp_path / "v.txt"))
    assert "partial" not in str(raised.value)
    with (
        pytest.raises(ValueError, match="not all of one size"),
        VideoWriter(str(tmp_path / "v.mp4")) as writer,
    ):
        writer.write(np.zeros((64, 96, 3), np.uint8), 0.0)
        writer.write(np.zeros((96, 64, 3), np.uint8), 0.1)
    assert not list(tmp_path.iterdir())


def write_gray(path, stop=None):
    with VideoWriter(str(path)) as writer:
        writer.write(np.full((*SIZE, 3), 100, np.uint8), 0.0)
        if stop:
            raise stop


def test_a_video_is_replaced_when_the_new_one_is_complete(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"what was there")
    with pytest.raises(OSError, match="full"):
        write_gray(path, OSError("disk full"))
    assert path.read_bytes() == b"what was there"
    with pytest.raises(KeyboardInterrupt):
        write_gray(path, KeyboardInterrupt())
    assert [name for name, _ in read_frames(str(path))] == ["v_000000"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_video_without_pictures_is_none(tmp_path):
    path = tmp_path / "v.mp4"
    path.write_bytes(b"what was there")
    assert draw_video([], str(path)) == 0
    assert path.read_bytes() == b"what was there" and list(tmp_path.iterdir()) == [path]


def test_a_drawn_video_is_not_the_original(tmp_path):
    path = tmp_path / "v.mp4"
    write_gray(path)
    (tmp_path / "same.mp4").symlink_to(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is the video itself"):
        require_drawable(str(tmp_path / "same.mp4"), str(path))
    with pytest.raises(ValueError, match="cannot be written as a video"):
        require_drawable(str(tmp_path / "v.txt"), str(path))
    require_drawable(str(tmp_path / "new.mp4"), str(path))
    require_drawable(str(path), "camera:0")
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 2


def test_the_first_frames_are_good(tmp_path):
    path, generator = tmp_path / "v.mp4", np.random.default_rng(0)
    picture = np.full((360, 640, 3), 128.0)  # with details of all sizes, as photographs have
    for scale in range(1, 8):
        coarse = generator.uniform(-6, 6, (360 >> scale, 640 >> scale, 3)).astype(np.float32) * scale
        for channel in range(3):
            smooth = Image.fromarray(coarse[..., channel]).resize((640, 360), Image.Resampling.BICUBIC)
            picture[..., channel] += np.asarray(smooth)
    moving = [np.roll(picture.clip(0, 255).astype(np.uint8), 4 * number, 1) for number in range(12)]
    with VideoWriter(str(path)) as writer:
        for number, frame in enumerate(moving):
            writer.write(frame, number / 30)
    shown = [np.float32(frame) for _, frame in read_frames(str(path))]
    assert max(np.square(a - b).mean() for a, b in zip(shown, moving, strict=True)) < 30  # 33 dB
