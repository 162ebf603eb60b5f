import json
from pathlib import Path

import processes
import pytest
import torch
import yaml
from detectron2.modeling import META_ARCH_REGISTRY

from d2_featcomp.codecs import build_feature_codec
from d2_featcomp.engine import setup_config
from d2_featcomp.engine.command_line import make_plain_config
from d2_featcomp.modeling import FEATURE_SPLIT_REGISTRY, MSFC, find_feature_split

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("configs/**/*.yaml"))
QUICK = "configs/quick/msfc_R18.yaml"


def test_there_are_configs():
    assert QUICK in CONFIGS and "configs/msfc_R50.yaml" in CONFIGS


@pytest.mark.parametrize("path", CONFIGS)
def test_config_loads(path):
    cfg = setup_config(str(ROOT / path))
    assert cfg.is_frozen()
    assert cfg.MODEL.META_ARCHITECTURE == "SplitNetwork"
    featcomp = cfg.MODEL.FEATCOMP
    assert featcomp.TASK_NETWORK in META_ARCH_REGISTRY
    assert featcomp.SPLIT in FEATURE_SPLIT_REGISTRY
    built = build_feature_codec(cfg, find_feature_split(featcomp.SPLIT))
    assert (built.name, built.bits) == (featcomp.CODEC.NAME, featcomp.CODEC.BITS)
    assert cfg.DATASETS.TRAIN and cfg.DATASETS.TEST


def test_a_plain_config_is_what_its_yaml_says():
    cfg = setup_config(QUICK, ["MODEL.FEATCOMP.CODEC.QUALITY", None, "MODEL.WEIGHTS", "1e3: 'é'"])
    found, expected = make_plain_config(cfg), yaml.safe_load(cfg.dump())
    assert json.dumps(found) == json.dumps(expected)


def test_a_quality_may_be_whole_or_not(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(f"_BASE_: {ROOT / QUICK}\nMODEL: {{FEATCOMP: {{CODEC: {{QUALITY: 28}}}}}}\n")
    key = "MODEL.FEATCOMP.CODEC.QUALITY"
    for override, expected in (((), 28), ((key, "1.5"), 1.5), ((key, 40), 40), ((key, None), None)):
        found = setup_config(str(path), override).MODEL.FEATCOMP.CODEC.QUALITY
        assert found == expected
    assert setup_config(str(path), ["MODEL.FEATCOMP.CODEC.RATE", "1"]).MODEL.FEATCOMP.CODEC.RATE == 1


def test_msfc_of_the_paper():
    featcomp = setup_config(str(ROOT / "configs/msfc_R50.yaml")).MODEL.FEATCOMP
    assert (featcomp.SPLIT, featcomp.SSFC.CHANNELS, featcomp.CODEC.BITS) == ("MSFC", 64, 4)
    assert featcomp.MSFR.DIRECTION == "bottom_up"
    assert featcomp.TRAIN_QUANTIZATION == ""
    assert "train_quantization" not in MSFC.codec_defaults  # so it is none
    assert featcomp.TRAIN.STEP2.LOSS == featcomp.TRAIN.STEP3.LOSS == "task"


def test_lmsfc_as_published():
    featcomp = setup_config(str(ROOT / "configs/lmsfc_R50.yaml")).MODEL.FEATCOMP
    assert (featcomp.LMSFC.CHANNELS, featcomp.LMSFC.STRIDE) == (128, 64)
    # A hyperprior alone; distillation and rate, of latents rounded to integers; the detector is frozen.
    learned = featcomp.CODEC.LEARNED
    assert (featcomp.CODEC.NAME, learned.CONTEXT, learned.HYPER) == ("learned", False, 128)
    assert featcomp.TRAIN.STEPS == (2, 4) and featcomp.TRAIN.STEP2.LOSS == "distill"
    assert featcomp.CODEC.BITS == 8 and featcomp.TRAIN.RATE_WEIGHT > 0


def test_baf_of_the_paper():
    cfg = setup_config(str(ROOT / "configs/baf_yolov3.yaml"))
    featcomp = cfg.MODEL.FEATCOMP
    assert (featcomp.SPLIT, featcomp.LAYER, featcomp.BAF.CHANNELS) == ("BaF", 12, 64)
    assert featcomp.BAF.SELECTION_IMAGES == 1000 and featcomp.BAF.CONSOLIDATE
    assert featcomp.TRAIN.STEPS == (2,) and featcomp.TRAIN.STEP2.LOSS == "distill"
    assert cfg.MODEL.YOLOV3.LETTERBOX == cfg.INPUT.MIN_SIZE_TEST == 512


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MODEL:\n  FEATCOMP:\n    SPLITS: MSFC\n", "SPLITS"),
        ("MODEL:\n  FEATCOMP:\n    SSFC:\n      CHANNELS: many\n", "CHANNELS"),
        ("MODEL: [1,\n", "line 2"),
        ("MODEL: 3\n", "int"),
        ("- MODEL\n", "list"),
        ("", "NoneType"),
    ],
)
def test_mistakes_in_a_config_file_are_told_with_its_name(tmp_path, text, expected):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ValueError) as raised:
        setup_config(str(path))
    assert str(path) in str(raised.value) and expected in str(raised.value)


