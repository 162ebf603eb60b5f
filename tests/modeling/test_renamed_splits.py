"""Splits that were renamed: both names are accepted, bytes keep the earlier ones."""

import logging

import networks
import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils import logger

from d2_featcomp import modeling
from d2_featcomp.deploy.configuration import describe_network
from d2_featcomp.engine import setup_config
from d2_featcomp.experiments.keys import find_differences, pick_measured_keys, pick_trained_keys
from d2_featcomp.modeling import (
    FEATURE_SPLIT_REGISTRY,
    RENAMED_SPLITS,
    find_feature_split,
    find_split_name,
    find_stored_name,
)

RESNET_18 = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
}
# Of the release before, for small networks with all weights 2^-10: fingerprints of formats 2 and 1.
FINGERPRINTS = {
    "pyramid": ("Pyramid", "4ca574bd", "43609b01"),
    "image": ("Image", "93a0f7b2", "1271cf25"),
    "layer": ("Layer", "9969eef4", "2a4fbea4"),
}


def test_both_names_find_the_same_class():
    for earlier, today in RENAMED_SPLITS.items():
        assert earlier in FEATURE_SPLIT_REGISTRY and today in FEATURE_SPLIT_REGISTRY
        assert find_feature_split(earlier) is find_feature_split(today) is getattr(modeling, today)
        assert FEATURE_SPLIT_REGISTRY.get(earlier).__name__ == today
        assert find_split_name(earlier) == find_split_name(today) == today
        assert find_stored_name(earlier) == find_stored_name(today) == earlier
    assert not {name for name, _ in FEATURE_SPLIT_REGISTRY} & set(RENAMED_SPLITS)
    assert find_split_name("MSFC") == find_stored_name("MSFC") == "MSFC"


def test_another_projects_split_may_have_an_earlier_name(monkeypatch):
    own = type("Layer", (modeling.FeatureSplit,), {})
    monkeypatch.setitem(FEATURE_SPLIT_REGISTRY._obj_map, "Layer", own)
    assert find_feature_split("Layer") is own and find_split_name("Layer") == "Layer"


def test_a_config_with_an_earlier_name_is_mapped_and_says_so_once(monkeypatch, caplog):
    monkeypatch.setattr(logger, "_LOG_COUNTER", type(logger._LOG_COUNTER)())
    with caplog.at_level(logging.INFO, logger="d2_featcomp"):
        cfgs = [setup_config("", ["MODEL.FEATCOMP.SPLIT", "Pyramid"]) for _ in range(2)]
        setup_config("", ["MODEL.FEATCOMP.SPLIT", "BaF"])
    assert [cfg.MODEL.FEATCOMP.SPLIT for cfg in cfgs] == ["PyramidSplit"] * 2
    assert caplog.messages == ["MODEL.FEATCOMP.SPLIT Pyramid is now called PyramidSplit"]


@pytest.mark.parametrize("name", FINGERPRINTS)
def test_fingerprints_and_descriptions_are_those_of_earlier_releases(name, configured):
    earlier, fingerprint, fingerprint_v1 = FINGERPRINTS[name]
    cfg = configured(name, "", *networks.listed(RESNET_18))
    network = build_model(cfg).eval()
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            if tensor.is_floating_point():
                tensor.fill_(2**-10)
    assert network.split_name == RENAMED_SPLITS[earlier] == cfg.MODEL.FEATCOMP.SPLIT
    assert network.fingerprint().hex() == fingerprint
    assert network.fingerprint_v1().hex() == fingerprint_v1
    assert describe_network(cfg, network, [])["split"] == earlier
    assert network.edge_inference([{"image": torch.zeros(3, 64, 64)}])[0].split == earlier


def test_cache_keys_are_those_of_earlier_releases(configured):
    cfg = configured("pyramid")
    before = pick_trained_keys(cfg)
    assert before["MODEL.FEATCOMP.SPLIT"] == pick_measured_keys(cfg)["MODEL.FEATCOMP.SPLIT"] == "Pyramid"
    assert not find_differences(before, pick_trained_keys(cfg))


def test_exported_files_with_an_earlier_name_are_read(configured, random_network, tmp_path):
    from d2_featcomp.deploy import export_sub_models, load_sub_model

    torch.save({"model": random_network("pyramid").state_dict()}, tmp_path / "whole.pth")
    files = export_sub_models(configured("pyramid", tmp_path / "whole.pth"), str(tmp_path))
    for path in files.values():
        data = torch.load(path, weights_only=True)
        assert data["split"] == "Pyramid"
        data["config"] = data["config"].replace("SPLIT: PyramidSplit", "SPLIT: Pyramid")
        assert "SPLIT: Pyramid\n" in data["config"]
        torch.save(data, path)
    edge = load_sub_model(configured("pyramid"), files["edge"], "edge")
    cloud = load_sub_model(None, files["cloud"], "cloud")
    stream = edge.edge_inference([{"image": torch.zeros(3, 64, 64)}])
    assert "instances" in cloud.cloud_inference(stream)[0]
