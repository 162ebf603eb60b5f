"""Trainings from the command line."""

import uuid

import networks
import processes
import pytest
from distributed import SETTINGS


@pytest.fixture
def run_processes(few_scenes, tmp_path):
    """Runs a command line: what it writes to the standard output."""

    def command_line(*arguments, config=networks.MSFC, script=None, spawns=False, **settings):
        path, first = "tools/train_net.py", ["--config-file", config]
        if script:
            path, first = script[0], [config, script[1]]
        status, told, errors = processes.call(
            path,
            [*first, *arguments, *networks.listed({**SETTINGS, **settings})],
            tmp_path / uuid.uuid4().hex,
            {"DETECTRON2_DATASETS": str(few_scenes)},
            timeout=600,
            spawns=spawns,
        )
        assert status == 0, errors[-3000:]
        return told

    return command_line
