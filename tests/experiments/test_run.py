"""An experiment of a few iterations, run for real."""

import csv
import importlib.util
import json
import os
import shutil

import networks
import pytest
import yaml
from detectron2.data import DatasetCatalog

from d2_featcomp.codecs import FeatureBitstream
from d2_featcomp.data.datasets.scenes import procedural_recipe, register_scenes
from d2_featcomp.experiments import read_experiment, run_experiment
from d2_featcomp.experiments.keys import find_differences
from d2_featcomp.experiments.marks import read_mark
from d2_featcomp.experiments.run import _Run

TINY = {
    **networks.TINY,
    "MODEL.FEATCOMP.MSFF.LEVEL": "p5",
    "INPUT.MIN_SIZE_TRAIN": [96],
    "INPUT.MIN_SIZE_TEST": 96,
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.WARMUP_ITERS": 1,
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.TRAIN": ["experiment_train"],
    "DATASETS.TEST": ["experiment_val"],
}


def description(**changes):
    return {
        "title": "a small one",
        "config_file": os.path.abspath("configs/quick/msfc_R18.yaml"),
        "trainings": {
            "detector": {
                "overrides": {
                    **TINY,
                    "MODEL.FEATCOMP.TRAIN.STEPS": [1],
                    "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 2,
                }
            },
            "msfc": {
                "start": "detector",
                "overrides": {
                    **TINY,
                    "MODEL.FEATCOMP.TRAIN.STEPS": [3],
                    "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
                },
            },
        },
        "levels": [
            {
                "name": "floats",
                "training": "detector",
                "codec": "raw",
                "bits": 32,
                "overrides": {"MODEL.FEATCOMP.SPLIT": "PyramidSplit"},
            }
        ],
        "curves": [{"name": "MSFC", "training": "msfc", "points": [{"name": "n = 2"}]}],
        "pictures": {"setting": "n = 2", "reference": "detector", "count": 1},
        "goals": [
            {"setting": "n = 2", "column": "BPFE packed", "at_most": 0.01},
            {"setting": "n = 2", "column": "BPFE", "minus": "floats", "at_least": 0},
        ],
        **changes,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("experiment")
    register_scenes("experiment", str(root / "scenes"), procedural_recipe({"train": 4, "val": 3}))
    DatasetCatalog.get("experiment_train")
    return root


def run(folder, retrain=False, out="out", trained_in=None, **changes):
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump(description(**changes)))
    experiment = read_experiment(str(path))
    return run_experiment(experiment, str(folder / out), retrain=retrain, trained_in=trained_in)


def done(folder):
    """What long work leaves behind: weights of trainings, results of measurements."""
    paths = [*folder.glob("out/trainings/*/model_final.pth"), *folder.glob("out/records/*.result.json")]
    return {str(path.relative_to(folder / "out")): path.stat().st_mtime_ns for path in paths}


