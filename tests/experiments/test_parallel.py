"""Trainings of a plan, and measurements beside them, by several processes, which are real ones."""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time

import networks
import pytest
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2_featcomp.cli import main, reproduce
from d2_featcomp.experiments import measure_alone, read_experiment, train_alone, train_in_parallel

TINY = {
    **networks.TINY,
    "MODEL.FEATCOMP.MSFF.LEVEL": "p5",
    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 1,
    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 1,
    "INPUT.MIN_SIZE_TRAIN": [96],
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ["parallel_train"],
    "DATASETS.TEST": ["parallel_val"],
}
# Module that registers the data set, for every process that imports it.
DATA = """
import os
from detectron2.data import DatasetCatalog
from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes

if "parallel_train" not in DatasetCatalog:
    root = os.path.join(os.path.dirname(__file__), "scenes")
    register_scenes("parallel", root, procedural_recipe({"train": 4, "val": 3}))
"""


@pytest.fixture(autouse=True)
def data_set(tmp_path):
    """In this process, too, where plans that name it are read."""
    before = set(DatasetCatalog)
    exec(DATA, {"__file__": str(tmp_path / "parallel_data.py")})
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_plan(folder, **changes):
    path = folder / "plan.yaml"
    detector = {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [1]}
    description = {
        "config_file": os.path.abspath("configs/quick/msfc_R18.yaml"),
        "trainings": {
            "detector": {"overrides": detector},
            "plain": {"overrides": detector},
            "msfc": {"start": "detector", "overrides": {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [3]}},
        },
        "curves": [{"name": "MSFC", "training": "msfc", "points": [{"name": "n = 2"}]}],
        **changes,
    }
    path.write_text(yaml.safe_dump(description))
    return str(path)


HELP = """
def note(what):
    with open(os.path.join(output, "notes"), "a") as file:
        print(json.dumps([what, name, os.environ["OMP_NUM_THREADS"]]), file=file)

def told():
    with open(os.path.join(output, "notes")) as file:
        return [json.loads(line)[:2] for line in file if line.endswith("\\n")]

def wait_for(*step):
    while list(step) not in told():
        time.sleep(0.05)

def finish():
    open(os.path.join(folder, "model_final.pth"), "w").close()
    with open(os.path.join(folder, "key.json"), "w") as file:
        json.dump({"complete": True}, file)
    note("ends")

"""
FINISH = """
note("begins")
others = {"detector": "plain", "plain": "detector"}
if name in others:
    wait_for("begins", others[name])
finish()
"""


def script(body, helpers=HELP):
    """A command that does as a training does: `task`, `name` and `folder` are known to it."""
    text = (
        textwrap.dedent("""
        import json, os, sys, time
        task, name, output = sys.argv[1:]
        folder = os.path.join(output, "trainings", name)
        os.makedirs(folder, exist_ok=True)
        """)
        + helpers
        + textwrap.dedent(body)
    )
    return lambda output: lambda task, name: [sys.executable, "-c", text, task, name, str(output)]


def notes(output):
    return [json.loads(line) for line in (output / "notes").read_text().splitlines()]