@pytest.mark.parametrize(
    "overrides", [["MODEL.FEATCOMP.CODEC.BITS"], ["MODEL.FEATCOMP.BITS", "4"], ["BITS", "4"]]
)
def test_mistakes_in_overrides_are_told(overrides):
    with pytest.raises(ValueError, match="config"):
        setup_config("", overrides)


def test_an_equals_sign_in_an_override_is_told():
    with pytest.raises(ValueError, match=r"config overrides: write 'MODEL.WEIGHTS a.pth'"):
        setup_config(QUICK, ["MODEL.WEIGHTS=a.pth"])


@pytest.fixture
def run(few_scenes, tmp_path):
    """Runs a command line: (exit status, standard output, standard error)."""

    def call(script, *arguments):
        environment = {"DETECTRON2_DATASETS": str(few_scenes), "D2_FEATCOMP_TRACEBACK": ""}
        return processes.call(script, arguments, tmp_path / "told", environment)

    return call


def write_foreign_checkpoint(folder):
    torch.save({"model": {"backbone.weight": torch.zeros(3)}}, folder / "foreign.pth")


CODEC = "MODEL.FEATCOMP.CODEC."
MISTAKES = {
    "missing config file": ("configs/missing.yaml", [], "no config file 'configs/missing.yaml'"),
    "unknown key": (QUICK, ["MODEL.FEATCOMP.BITS", 4], "MODEL.FEATCOMP.BITS"),
    "unknown codec": (
        QUICK,
        [f"{CODEC}NAME", "webp"],
        "unknown codec 'webp' (MODEL.FEATCOMP.CODEC.NAME): choose an image codec (",
    ),
    "17 bits": (QUICK, [f"{CODEC}BITS", 17], "cannot carry 17 bits"),
    "quality": (
        QUICK,
        [f"{CODEC}NAME", "jpeg", f"{CODEC}BITS", 8, f"{CODEC}QUALITY", 101],
        "CODEC.QUALITY 101 is out of range for codec 'jpeg': it goes from 1 to 100",
    ),
    "foreign checkpoint": (QUICK, [], "does not fit this model"),
    "missing checkpoint": (QUICK, ["MODEL.WEIGHTS", "{folder}/missing.pth"], "no checkpoint '"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_train_net_tells_a_mistake_in_one_line(run, tmp_path, case):
    config, overrides, expected = MISTAKES[case]
    write_foreign_checkpoint(tmp_path)
    overrides = [str(word).format(folder=tmp_path) for word in overrides]
    common = ["--eval-only", "MODEL.DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "output"]
    common += ["DATASETS.TEST", "('few_val',)", "MODEL.WEIGHTS", tmp_path / "foreign.pth"]
    status, told, stderr = run("tools/train_net.py", "--config-file", config, *common, *overrides)
    assert status == 2
    assert "Traceback" not in stderr + told
    errors = [line for line in stderr.splitlines() if "error" in line.lower()]
    assert len(errors) == 1 and errors[0] == stderr.splitlines()[-1]
    assert errors[0].startswith("train_net.py: error: ") and expected in errors[0]


def test_reproduce_tells_a_missing_experiment_in_one_line(run, tmp_path):
    path = tmp_path / "none.yaml"
    status, _, stderr = run("tools/reproduce.py", path, "--output", tmp_path / "output")
    assert status == 2
    expected = f"reproduce.py: error: no plan {str(path)!r}: give a YAML file, or a name: there are BaF/"
    assert stderr.startswith(expected) and stderr.count("\n") == 1
    assert not (tmp_path / "output").exists()