def test_an_experiment_from_start_to_end_and_again(folder):
    missed = run(folder)
    assert len(missed) == 1 and missed[0].startswith("n = 2: BPFE minus that of floats -")
    out = folder / "out"
    with open(out / "results.csv", newline="") as file:
        rows = {row["setting"]: row for row in csv.DictReader(file)}
    # p2..p5 of 96 x 128 pixels as floats, p6 not sent: 1020 of 1024 positions. n = 2: 4 channels of 12.
    assert float(rows["floats"]["BPFE packed"]) == pytest.approx(32 * 1020 / 1024)
    assert float(rows["n = 2"]["BPFE packed"]) == pytest.approx(4 * 12 * 2 / (16 * 1024))
    assert 0 <= float(rows["n = 2"]["box AP"]) <= 100
    with open(out / "results.json") as file:
        assert set(json.load(file)["settings"]) == {"floats", "n = 2"}
    assert (out / "curves.png").stat().st_size > 5000 and (out / "curves.svg").stat().st_size > 5000
    assert sorted(os.listdir(out / "pictures")) == [
        f"000000{end}" for end in (".d2fc", "_detections.png", "_features.png")
    ]
    FeatureBitstream.from_bytes((out / "pictures" / "000000.d2fc").read_bytes())
    if importlib.util.find_spec("plotly"):
        text = (out / "report.html").read_text(encoding="utf-8")
        assert "<option selected>network that is not split, not compressed</option>" in text
        assert text.count("type='range'") == 1 and '"column": "box AP"' in text

    # Nothing is done twice.
    before = done(folder)
    assert len(before) == 4
    for end in (".d2fc", "_detections.png", "_features.png"):  # of an earlier plan
        (out / "pictures" / f"earlier{end}").write_bytes(b"png")
    (out / "pictures" / "mine.png").write_bytes(b"png")
    run(folder)
    assert done(folder) == before
    assert sorted(os.listdir(out / "pictures"))[3:] == ["mine.png"]
    if importlib.util.find_spec("plotly"):
        text = (out / "report.html").read_text(encoding="utf-8")
        assert "<figcaption>000000_features.png<" in text and "<figcaption>mine.png<" not in text

    # Another experiment may use its trainings.
    run(folder, out="other", trained_in=str(out), goals=[])
    assert not (folder / "other" / "trainings").exists() and done(folder) == before
    assert (folder / "other" / "results.csv").read_bytes() == (out / "results.csv").read_bytes()

    # What is new is measured, and nothing else.
    points = [{"name": "n = 2"}, {"name": "n = 4", "bits": 4}]
    curves = [{"name": "MSFC", "training": "msfc", "points": points}]
    run(folder, curves=curves)
    more = done(folder)
    assert before.items() < more.items() and len(more) == 5

    # Keys on which no weights depend are no reason to train again.
    trainings = description()["trainings"]
    trainings["msfc"]["overrides"] |= {"SOLVER.CHECKPOINT_PERIOD": 77, "VIS_PERIOD": 5}
    run(folder, curves=curves, trainings=trainings)
    assert done(folder) == more

    # Others are named, before anything is done.
    trainings["detector"]["overrides"]["SEED"] = 5
    with pytest.raises(ValueError) as raised:
        run(folder, curves=curves, trainings=trainings)
    assert "training 'detector'" in str(raised.value) and "--retrain" in str(raised.value)
    assert "SEED was 1, is 5" in str(raised.value) and done(folder) == more

    # Asked to, it trains again, and what started from that; the old is kept.
    run(folder, curves=curves, trainings=trainings, retrain=True)
    after = done(folder)
    for name in ("detector", "msfc"):
        weights = f"trainings/{name}/model_final.pth"
        kept = out / "trainings" / f"{name}.old1" / "model_final.pth"
        assert after[weights] != more[weights] and kept.stat().st_mtime_ns == more[weights]
    assert after.keys() > more.keys()


def test_a_missing_checkpoint_is_told_before_anything_is_done(tmp_path):
    path, output = tmp_path / "plan.yaml", tmp_path / "output"
    trainings = {"detector": {"checkpoint": "nowhere/detector.pth"}}
    levels = [{"name": "uncompressed", "training": "detector"}]
    alone = {"curves": [], "goals": [], "pictures": {}}
    path.write_text(yaml.safe_dump(description(trainings=trainings, levels=levels, **alone)))
    with pytest.raises(FileNotFoundError) as raised:
        run_experiment(read_experiment(str(path)), str(output))
    assert str(raised.value).startswith("training 'detector': no checkpoint '")
    assert "nowhere/detector.pth': put it there, or set DETECTRON2_DATASETS" in str(raised.value)
    assert not output.exists()


def test_trainings_that_are_not_there_are_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty' holds no trainings: give the --output of"):
        run(tmp_path, trained_in=str(tmp_path / "empty"))
    assert not (tmp_path / "out").exists()


def test_differences_between_trainings():
    before = {"SEED": 1, "SOLVER.MOMENTUM": 0.9, "MODEL.OF_AN_EARLIER_RELEASE": 3}
    now = {"SEED": 1, "SOLVER.MOMENTUM": 0.9}
    assert find_differences(before, now) == []
    # A release that adds keys, with their defaults.
    assert find_differences(before, {**now, "SOLVER.GAMMA": 0.1, "INPUT.FORMAT": "BGR"}) == []
    assert find_differences(before, {**now, "SOLVER.GAMMA": 0.5, "SEED": 2}) == [
        "SEED was 1, is 2",
        "SOLVER.GAMMA was 0.1, is 0.5",
    ]
    assert find_differences({**before, "SOLVER.GAMMA": 0.5}, now) == ["SOLVER.GAMMA was 0.5, is 0.1"]


