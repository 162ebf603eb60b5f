"""tools/split_table.py, on random weights; and which split wins when."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from d2_featcomp.codecs import build_image_codec
from d2_featcomp.codecs.entropy.integer_model import _EARLIER_TAPS
from d2_featcomp.engine import SplitCost, find_fastest_ranges, make_input, measure_splits

SCRIPT = "tools/split_table.py"


def cost(name, seconds, size):
    return SplitCost(name, "", 0.0, 0.0, seconds / 2, seconds / 4, 0.0, seconds / 4, size)


def test_who_is_fastest():
    # 0.5 s more of computing, 50 kB less to send: 400 kbit in 0.5 s.
    ranges = find_fastest_ranges([cost("image", 0.4, 51000), cost("split", 0.9, 1000)])
    assert ranges["split"] == (0.0, pytest.approx(800))
    assert ranges["image"] == (pytest.approx(800), math.inf)
    # One in between that never wins, and one that is better in both.
    assert "bad" not in find_fastest_ranges([cost("a", 0.1, 10), cost("bad", 0.2, 20)])
    assert find_fastest_ranges([cost("a", 0.1, 10), cost("bad", 0.2, 20)])["a"] == (0.0, math.inf)
    # A place where the network cannot be split wins nothing, however cheap it is.
    never = dataclasses.replace(cost("bad", 0.1, 10), split_point="")
    assert find_fastest_ranges([cost("a", 0.2, 20), never]) == {"a": (0.0, math.inf)}
    # A slower edge moves it.
    slow = find_fastest_ranges([cost("image", 0.4, 51000), cost("split", 0.9, 1000)], edge_factor=2)
    assert slow["split"][1] < 800


@given(
    st.lists(
        st.tuples(st.integers(1, 1000), st.integers(1, 100000)), min_size=1, max_size=6, unique=True
    ),
    st.floats(0.1, 1e5),
)
def test_ranges_agree_with_the_latencies(given_costs, bandwidth):
    costs = [cost(str(n), ms / 1000, size) for n, (ms, size) in enumerate(given_costs)]
    ranges = find_fastest_ranges(costs)
    latency = {one.name: one.seconds() + 8 * one.size / (1000 * bandwidth) for one in costs}
    for name, (low, high) in ranges.items():
        if low * 1.001 < bandwidth < high * 0.999:
            assert latency[name] <= min(latency.values()) * (1 + 1e-9)
    assert any(low <= bandwidth * 1.001 and bandwidth * 0.999 <= high for low, high in ranges.values())


@pytest.mark.parametrize(
    ("name", "cuts", "expected_points"),
    [
        (
            "msfc",
            ["image", "C2", "C3", "C4", "C5", "pyramid", "answers", "MSFC"],
            ["image", "res2", "res3", "res4", "res5", "backbone", "", "backbone"],
        ),
        (
            "baf",
            ["image", "layer 0", "layer 2", "layer 4", "layer 6", "layer 8", "answers", "BaF"],
            ["image", "layer0", "layer2", "layer4", "layer6", "layer8", "", "layer8"],
        ),
        ("tasks", ["image", "C2", "C3", "C4", "QLayer"], ["image", "res2", "res3", "res4", "backbone"]),
    ],
)
def test_a_row_a_candidate(run_tool, random_network, configured, tmp_path, name, cuts, expected_points):
    network = random_network(name)
    torch.save({"model": network.state_dict()}, tmp_path / "a.pth")
    (tmp_path / "config.yaml").write_text(configured(name, tmp_path / "a.pth").dump())
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    flags = ("--config-file", tmp_path / "config.yaml", "--input", tmp_path / "a.png")
    more = ("--edge-factor", "3", "--output", tmp_path / "a.json", "INPUT.MIN_SIZE_TEST", "64")
    status, told, error = run_tool(SCRIPT, *flags, *more)
    assert status == 0, error
    for cut in cuts:
        assert f"| {cut} " in told
    found = json.loads((tmp_path / "a.json").read_text())["splits"]
    assert [row["name"] for row in found] == cuts
    points = [row["split_point"] for row in found]
    assert points == expected_points
    total = found[0]["cloud_macs"]
    assert found[0]["edge_macs"] == 0 and total > 0
    backbone = found[1:-1]
    edges = [row["edge_macs"] for row in backbone]
    assert edges == sorted(edges) and edges[0] > 0
    for row in backbone:
        assert row["edge_macs"] + row["cloud_macs"] == pytest.approx(total)
    assert all(row["size"] > 20 for row in found)
    assert all((row["cloud_seconds"] == 0) == (row["name"] == "answers") for row in found)
    assert all(row["edge_macs"] == total for row in found if row["name"] == "answers")
    status, _, error = run_tool(SCRIPT, *flags, "--edge-factor", "0")
    assert status == 2 and "must be above 0" in error


def test_macs_of_a_convolution_are_counted(random_network, configured, tmp_path, run_tool):
    """The first layer of YOLO-v3-tiny: 3 x 3 x 3 inputs, 16 outputs, at every pixel."""
    network = random_network("baf")
    torch.save({"model": network.state_dict()}, tmp_path / "a.pth")
    (tmp_path / "config.yaml").write_text(configured("baf", tmp_path / "a.pth").dump())
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    flags = ("--config-file", tmp_path / "config.yaml", "--input", tmp_path / "a.png")
    status, _, error = run_tool(SCRIPT, *flags, "--output", tmp_path / "a.json")
    assert status == 0, error
    row = json.loads((tmp_path / "a.json").read_text())["splits"][1]
    norm = row["edge_macs"] - 27 * 16  # fvcore counts batch norm too
    assert row["name"] == "layer 0" and 0 <= norm <= 16 * 5


def measure(network, configured, folder, name, *settings):
    """dict: row -> cost, of one image of 64 x 96 pixels."""
    torch.save({"model": network.state_dict()}, folder / "a.pth")
    cfg = configured(name, folder / "a.pth", "INPUT.MIN_SIZE_TEST", 64, *settings)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    return {cost.name: cost for cost in measure_splits(cfg, [make_input(pixels, cfg)])}


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_the_image_is_coded_in_its_own_colours(random_network, configured, tmp_path, order):
    found = measure(random_network("msfc"), configured, tmp_path, "msfc", "INPUT.FORMAT", order)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    expected = len(build_image_codec("jpeg420", bits=8, quality=90).encode(pixels))
    assert found["image"].size == expected


@pytest.mark.parametrize(
    "name",
    [
        "build_efficientnet_lite_fpn_backbone",
        pytest.param("build_timm_fpn_backbone", marks=pytest.mark.slow),
    ],
)
def test_stages_of_other_backbones_are_rows(networks, configured, tmp_path, name):
    if "timm" in name:
        pytest.importorskip("timm")
    path, settings = networks.KINDS["msfc"]
    chosen = ("MODEL.BACKBONE.NAME", name, "MODEL.TIMM.NAME", "test_resnet")
    network = networks.build(path, [*networks.listed(settings), *chosen])
    costs = measure(network, configured, tmp_path, "msfc", *chosen)
    stages = ["C2", "C3", "C4", "C5"]
    assert list(costs) == ["image", *stages, "pyramid", "answers", "MSFC"]
    assert [costs[stage].split_point for stage in stages] == ["res2", "res3", "res4", "res5"]
    edges = [costs[stage].edge_macs for stage in (*stages, "pyramid")]
    assert edges == sorted(edges) and edges[0] > 0
    assert costs["C5"].edge_macs + costs["C5"].cloud_macs == pytest.approx(costs["image"].cloud_macs)


def test_what_reduction_adds_to_the_edge(random_network, configured, tmp_path):
    """MSFC of 16 channels at stride 8: 3 x 3 from 4 x 16 to 16 channels, 3 x 3 from these to 4."""
    costs = measure(random_network("msfc"), configured, tmp_path, "msfc")
    by_hand = (9 * 64 * 16 + 9 * 16 * 4) / 8**2
    attention = 2 * 64 * 4 / (64 * 96)
    # fvcore counts two for each value of a batch norm, one for each of a map that changes its size.
    norm, resizing = 2 * 4 / 8**2, 3 * 16 / 8**2
    assert costs["MSFC"].added_macs == pytest.approx(by_hand + attention + norm + resizing, abs=0.01)
    assert costs["MSFC"].edge_macs > costs["MSFC"].added_macs
    assert {cost.added_macs for name, cost in costs.items() if name != "MSFC"} == {0}


def test_networks_of_the_codec_are_added(networks, random_network, configured, tmp_path):
    path, settings = networks.KINDS["msfc"]
    learned = ("MODEL.FEATCOMP.CODEC.NAME", "learned", "MODEL.FEATCOMP.CODEC.LEARNED.HIDDEN", 6)
    network = networks.build(path, [*networks.listed(settings), *map(str, learned)])
    coded = measure(network, configured, tmp_path, "msfc", *learned)["MSFC"]
    plain = measure(random_network("msfc"), configured, tmp_path, "msfc")["MSFC"]
    # Channel by channel: 5 x 5 from the 0 to 3 channels before, 5 x 5, what is known of the channel at
    # each phase, 1 x 1, and four outputs.
    context = sum(25 * 6 * before for before in range(4)) + 4 * 25 * 6 * 6
    phases = [len(taps) * 6 + 6 * 6 + 6 * 4 for taps in _EARLIER_TAPS]
    expected = context + 4 * sum(phases) / 4
    assert coded.added_macs - plain.added_macs == pytest.approx(expected / 8**2, rel=1e-3)
    assert coded.edge_macs - plain.edge_macs == pytest.approx(expected / 8**2, rel=1e-3)
    assert coded.cloud_macs - plain.cloud_macs == pytest.approx(expected / 8**2, rel=1e-3)
