"""The cloud's program: what its options allow."""

import argparse
import json
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

from d2_featcomp.cli import cloud
from d2_featcomp.codecs import BitstreamError, DecodeLimits, ImageSizes, compress_stream
from d2_featcomp.serving import cloud_program
from d2_featcomp.serving.cloud_program import decode_files, run_cloud
from d2_featcomp.serving.interruptions import orderly_end
from d2_featcomp.serving.serve_program import read_limits, serve
from d2_featcomp.serving.videos import draw_video

CATEGORIES = [{"id": n, "name": str(n)} for n in range(6)]


@pytest.fixture
def network(random_network):
    return random_network("msfc")


@pytest.fixture
def given(tmp_path, network):
    """The options of a call with a bitstream in its folder, and its bytes."""
    image = torch.zeros(3, 32, 32)
    (stream,) = network.edge_inference([{"image": image, "height": 64, "width": 64}])
    (tmp_path / "a.d2fc").write_bytes(stream.to_bytes())
    options = {"input": [str(tmp_path)], "output": str(tmp_path / "out"), "images": None, "draw": None}
    return argparse.Namespace(**options, annotations=None, score_threshold=None), stream.to_bytes()


def test_files_are_decoded_within_limits(network, given):
    args, _ = given
    assert decode_files(network, args, CATEGORIES, DecodeLimits(max_original_pixels=4095)) == 1
    assert decode_files(network, args, CATEGORIES, DecodeLimits(max_original_pixels=4096)) == 0


def listed(tmp_path):
    assert (tmp_path / "out" / "results.json").exists()
    return [i["name"] for i in json.loads((tmp_path / "out" / "images.json").read_text())["images"]]


def test_what_cannot_be_read_does_not_stop_the_rest(network, given, tmp_path, capsys):
    args, data = given
    (tmp_path / "b.d2fc").mkdir()
    (tmp_path / "c.d2fc").write_bytes(data)
    (tmp_path / "d.d2fc").symlink_to("nowhere")
    assert decode_files(network, args, CATEGORIES) == 2
    assert listed(tmp_path) == ["a", "c"]
    told = capsys.readouterr().err
    assert "b.d2fc: it cannot be read (is a directory)" in told and "d.d2fc: it cannot be read" in told


def test_sizes_that_no_edge_gives_do_not_stop_the_rest(random_network, given, tmp_path, capsys):
    network, size = random_network("layer"), (96, 97)
    (shape,) = network.feature_split.reduced_shapes(size)
    forged = compress_stream(
        [torch.rand(shape)],
        network.feature_codec,
        split=network.stored_split_name,
        fingerprint=network.fingerprint(),
        sizes=ImageSizes(size, size, size),
        feature_elements=1,
    )
    (tmp_path / "a.d2fc").write_bytes(forged.to_bytes())
    (good,) = network.edge_inference([{"image": torch.zeros(3, 96, 96)}])
    (tmp_path / "b.d2fc").write_bytes(good.to_bytes())
    assert decode_files(network, given[0], CATEGORIES) == 1
    assert listed(tmp_path) == ["b"]
    assert "a.d2fc: the network cannot compute it" in capsys.readouterr().err


def test_frames_are_drawn_by_whatever_name_the_edge_gave_their_video(
    network, given, tmp_path, capsys, monkeypatch
):
    """Beside a video of the same stem it is named by more of its path; another one is refused."""
    av = pytest.importorskip("av")
    args = given[0]
    (tmp_path / "a.d2fc").rename(tmp_path / "left_walk.mp4_000001.d2fc")
    for folder in ("left", "right"):
        (tmp_path / folder).mkdir()
        with av.open(str(tmp_path / folder / "walk.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            for _ in range(2):
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
    args.draw, args.images = str(tmp_path / "drawn.mp4"), str(tmp_path / "left" / "walk.mp4")
    thresholds = []

    def draw(*drawn):
        thresholds.append(drawn[3])
        return draw_video(*drawn)

    monkeypatch.setattr(cloud_program, "draw_video", draw)
    for args.score_threshold in (None, 0.2):
        assert decode_files(network, args, CATEGORIES) == 0
        assert "drawn.mp4: 1 frames" in capsys.readouterr().out
    assert thresholds == [0.5, 0.2]  # as in pictures
    args.images = str(tmp_path / "right" / "walk.mp4")
    with pytest.raises(ValueError, match=r"none of the 1 bitstreams, .*mp4_000001', is of a"):
        decode_files(network, args, CATEGORIES)


def test_originals_that_cannot_be_read_do_not_stop_the_rest(network, given, tmp_path, capsys):
    args, data = given
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "c.jpg"):
        Image.fromarray(noise).save(photos / name)
    (photos / "a.jpg").write_bytes((photos / "a.jpg").read_bytes()[:1500])
    for name in ("b", "c"):
        (tmp_path / f"{name}.d2fc").write_bytes(data)
    args.images = str(photos)
    assert decode_files(network, args, CATEGORIES) == 1  # and one has no original
    assert listed(tmp_path) == ["a", "b", "c"] and (tmp_path / "out" / "c_found.png").exists()
    told = capsys.readouterr().err
    assert "a.jpg' is no image that can be read" in told and "no image 'b' in" in told


def test_what_was_decoded_before_an_end_is_listed(network, given, tmp_path):
    """SIGTERM while the second of three is decoded."""
    args, data = given
    for name in ("b", "c"):
        (tmp_path / f"{name}.d2fc").write_bytes(data)

    class Stopped:
        count = 0

        def cloud_inference(self, streams):
            self.count += 1
            if self.count == 2:
                os.kill(os.getpid(), signal.SIGTERM)
            return network.cloud_inference(streams)

    with pytest.raises(SystemExit) as raised, orderly_end():
        decode_files(Stopped(), args, CATEGORIES)
    assert raised.value.code == 128 + signal.SIGTERM and listed(tmp_path) == ["a"]
    assert not list((tmp_path / "out").glob(".*"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"input": ["a.d2fc"], "queue": 3, "allow_anonymous": True}, "--queue, --allow-anonymous goes"),
        ({"serve": "127.0.0.1:1", "images": "photos"}, "--images goes with --input"),
        ({"input": ["a.d2fc"], "max_pixels": 0}, "--max-pixels is 0: give a number of pixels"),
    ],
)
def test_options_that_would_have_no_effect_are_refused(options, words, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    parser = argparse.ArgumentParser()
    cloud.add_arguments(parser)
    args = parser.parse_args([])
    vars(args).update(options)
    with pytest.raises(ValueError, match=words):
        run_cloud(args)


def test_limits_of_large_photographs():
    assert read_limits(argparse.Namespace(max_pixels=None)) == DecodeLimits()
    limits = read_limits(argparse.Namespace(max_pixels=6000 * 4000))
    limits.check_sizes(ImageSizes((800, 1216), (800, 1200), (4000, 6000)))
    limits.check_sizes(ImageSizes((192, 256), (170, 256), (4000, 6000)))  # 551 times as many
    with pytest.raises(BitstreamError, match=r"24000000 pixels \(original\).*--max-pixels"):
        DecodeLimits().check_sizes(ImageSizes((800, 1216), (800, 1200), (4000, 6000)))


def test_a_port_that_is_none():
    args = argparse.Namespace(serve="127.0.0.1:80000")
    with pytest.raises(ValueError, match="give HOST:PORT"):
        serve(None, "", args)
