"""tools/benchmark.py: every measurement runs, and says what it measured."""

import json

import processes
import pytest
import torch

from d2_featcomp.benchmarks import networks as benchmarked
from d2_featcomp.benchmarks.common import Settings
from d2_featcomp.modeling import processor

FAST = ("edge", "cloud", "quantizer", "learned", "lossless", "hevc", "pipeline")
# The edge half compiled, too, for which alone a C++ compiler works half a minute.
COMPILED = ("edge",)
SLOW = (
    *("onnx", "baf_edge", "codec", "training", "compressibility_loss", "sweep", "processes"),
    "throughput",
)


def measure(names, tmp_path, *more):
    output = tmp_path / "new" / "benchmark.json"
    arguments = [*names, "--repeats", "1", "--size", "64x96", *more, "--output", output]
    status, told, errors = processes.call(
        "tools/benchmark.py", arguments, tmp_path / "told", timeout=600
    )
    assert status == 0, errors
    found = json.loads(output.read_text())
    assert found["size"] == [64, 96] and found["threads"] == 1
    for row in found["results"]:
        assert row["what"] in told and row["value"] > 0 and row["value_against"] > 0
        pair = row["value"] / row["value_against"], row["value_against"] / row["value"]
        assert row["ratio"] == pytest.approx(pair[0] if "<=" in row["goal"] else pair[1]) or (
            not row["goal"] and row["ratio"] == pytest.approx(pair[0])
        )
    return {row["benchmark"] for row in found["results"]}


def test_the_fast_ones(tmp_path):
    assert measure(FAST, tmp_path, "--no-compile") >= set(FAST) - {"hevc"}


def test_bfloat16_is_left_out_where_the_processor_has_none(monkeypatch):
    for module in (benchmarked, processor):
        monkeypatch.setattr(module, "computes_bfloat16", lambda device: False)
    settings = Settings(device=torch.device("cpu"), size=(64, 96), repeats=1, threads=1, compiles=False)
    rows = [row["what"] for row in benchmarked.benchmark_edge(settings)]
    assert any("fused" in what for what in rows) and not any("bfloat16" in what for what in rows)


@pytest.mark.slow
def test_the_slow_ones(tmp_path):
    names = {*COMPILED, *SLOW}
    assert measure(names, tmp_path) == names
