"""Config files that were read before."""

import os

import pytest
from detectron2.config import get_cfg

from d2_featcomp import add_featcomp_config
from d2_featcomp.engine import config_files, setup_config
from d2_featcomp.engine.config_files import merge_config_file

QUICK = "configs/quick/msfc_R18.yaml"


def defaults():
    cfg = get_cfg()
    add_featcomp_config(cfg)
    return cfg


def test_a_file_is_parsed_once(tmp_path, monkeypatch):
    config_files._merged.clear()  # by other tests
    cfg, expected = defaults(), defaults()
    expected.merge_from_file(QUICK, allow_unsafe=False)
    parsed = []
    merge = type(cfg).merge_from_file
    monkeypatch.setattr(
        type(cfg), "merge_from_file", lambda self, *a, **b: parsed.append(a) or merge(self, *a, **b)
    )
    path = os.path.abspath(QUICK)
    for _ in range(2):
        found = merge_config_file(cfg, path)
        assert found == expected and found.dump() == expected.dump()
        found.MODEL.FEATCOMP.CODEC.BITS = 7  # the caller's own
    assert parsed == [(path,)] and cfg == defaults()
    for number in range(40):  # of which not all are kept
        (tmp_path / "a.yaml").write_text(f"VERSION: 2\nSEED: {number}\n")
        assert number == merge_config_file(cfg, str(tmp_path / "a.yaml")).SEED
    assert 1 < len(config_files._merged) < 40
    other = defaults()
    other.MODEL.FEATCOMP.NEW_KEY = 3
    assert merge_config_file(other, path).MODEL.FEATCOMP.NEW_KEY == 3
    assert merge_config_file(cfg, path) == expected


@pytest.mark.parametrize(
    "base",
    [
        "_BASE_: below.yaml",
        "_BASE_: 'below.yaml'",
        "_BASE_: [below.yaml]",
        "_BASE_: {folder}/below.yaml",
    ],
)
def test_changes_are_seen(tmp_path, base):
    """Of the file itself and of what it is based on, however that is named."""
    below, path = tmp_path / "below.yaml", tmp_path / "a.yaml"
    for bits, seed, size in ((3, 1, 5), (3, 2, 5), (4, 2, 6)):
        below.write_text(f"VERSION: 2\nMODEL: {{FEATCOMP: {{CODEC: {{BITS: {bits}}}}}}}\n")
        path.write_text(
            f"{base.format(folder=tmp_path)}\nSEED: {seed}\nINPUT: {{MIN_SIZE_TEST: {size}}}\n"
        )
        cfg = setup_config(str(path))
        assert (bits, seed, size) == (cfg.MODEL.FEATCOMP.CODEC.BITS, cfg.SEED, cfg.INPUT.MIN_SIZE_TEST)


def test_a_file_that_is_based_on_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("_BASE_: a.yaml\n")
    with pytest.raises((RecursionError, ValueError)):
        setup_config(str(tmp_path / "a.yaml"))