def test_what_a_training_reads_beside_its_settings(folder, tmp_path, monkeypatch):
    """Weights that it starts from, and the size of images that starts and stage 4 read."""
    weights = tmp_path / "start.pth"
    weights.write_bytes(b"some")

    def open_run(size=96, **options):
        trainings = description()["trainings"]
        given = {"MODEL.WEIGHTS": str(weights), "INPUT.MIN_SIZE_TEST": size}
        trainings["detector"]["overrides"] |= given
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(description(trainings=trainings)))
        return _Run(read_experiment(str(path)), str(tmp_path / "out"), **{"retrain": False, **options})

    def train(cfg, resume):
        with open(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), "w"):
            pass

    monkeypatch.setattr("d2_featcomp.experiments.run.train_stages", train)
    run = open_run()
    run.train(run.plan.trainings["detector"])
    run.check_trainings()
    with pytest.raises(ValueError, match=r"INPUT\.MIN_SIZE_TEST was 96, is 64"):
        open_run(size=64).check_trainings()
    weights.write_bytes(b"others")
    with pytest.raises(ValueError, match=r"start.pth' holds other weights than those it started from"):
        open_run().check_trainings()
    again = open_run(retrain=True)
    assert not again.is_trained(again.plan.trainings["detector"])
    weights.unlink()  # what they were is not needed any more
    open_run().check_trainings()
    weights.write_bytes(b"others")

    # Earlier releases noted neither.
    path = tmp_path / "out" / "trainings" / "detector" / "key.json"
    mark = json.loads(path.read_text())
    del mark["weights"], mark["config"]["INPUT.MIN_SIZE_TEST"], mark["config"]["INPUT.MAX_SIZE_TEST"]
    path.write_text(json.dumps(mark))
    open_run().check_trainings()


def test_a_training_that_ended_before_it_began_is_none(tmp_path):
    """One whose data set was not there, e.g.: corrected, it is no other training."""
    (tmp_path / "key.json").write_text(json.dumps({"complete": False, "config": {"SEED": 1}}))
    assert read_mark(str(tmp_path)) is None
    (tmp_path / "log.txt").touch()
    assert read_mark(str(tmp_path)) is not None


def test_a_training_of_an_earlier_version_is_taken_as_it_is(tmp_path, caplog):
    plan = tmp_path / "experiment.yaml"
    plan.write_text(yaml.safe_dump(description()))
    folder = tmp_path / "out" / "trainings" / "detector"
    folder.mkdir(parents=True)
    mark = folder / "key.json"
    mark.write_text('{"key": "0123456789abcdef", "complete": false}')
    with pytest.raises(ValueError, match="did not note its settings"):
        run_experiment(read_experiment(str(plan)), str(tmp_path / "out"))
    mark.write_text('{"key": "0123456789abcdef", "complete": true}')
    run = _Run(read_experiment(str(plan)), str(tmp_path / "out"), retrain=False)
    run.check_trainings()
    assert "taken as it is" in caplog.text
    mark.write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        run.check_trainings()


@pytest.mark.parametrize("annotated", [True, False])
def test_changed_training_data_are_told(folder, tmp_path, monkeypatch, caplog, annotated):
    """Of a training that is used again; what earlier releases did not note is taken as it is."""
    images = tmp_path / "data"
    shutil.copytree(folder / "scenes" / "train" / "images", images)
    truth = json.loads((folder / "scenes" / "instances_train.json").read_text())
    if annotated:
        (images / "annotations.json").write_text(json.dumps(truth))

    def open_run():
        trainings = description()["trainings"]
        trainings["detector"]["overrides"]["DATASETS.TRAIN"] = [f"images:{images}"]
        path = tmp_path / "experiment.yaml"
        path.write_text(yaml.safe_dump(description(trainings=trainings)))
        return _Run(read_experiment(str(path)), str(tmp_path / "out"), retrain=False)

    def train(cfg, resume):
        with open(os.path.join(cfg.OUTPUT_DIR, "model_final.pth"), "w"):
            pass

    def find_told():
        caplog.clear()
        run = open_run()
        run.train(run.plan.trainings["detector"])
        assert "Training 'detector' is there: it is used" in caplog.text
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    monkeypatch.setattr("d2_featcomp.experiments.run.train_stages", train)
    caplog.set_level("INFO", "d2_featcomp")
    run = open_run()
    run.train(run.plan.trainings["detector"])
    assert find_told() == []
    if annotated:
        truth["annotations"] = truth["annotations"][:-1]
        (images / "annotations.json").write_text(json.dumps(truth))
    else:
        os.remove(sorted(images.iterdir())[0])
    (told,) = find_told()
    assert told.startswith(f"the data of images:{images} have changed since training 'detector' began")
    mark = tmp_path / "out" / "trainings" / "detector" / "key.json"
    noted = json.loads(mark.read_text())
    del noted["data"]
    mark.write_text(json.dumps(noted))
    assert find_told() == []
    mark.write_text(json.dumps({**noted, "data": "of others"}))
    shutil.rmtree(images)  # gone, they are not needed any more
    assert find_told() == []
