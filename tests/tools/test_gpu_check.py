"""tools/gpu_check.py: parts that fail or take too long do not stop the others; results are read."""

import json
import os
import subprocess
import sys
import time

import pytest

SCRIPT = "tools/gpu_check.py"
ROW = {"what": "edge half", "against": "plain", "value": 0.002, "value_against": 0.004, "ratio": 2.0}


@pytest.fixture
def tool(load_tool):
    return load_tool(SCRIPT)


def python(code):
    return [sys.executable, "-c", code]


def count_lines(log):
    return log.split(), len(log.split())


def test_a_part_that_runs(tool, tmp_path):
    part = tool.Part("words", python("print('one'); print('two')"), 30, count_lines)
    found = tool.run_part(part, 30, str(tmp_path))
    assert found["status"] == "ok" and found["lines"] == ["one", "two"] and found["results"] == 2
    assert 0 < found["seconds"] < 30 and "tail" not in found
    assert (tmp_path / "words.log").read_text().split() == ["one", "two"]


def test_a_part_that_fails_keeps_its_last_words(tool, tmp_path, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    part = tool.Part(
        "bad", python("print('so far'); raise SystemExit('no such thing')"), 30, count_lines
    )
    found = tool.run_part(part, 30, str(tmp_path))
    assert found["status"] == "failed" and found["lines"][-1] == "last line: no such thing"
    assert found["tail"] == ["so far", "no such thing"] and found["results"] == 5
    unread = tool.Part("unread", python("print('no JSON')"), 30, tool.read_machine)
    found = tool.run_part(unread, 30, str(tmp_path))
    assert found["status"] == "failed" and found["lines"][0].startswith("no results: JSONDecodeError")


def test_a_part_that_is_too_slow_ends_with_all_that_it_started(tool, tmp_path):
    code = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""
    start = time.perf_counter()
    found = tool.run_part(tool.Part("slow", python(code), 60, count_lines), 3, str(tmp_path))
    assert found["status"] == "too slow" and time.perf_counter() - start < 20
    child = found["lines"][0]
    deadline = time.perf_counter() + 5
    while is_alive(child) and time.perf_counter() < deadline:
        time.sleep(0.1)
    assert not is_alive(child)
    assert tool.run_part(tool.Part("late", python("1"), 60, count_lines), 0, "")["status"] == "not run"


def is_alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_tests_are_counted_while_they_run(tool):
    log = """
scheduling tests via WorkStealingScheduling
tests/a.py::test_one[x-2]
[gw1] [ 25%] PASSED tests/a.py::test_one[x-2]
[gw0] [ 50%] FAILED tests/a.py::test_two[a b]
[gw0] [ 75%] SKIPPED tests/b.py::test_three
[gw1] [100%] PASSED tests/b.py::test_four
[gw1] [100%] ERROR tests/b.py::test_four
FAILED tests/a.py::test_two[a b] - RuntimeError: on two devices
"""
    lines, found = tool.read_tests(log)
    assert found["counts"] == {"PASSED": 1, "FAILED": 1, "SKIPPED": 1, "ERROR": 1}
    assert found["failed"] == ["tests/a.py::test_two[a b]", "tests/b.py::test_four"]
    assert lines[1:] == [
        "failed: tests/a.py::test_two[a b]: RuntimeError: on two devices",
        "failed: tests/b.py::test_four",
    ]
    alone = "tests/a.py::test_one PASSED   [ 50%]\ntests/a.py::test_two FAILED [100%]\n"
    assert tool.read_tests(alone)[1]["counts"] == {"PASSED": 1, "FAILED": 1}


def test_benchmarks_are_read_from_what_they_wrote(tool, tmp_path):
    rows = [{**ROW, "goal": ">= 1.3"}, {**ROW, "goal": "", "unit": "images/s"}]
    (tmp_path / "edge.json").write_text(json.dumps({"results": rows}))
    lines, found = tool.read_benchmark(str(tmp_path / "edge.json"))("")
    assert lines == [
        "edge half: 2 ms; plain: 4; ratio 2 (>= 1.3)",
        "edge half: 0.002 images/s; plain: 0.004; ratio 2",
    ]
    assert found == rows


def test_a_training_is_read_from_its_last_line(tool):
    group = {"bbox": {"AP": 31.25}, "segm": {"AP": 29.0}}
    found = {
        "image_size": 512,
        "images": 8,
        "iterations": [60, 40],
        "seconds_per_iteration": 0.1,
        "results": {"alone": group, "cut": {**group, "feature_rate": {"kB": 1.5}}},
    }
    lines, again = tool.read_training(f"drew the scenes\n{json.dumps(found)}\n")
    assert again == found
    assert lines == [
        "512 px, [60, 40] iterations of 8 images, 100 ms each",
        "alone: bbox AP 31.2, segm AP 29.0",
        "cut: bbox AP 31.2, segm AP 29.0, 1.500 kB an image",
    ]


def check(tmp_path, *arguments):
    output = tmp_path / "new" / "gpu.json"
    done = subprocess.run(
        ["sh", "tools/gpu_check.sh", "--device", "cpu", "--output", str(output), *arguments],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done, json.loads(output.read_text()) if output.exists() else None


def test_it_goes_on_after_a_failure_and_tells_it(tmp_path):
    # No test has that name: pytest fails.
    done, found = check(tmp_path, "--only", "machine", "tests", "--tests", "no_test_has_that_name")
    assert done.returncode == 1, done.stderr
    assert [(part["name"], part["status"]) for part in found["parts"]] == [
        ("machine", "ok"),
        ("tests", "failed"),
    ]
    assert found["device"] == "cpu" and found["parts"][0]["results"]["sum on it"] == 1000
    assert "no_test_has_that_name" not in found["parts"][0]["lines"][0]
    log = (tmp_path / "new" / "gpu.log").read_text()
    assert "== machine: ok" in log and "== tests: failed" in log
    assert sorted(os.listdir(tmp_path / "new")) == ["gpu.json", "gpu.log"]
    assert "| machine | ok" in done.stdout and "| tests   | failed" in done.stdout


def test_an_unknown_part_is_refused(run_tool, tmp_path):
    output = tmp_path / "gpu.json"
    arguments = ("--device", "cpu", "--output", output, "--only", "nothing")
    status, _, error = run_tool(SCRIPT, *arguments)
    assert status == 2 and "no parts ['nothing']" in error and not output.exists()


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path):
    done, found = check(tmp_path, "--budget", "900", "--training", "5")
    assert done.returncode == 0, done.stdout
    parts = {part["name"]: part for part in found["parts"]}
    assert list(parts) == ["machine", "tests", "cloud", "codec", "training"]
    assert parts["tests"]["results"]["counts"]["PASSED"] > 150
    results = parts["training"]["results"]["results"]
    assert results["through bitstreams"]["feature_rate"]["kB"] > 0
