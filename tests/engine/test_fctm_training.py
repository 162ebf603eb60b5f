"""The anchor fctm_v1 is trained and measured."""

import csv

import networks
import pytest
import torch
from distributed import SETTINGS

from d2_featcomp.engine import evaluate, setup_config, train_stages

FULL = {"MODEL.FEATCOMP.SSFC.CHANNELS": 32, "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3)}


def make_config(output, **more):
    settings = {**SETTINGS, **FULL, "OUTPUT_DIR": output, **networks.dotted(more)}
    return setup_config(networks.FCTM, networks.listed(settings))


def test_training_and_measuring_at_several_qp(few_scenes, tmp_path):
    train_stages(make_config(tmp_path, MODEL__FEATCOMP__TRAIN__STEP3__MAX_ITER=3))
    final = tmp_path / "model_final.pth"
    weights = torch.load(final, weights_only=True)["model"]
    for part in ("encoder", "decoder"):  # 0.25 and 0 before
        assert (weights[f"feature_split.{part}.activation.weight"] != 0.25).any()
        assert (weights[f"feature_split.{part}.conv.norm.running_mean"] != 0).all()
    sizes = []
    for qp in (10, 40):
        codec = {"MODEL__FEATCOMP__CODEC__QUALITY": qp, "MODEL__WEIGHTS": str(final)}
        found = evaluate(make_config(tmp_path / f"qp{qp}", **codec))
        assert {"bbox", "segm", "feature_rate"} <= found.keys()
        with open(tmp_path / f"qp{qp}" / "inference" / "feature_rates.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 5 and {row["side_info_bits"] for row in rows} == {"32"}
        sizes.append(sum(int(row["payload_bits"]) for row in rows))
    assert sizes[0] > 1.3 * sizes[1]


@pytest.mark.slow
def test_two_processes_train_it(run_processes, tmp_path):
    told = run_processes(
        *("--num-gpus", "2"),
        spawns=True,
        config=networks.FCTM,
        OUTPUT_DIR=tmp_path,
        **{
            "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3),
            "MODEL.FEATCOMP.TRAIN.STEP1.MAX_ITER": 1,
            "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 2,
            "TEST.EVAL_PERIOD": -1,
        },
    )
    assert "Stage 3: iterations 0 to 2" in told
    assert (tmp_path / "model_final.pth").exists()
