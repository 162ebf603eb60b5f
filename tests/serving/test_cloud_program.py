"""The cloud's program: what its options allow."""

import argparse

import pytest
import torch

from d2_featcomp.cli import cloud
from d2_featcomp.codecs import BitstreamError, DecodeLimits, ImageSizes
from d2_featcomp.serving.cloud_program import decode_files, run_cloud
from d2_featcomp.serving.serve_program import read_limits, serve


def test_files_are_decoded_within_limits(tmp_path, random_network):
    network, image = random_network("msfc"), torch.zeros(3, 32, 32)
    (stream,) = network.edge_inference([{"image": image, "height": 64, "width": 64}])
    (tmp_path / "a.d2fc").write_bytes(stream.to_bytes())
    given = {"input": [str(tmp_path)], "output": str(tmp_path / "out"), "images": None, "draw": None}
    args = argparse.Namespace(**given, annotations=None, score_threshold=None)
    categories = [{"id": n, "name": str(n)} for n in range(6)]
    assert decode_files(network, args, categories, DecodeLimits(max_original_pixels=4095)) == 1
    assert decode_files(network, args, categories, DecodeLimits(max_original_pixels=4096)) == 0


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
