"""Several processes, over gloo, from the command line."""

import argparse
import datetime

import networks
import processes
from distributed import copied

from d2_featcomp.engine import command_line


def test_two_processes_train_and_measure_as_one_does(run_processes, tmp_path):
    trained = run_processes("--num-gpus", "2", spawns=True, OUTPUT_DIR=tmp_path / "out")
    assert "Stage 2: iterations 0 to 2" in trained
    weights = {"MODEL.WEIGHTS": tmp_path / "out" / "model_final.pth"}
    alone = run_processes("--eval-only", "--verbose", OUTPUT_DIR=tmp_path / "one", **weights)
    together = run_processes(
        "--eval-only", "--verbose", "--num-gpus", "2", OUTPUT_DIR=tmp_path / "two", **weights
    )
    assert len(copied(alone)) == 9  # three lines for each of bbox, segm, feature_rate
    assert copied(alone) == copied(together)
    tables = [
        (tmp_path / name / "inference" / "feature_rates.csv").read_text() for name in ("one", "two")
    ]
    assert tables[0] == tables[1]
    assert tables[0].count("\n") == 1 + 5


KILLED = """
import argparse, os, signal

from detectron2.utils import comm

from d2_featcomp.engine import run_processes

def main(args):
    if comm.get_rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    comm.synchronize()

if __name__ == "__main__":
    layout = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    run_processes(main, argparse.Namespace(**layout))
"""


def test_a_process_that_is_killed_is_told(tmp_path):
    (tmp_path / "script.py").write_text(KILLED)
    status, _, errors = processes.call(tmp_path / "script.py", [], tmp_path / "told")
    assert status and "ChildProcessError: one of the 2 processes was ended by SIGKILL" in errors


def test_processes_wait_for_one_that_works_for_hours(monkeypatch):
    given = {}
    monkeypatch.setattr(command_line, "launch", lambda *arguments, **options: given.update(options))
    layout = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    command_line.run_processes(print, argparse.Namespace(**layout))
    assert given.pop("timeout") > datetime.timedelta(days=7)
    # Of processes on other machines nobody here sees whether they are still there.
    command_line.run_processes(print, argparse.Namespace(**{**layout, "num_machines": 2}))
    assert "timeout" not in given


def test_two_processes_train_where_the_split_makes_modules_useless(run_processes, tmp_path):
    """RetinaNet's own p6 and p7 get no gradient in step 3: MSFR rebuilds these levels."""
    trained = run_processes(
        "--num-gpus",
        "2",
        config="configs/msfc_retinanet_R50.yaml",
        OUTPUT_DIR=tmp_path,
        **{
            "MODEL.WEIGHTS": "",
            **networks.NARROW,
            # Frozen batch norm would leave a network of random weights without any: it diverges.
            "MODEL.RESNETS.NORM": "BN",
            "MODEL.FPN.NORM": "BN",
            "MODEL.BACKBONE.FREEZE_AT": 0,
            "MODEL.FEATCOMP.TRAIN.STEP1.BASE_LR": 0.0001,
            "MODEL.FEATCOMP.TRAIN.STEP3.BASE_LR": 0.0001,
            "MODEL.RETINANET.NUM_CLASSES": 6,
            "MODEL.RETINANET.NUM_CONVS": 1,
            "MODEL.FEATCOMP.TRAIN.STEPS": (1, 3),
            "MODEL.FEATCOMP.TRAIN.STEP3.MAX_ITER": 3,
            "INPUT.MASK_FORMAT": "bitmask",
            "TEST.EVAL_PERIOD": -1,
        },
    )
    assert "Stage 3: iterations 0 to 3" in trained
    assert (tmp_path / "model_final.pth").exists()