def test_each_training_begins_when_its_start_is_done(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plan, output = read_experiment(write_plan(tmp_path)), tmp_path / "out"
    command = script(FINISH)(output)
    train_in_parallel(plan, str(output), workers=2, make_command=command)
    steps = [(what, name) for what, name, _ in notes(output)]
    assert {name for what, name in steps[:2] if what == "begins"} == {"detector", "plain"}
    assert steps.index(("ends", "detector")) < steps.index(("begins", "msfc"))
    assert len(steps) == 6
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert {threads for _, _, threads in notes(output)} == {str(share)}

    # What is done is not done again.
    train_in_parallel(plan, str(output), workers=2, make_command=command)
    assert len(notes(output)) == 6

    # Nor for another experiment that uses it.
    other = str(tmp_path / "other")
    train_in_parallel(plan, other, workers=2, make_command=command, trained_in=str(output))
    assert len(notes(output)) == 6 and os.listdir(other) == []


def test_what_trainings_log_is_shown_while_they_run(tmp_path, caplog):
    plan, output = read_experiment(write_plan(tmp_path)), tmp_path / "out"
    body = """
        print("[11/29 00:22:13 d2.utils.events]:  eta: 0:42:56  iter: 39", flush=True)
        print("drawing scenes:   2%", end="\\r", flush=True)
        print("a traceback, or what a library prints")
        head = "\\x1b[32m[11/29 00:22:14 d2_featcomp]: \\x1b[0m"  # as in colours of a terminal
        print("\\x1b[5m\\x1b[31mWARNING\\x1b[0m " + head + "the disk is nearly full")
        print(head + "done")
        print("[11/29 00:22:16 d2_featcomp]: cut sho", end="", flush=True)
        """
    caplog.set_level(logging.INFO, "d2_featcomp")
    command = script(textwrap.dedent(body) + FINISH)(output)
    train_in_parallel(plan, str(output), workers=2, make_command=command)
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    told = [line for line in told if line[1].startswith("plain: ")]
    assert told == [
        ("INFO", "plain: eta: 0:42:56  iter: 39"),
        ("WARNING", "plain: the disk is nearly full"),
        ("INFO", "plain: done"),
    ]


def test_workers_get_the_options_of_the_command():
    parser = argparse.ArgumentParser()
    reproduce.add_arguments(parser)
    given = ["plan.yaml", "--output", "out", "--trainings", "other", "--seeds", "1", "2", "--retrain"]
    args = parser.parse_args([*given, "--workers", "2"], argparse.Namespace(imports=["project"]))
    command = reproduce._make_command(args, "train", "MSFC, seed 1")
    assert command[1:4] == ["-m", "d2_featcomp", "reproduce"]
    wanted = {"train": ["MSFC, seed 1"], "workers": 1, "imports": ["project"]}
    parser.add_argument("--import", dest="imports", action="append")
    found = vars(parser.parse_args(command[4:]))
    assert found == {**vars(args), **wanted}


PLAIN = {"name": "plain", "training": "plain", "overrides": {"MODEL.FEATCOMP.ENABLED": False}}


def write_plan_of_four(folder):
    """Two trainings start from `detector`; `plain` and `msfc` are measured."""
    start = {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [1]}
    split = {"start": "detector", "overrides": {**TINY, "MODEL.FEATCOMP.TRAIN.STEPS": [3]}}
    trainings = {"detector": {"overrides": start}, "plain": {"overrides": start}}
    trainings |= {"msfc": split, "second": split}
    return write_plan(folder, levels=[PLAIN], trainings=trainings)


def test_a_process_that_has_nothing_to_train_measures(tmp_path):
    plan, output = read_experiment(write_plan_of_four(tmp_path)), tmp_path / "out"
    body = """
        if task == "measure":
            note("measures")
            time.sleep(600)  # until it is stopped
        note("begins")
        if name == "detector":
            wait_for("measures", "plain")
        if name == "msfc":  # for this training and "second", both processes are needed
            wait_for("begins", "second")
        if name == "second":
            wait_for("measures", "msfc")
        finish()
        """
    train_in_parallel(plan, str(output), workers=2, make_command=script(body)(output))
    steps = [(what, name) for what, name, _ in notes(output)]
    assert steps.index(("ends", "plain")) < steps.index(("measures", "plain"))
    assert steps.index(("ends", "msfc")) < steps.index(("measures", "msfc"))
    assert ("ends", "second") in steps


def test_a_measurement_that_fails_stops_no_training(tmp_path, caplog):
    plan, output = read_experiment(write_plan_of_four(tmp_path)), tmp_path / "out"
    body = """
        if task == "measure":
            note("measures")
            sys.exit("no such codec")
        note("begins")
        if name == "plain":
            wait_for("begins", "msfc")
        if name == "msfc":
            wait_for("begins", "second")
        if name == "second":
            wait_for("measures", "plain")  # after that of "msfc", which has failed
        finish()
        """
    train_in_parallel(plan, str(output), workers=2, make_command=script(body)(output))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert told[0].startswith("measurement of 'msfc' ended with status 1: no such codec (")
    assert ["ends", "second"] in [step[:2] for step in notes(output)]


def test_a_training_that_fails_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    plan, output = read_experiment(write_plan(tmp_path)), tmp_path / "out"
    body = """
        note("begins")
        if name == "plain":
            print("writing a checkpoint")
            sys.exit("the disk is full")
        time.sleep(600)
        """
    with pytest.raises(ChildProcessError) as raised:
        train_in_parallel(plan, str(output), workers=2, make_command=script(body)(output))
    assert str(raised.value).startswith("training 'plain' ended with status 1: the disk is full (")
    assert "plain.txt has all that it said" in str(raised.value)
    assert ["begins", "plain", "3"] in notes(output)


def test_a_job_that_is_cancelled_stops_its_trainings(tmp_path):
    plan, output = write_plan(tmp_path), tmp_path / "out"
    body = """
        with open(os.path.join(output, name + ".pid"), "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
        """
    job = f"""
exec({DATA!r}, {{"__file__": {str(tmp_path / "parallel_data.py")!r}}})
from d2_featcomp.experiments import read_experiment, train_in_parallel
command = {script(body)(output)("train", "NAME")!r}
train_in_parallel(
    read_experiment({plan!r}),
    {str(output)!r},
    workers=2,
    make_command=lambda task, name: [name if word == "NAME" else word for word in command],
)
"""
    with subprocess.Popen([sys.executable, "-c", job]) as process:
        wait_for(lambda: sum(read_pid(path) > 0 for path in output.glob("*.pid")) == 2)
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM
    for path in output.glob("*.pid"):
        with pytest.raises(ProcessLookupError):
            os.kill(read_pid(path), 0)


def read_pid(path):
    return int(path.read_text() or 0)


def wait_for(condition):
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("it did not come true within two minutes")


def test_as_many_gpus_as_there_are_are_shared(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    plan, output = read_experiment(write_plan(tmp_path)), tmp_path / "out"
    noted = HELP.replace("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")
    train_in_parallel(plan, str(output), workers=2, make_command=script(FINISH, noted)(output))
    devices = {name: device for _, name, device in notes(output)}
    assert {devices["detector"], devices["plain"]} == {"4", "7"}


def test_an_experiment_by_two_processes(tmp_path, capsys):
    module = tmp_path / "parallel_data.py"
    module.write_text(DATA)
    missed = [{"setting": "n = 2", "column": "box AP", "at_least": 101}]
    pictures = {"setting": "n = 2", "reference": "plain", "count": 1}
    plan, output = write_plan(tmp_path, pictures=pictures, goals=missed), tmp_path / "out"
    command = ["reproduce", plan, "--import", str(module), "--output", str(output), "--seeds", "5"]
    with pytest.raises(SystemExit) as raised:
        main([*command, "--workers", "2"])
    assert raised.value.code == 1  # it missed its goal
    assert json.loads((output / "summary.json").read_text())["processes"] == 2
    assert list((output / "pictures").iterdir())
    names = {"detector_seed_5", "plain_seed_5", "msfc_seed_5"}
    weights = {path.parent.name: path.stat().st_mtime_ns for path in output.rglob("model_final.pth")}
    assert weights.keys() == names
    assert "n = 2, seed 5" in (output / "results.csv").read_text()
    marks = [json.loads((output / "trainings" / name / "key.json").read_text()) for name in names]
    assert {mark["config"]["SEED"] for mark in marks} == {5}

    # One more training alone, and nothing measured.
    assert main([*command, "6", "--train", "detector, seed 6"]) == 0
    assert (output / "trainings" / "detector_seed_6" / "model_final.pth").exists()
    assert "seed 6" not in (output / "results.csv").read_text()
    assert main([*command, "6", "--train", "msfc, seed 6"]) == 0

    # Its network measured alone: nothing is left to do of it.
    assert main([*command, "6", "--measure", "msfc, seed 6"]) == 0
    assert "seed 6" not in (output / "results.csv").read_text()
    records = read_records(output)
    assert records
    main([*command, "6", "--train", "plain"])  # of both seeds, of which one is there
    assert (output / "trainings" / "plain_seed_6" / "model_final.pth").exists()
    with pytest.raises(SystemExit):
        main([*command, "6"])
    assert "n = 2, seed 6" in (output / "results.csv").read_text()
    assert read_records(output) == records

    # What is wrong is told before anything is trained.
    for names, words in [
        (["--train", "plain, seed 7", "msfc, seed 7"], "starts from 'detector, seed 7', which is not"),
        (["--train", "detector, seed 7", "--measure", "msfcc"], "no training 'msfcc': choose of"),
    ]:
        with pytest.raises(SystemExit):
            main([*command, "7", *names])
        assert words in capsys.readouterr().err
    assert not list((output / "trainings").glob("*_seed_7"))


def read_records(output):
    return {path.name: path.read_bytes() for path in (output / "records").glob("*.records")}


def test_mistakes(tmp_path):
    plan, output = read_experiment(write_plan(tmp_path)), str(tmp_path / "out")
    with pytest.raises(ValueError, match="the number of workers is 0: it must be 1 or more"):
        train_in_parallel(plan, output, workers=0, make_command=list)
    with pytest.raises(ValueError, match="no training 'MSFC': choose of 'detector', 'msfc', 'plain'"):
        train_alone(plan, output, ["MSFC"])
    with pytest.raises(ValueError, match="no training 'MSFC': choose of 'detector', 'msfc', 'plain'"):
        measure_alone(plan, output, ["MSFC"])
    with pytest.raises(ValueError, match="training 'msfc' is not done yet: there is nothing to measure"):
        measure_alone(plan, output, ["msfc"])
    for name, content in {"model_final.pth": "", "key.json": '{"complete": true}'}.items():
        path = tmp_path / "out" / "trainings" / "detector" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    with pytest.raises(
        ValueError, match="no curve, level or anchor of the plan measures training 'detector'"
    ):
        measure_alone(plan, output, ["detector"])
