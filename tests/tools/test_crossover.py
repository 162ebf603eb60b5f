"""tools/crossover.py, on random weights."""

import re

import networks
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2_featcomp.deploy.crossover import find_crossover, make_image_config, measure_latencies

SCRIPT = "tools/crossover.py"
CONFIG = networks.MSFC
SMALL = networks.listed(networks.TINY)


def test_where_both_take_equally_long():
    # 0.5 s more of computing, 50 kB less to send: 400 kbit in 0.5 s.
    assert find_crossover((0.9, 1000), (0.4, 51000)) == pytest.approx(800)
    assert find_crossover((0.4, 51000), (0.9, 1000)) == pytest.approx(800)
    assert find_crossover((0.4, 1000), (0.9, 51000)) is None
    assert find_crossover((0.4, 1000), (0.4, 51000)) is None


def test_a_table_a_bandwidth(run_tool, tmp_path):
    networks.save("msfc", tmp_path / "a.pth")
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        pixels = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    flags = ("--config-file", CONFIG, "--input", tmp_path / "*.png", "--bandwidths", "100,1000")
    opts = (*SMALL, "INPUT.MIN_SIZE_TEST", "64", "MODEL.WEIGHTS", tmp_path / "a.pth")
    status, told, error = run_tool(SCRIPT, *flags, "--edge-factor", "2", *opts)
    assert status == 0, error
    assert re.search(
        r"^\| +100 \|.*\|\n\| +1000 \|.*\|\n(cross-over: \d+ kbit/s|\w+ is faster at)", told, re.M
    )
    status, _, error = run_tool(SCRIPT, *flags, "--edge-factor", "0", *opts)
    assert status == 2 and "must be above 0" in error


@pytest.mark.parametrize(
    "chosen",
    [
        ("MODEL.FEATCOMP.CODEC.NAME", "variable_rate", "MODEL.FEATCOMP.CODEC.TARGET_KB", "0.3"),
        ("MODEL.FEATCOMP.SPLIT", "IntermediateLayerSplit", "MODEL.FEATCOMP.SPLIT_POINT", "res3"),
    ],
)
def test_the_image_is_sent_whatever_the_split_is(chosen):
    network = build_model(make_image_config(CONFIG, [*SMALL, *chosen], "jpeg420", 90)).eval()
    (stream,) = network.edge_inference([{"image": torch.zeros(3, 64, 96)}])
    assert (stream.codec, stream.shapes) == ("jpeg420", ((3, 64, 96),))


def test_photographs_may_be_larger_than_a_cloud_takes():
    network = networks.build(CONFIG, SMALL)
    record = {"image": torch.zeros(3, 32, 32), "height": 600, "width": 600}  # 350 times as many pixels
    _, size, _ = measure_latencies({"split": network}, [record])["split"]
    assert size > 20
