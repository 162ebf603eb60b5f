#!/usr/bin/env python
"""Checks a GPU against the CPU and measures its speed, in minutes and without a network.

    tools/gpu_check.sh                          tests marked gpu, then benchmarks: 4 minutes at most
    tools/gpu_check.sh --training 120           then a training of two minutes, and its evaluation
    tools/gpu_check.sh --device cpu             the same on a CPU, with tiny sizes

Each part is a program with a time limit of its own: one that fails or takes too long is told in the
table, and the next one runs. The JSON file is written after each part, and a log of all that was printed
grows beside it. Exit status 1: a part did not succeed.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from tabulate import tabulate

from d2_featcomp.errors import report_errors
from d2_featcomp.files import prepare_file, write_text

BENCHMARKS = ("codec", "cloud", "edge", "throughput", "training", "baf_edge", "compressibility_loss")
ON_CPUS = ("cloud", "codec")  # of the same, those that are quick
TESTS = (
    "tests/codecs/test_gpu_codec.py",
    "tests/modeling/test_gpu_halves.py",
    "tests/modeling/test_gpu_networks.py",
    "tests/modeling/test_msfc.py",
    "tests/engine/test_gpu_training.py",
)
MACHINE = """
import json, platform, sys, detectron2, torch, torchvision
device = torch.device(sys.argv[1])
about = {"python": platform.python_version(), "torch": torch.__version__,
         "torchvision": torchvision.__version__, "detectron2": detectron2.__version__}
if device.type == "cuda":
    about |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda,
              "cudnn": torch.backends.cudnn.version()}
