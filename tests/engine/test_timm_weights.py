"""MODEL.WEIGHTS of networks of timm: files that timm saves, and what it downloads."""

import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.engine import FeatCompCheckpointer

timm = pytest.importorskip("timm")


@pytest.fixture
def network(small_config):
    settings = {
        "MODEL__BACKBONE__NAME": "build_timm_fpn_backbone",
        "MODEL__BACKBONE__FREEZE_AT": 0,
        "MODEL__TIMM__NAME": "test_resnet",
    }
    return build_model(small_config(**settings))


def check(network, published, path):
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(str(path))
    assert not [name for name in checkpointer.missing if "bottom_up" in name]
    held, name = network.state_dict(), "layer3.0.conv2.weight"
    assert torch.equal(
        held["backbone.bottom_up.res4.layer3.0.conv2.weight"], published.state_dict()[name]
    )


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_file_that_timm_saves(network, tmp_path, suffix):
    published = timm.create_model("test_resnet")
    path = tmp_path / f"a.{suffix}"
    if suffix == "pth":
        torch.save(published.state_dict(), path)
    else:
        from safetensors.torch import save_file

        save_file(published.state_dict(), path)
    check(network, published, path)


def test_what_timm_downloads_is_kept(network, tmp_path, monkeypatch):
    published, calls, create = timm.create_model("test_resnet"), [], timm.create_model

    def download(name, pretrained=False, **options):
        calls.append((name, pretrained))
        if name == "unknown":
            raise RuntimeError("Unknown model (unknown)")
        return published if pretrained else create(name, **options)

    monkeypatch.setattr(timm, "create_model", download)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for _ in range(2):
        check(network, published, "timm://test_resnet.r160_in1k")
    assert calls == [("test_resnet.r160_in1k", True)]
    with pytest.raises(ValueError, match="timm has no weights timm://unknown: Unknown"):
        FeatCompCheckpointer(network).load("timm://unknown")


def test_a_checkpoint_of_this_package_is_taken_as_it_is(network, tmp_path):
    torch.save({"model": network.state_dict()}, tmp_path / "own.pth")
    checkpointer = FeatCompCheckpointer(network)
    checkpointer.load(str(tmp_path / "own.pth"))
    assert not checkpointer.missing