print(json.dumps(about | {"sum on it": torch.ones(1000, device=device).sum().item()}))
"""


@dataclasses.dataclass(frozen=True)
class Part:
    """A program to run.

    Attributes:
        name (str): in the table.
        command (list[str]): the program and its arguments.
        seconds (float): its time limit.
        read (callable): its output, str -> (lines of the table, what the JSON file gets).
    """

    name: str
    command: list
    seconds: float
    read: callable


def read_machine(log):
    about = json.loads(log.strip().splitlines()[-1])
    return [", ".join(f"{key} {value}" for key, value in about.items())], about


# With pytest-xdist "[gw0] [ 5%] PASSED tests/x.py::test", without "tests/x.py::test PASSED [ 5%]".
_WITH_WORKERS = re.compile(r"^\[gw\d+\] \[ *\d+%\] (\w+) (tests/.*?)\s*$")
_ALONE = re.compile(r"^(tests/.*::.*) (PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")


def read_tests(log):
    """Counts what was told test by test, so that a run that was stopped counts, too."""
    found = {}
    for line in log.splitlines():
        if match := _WITH_WORKERS.match(line):
            outcome, test = match.groups()
        elif match := _ALONE.match(line):
            test, outcome = match.groups()
        else:
            continue
        if found.get(test) not in (
            "FAILED",
            "ERROR",
        ):  # a test that passed may fail when it is torn down
            found[test] = outcome
    counts = collections.Counter(found.values())
    bad = sorted(test for test, outcome in found.items() if outcome in ("FAILED", "ERROR"))
    lines = [", ".join(f"{count} {outcome.lower()}" for outcome, count in counts.most_common())]
    reasons = dict(re.findall(r"^(?:FAILED|ERROR) (tests/\S.*?) - (.*)$", log, re.M))
    lines += [f"failed: {test}{': ' + reasons[test][:120] if test in reasons else ''}" for test in bad]
    return lines, {"counts": dict(counts), "failed": bad}


def read_benchmark(path):
    """A function that reads what tools/benchmark.py has written by then."""

    def read(log):
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)["results"]
        lines = []
        for row in rows:
            unit, scale = row.get("unit", "ms"), 1 if "unit" in row else 1000
            value, other = (f"{scale * row[key]:.4g}" for key in ("value", "value_against"))
            text = f"{row['what']}: {value} {unit}; {row['against']}: {other}; ratio {row['ratio']:.3g}"
            lines.append(text if not row["goal"] else f"{text} ({row['goal']})")
        return lines, rows

    return read


def read_training(log):
    found = json.loads(log.strip().splitlines()[-1])
    speed = f"{found['image_size']} px, {found['iterations']} iterations of {found['images']} images"
    lines = [f"{speed}, {1000 * found['seconds_per_iteration']:.0f} ms each"]
    for name, groups in found["results"].items():
        values = [f"{group} AP {groups[group]['AP']:.1f}" for group in ("bbox", "segm")]
        rate = groups.get("feature_rate")
        values += [f"{rate['kB']:.3f} kB an image"] if rate else []
        lines.append(f"{name}: {', '.join(values)}")
    return lines, found


def make_parts(args, folder):
    """list[Part]: in the order in which they run, what matters most first."""
    on_cpu = args.device == "cpu"
    workers = "2" if on_cpu else str(min(6, max(1, (os.cpu_count() or 2) // 2)))
    if args.tests:  # few of them: workers would take longer to start
        workers = "0"
    tests = [sys.executable, "-m", "pytest", "-c", "tests/pytest.ini", "--rootdir", ".", "-m", "gpu"]
    tests += ["-o", "addopts=", "-v", "-n", workers, "--dist", "worksteal", "--tb=short"]
    tests += [
        "--durations=5",
        "--device",
        args.device,
        *TESTS,
        *(["-k", args.tests] if args.tests else []),
    ]
    parts = [
        Part("machine", [sys.executable, "-c", MACHINE, args.device], 60, read_machine),
        Part("tests", tests, 150, read_tests),
    ]
    tiny = ["--size", "64x96", "--repeats", "1"] if on_cpu else []
    for name in ON_CPUS if on_cpu else BENCHMARKS:
        output = os.path.join(folder, f"{name}.json")
        command = [
            sys.executable,
            "tools/benchmark.py",
            name,
            "--device",
            args.device,
            "--output",
            output,
        ]
        parts.append(Part(name, [*command, "--no-compile", *tiny], 60, read_benchmark(output)))
    if args.compiled:
        output = os.path.join(folder, "compiled.json")
        command = [sys.executable, "tools/benchmark.py", "edge", "--device", args.device]
        parts.append(
            Part("compiled", [*command, "--output", output, *tiny], 150, read_benchmark(output))
        )
    if args.training:
        command = [sys.executable, "tools/gpu_training.py", "--device", args.device]
        command += ["--seconds", str(args.training), "--output", os.path.join(folder, "training")]
        # Besides: drawing the scenes, evaluating twice.
        limit = args.training + 100
        parts.append(Part("training", command + ["--tiny"] * on_cpu, limit, read_training))
    return [part for part in parts if not args.only or part.name in args.only]


def run_part(part, limit, folder):
    """Runs a part for so many seconds at most; what it prints goes to `<folder>/<name>.log`.

    Returns:
        dict: name, status ("ok", "failed", "too slow" or "not run"), seconds, limit, lines, results;
        where it ran, log, and where it did not succeed, tail.
    """
    about = {"name": part.name, "status": "not run", "seconds": 0.0, "limit": limit, "results": None}
    if limit <= 0:
        return {**about, "lines": ["no time was left"]}
    path = os.path.join(folder, f"{part.name}.log")
    start = time.perf_counter()
    in_order = {**os.environ, "PYTHONUNBUFFERED": "1"}  # else errors come before what was printed first
    with open(path, "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            part.command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, env=in_order
        )
        try:
            status = "failed" if process.wait(limit) else "ok"
        except subprocess.TimeoutExpired:
            status = "too slow"
        finally:  # with all that it started
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    about.update(status=status, seconds=time.perf_counter() - start)
    with open(path, encoding="utf-8", errors="replace") as file:
        text = about["log"] = file.read()
    try:
        lines, about["results"] = part.read(text)
    except (OSError, ValueError, KeyError, IndexError) as error:
        lines = [f"no results: {type(error).__name__}: {error}"]
        about["status"] = "failed" if status == "ok" else status
    if about["status"] != "ok":
        about["tail"] = text.splitlines()[-40:]
        told = [line for line in about["tail"] if line.strip()]
        lines = [*lines, *(f"last line: {line.strip()[:160]}" for line in told[-1:])]
    return {**about, "lines": lines}


def make_table(done):
    """str: a line for each result; status and time beside the first of each part."""
    rows = []
    for part in done:
        first = [part["name"], part["status"], f"{part['seconds']:.0f} s"]
        for line in part["lines"] or [""]:
            rows.append([*first, line])
            first = ["", "", ""]
    return tabulate(rows, ["part", "status", "took", "result"], tablefmt="pipe", disable_numparse=True)


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), cuda:N or cpu")
    parser.add_argument(
        "--budget",
        type=float,
        default=240,
        help="seconds for tests and benchmarks together (default: 240)",
    )
    parser.add_argument(
        "--training",
        type=float,
        default=0,
        metavar="SECONDS",
        help="train that long, too (default: not)",
    )
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile, too")
    parser.add_argument(
        "--only", nargs="+", metavar="PART", help="these parts alone, e.g. tests throughput"
    )
    parser.add_argument("--tests", metavar="EXPRESSION", help="of the tests only these, as pytest's -k")
    parser.add_argument(
        "--output",
        default=os.path.join(os.environ.get("OUT") or "output", "gpu_check.json"),
        help="JSON file to write (default: gpu_check.json in $OUT, or else in output)",
    )
    return parser.parse_args()


def main(args):
    prepare_file(args.output)
    with tempfile.TemporaryDirectory() as folder:
        done = run_parts(args, folder)
    print(f"\n{make_table(done)}\n\nwritten to {args.output}", flush=True)
    if any(part["status"] != "ok" for part in done):
        sys.exit(1)


def run_parts(args, folder):
    """list[dict]: what :func:`run_part` returns, of each part."""
    parts = make_parts(args, folder)
    unknown = set(args.only or ()) - {part.name for part in parts}
    if unknown:
        raise ValueError(f"no parts {sorted(unknown)}: choose of those of this device and these options")
    start, done = time.perf_counter(), []
    log = f"{os.path.splitext(args.output)[0]}.log"
    write_text("", log)
    for part in parts:
        left = args.budget - (time.perf_counter() - start)
        # The optional ones come last and have time of their own.
        extra = part.name in ("compiled", "training")
        print(f"{part.name} ...", flush=True)
        with _signs_of_life():
            done.append(run_part(part, part.seconds if extra else min(part.seconds, left), folder))
        print(make_table(done[-1:]), flush=True)
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"== {part.name}: {done[-1]['status']}\n{done[-1].pop('log', '')}\n")
        write_text(json.dumps({"device": args.device, "parts": done}, indent=1), args.output)
    return done


@contextlib.contextmanager
def _signs_of_life(seconds=20):
    """Prints a dot now and then."""
    ended = threading.Event()

    def tell():
        while not ended.wait(seconds):
            print(".", flush=True)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    with report_errors():
        main(parse_args())
