"""MSFC on standardized features."""

import networks
import pytest
import torch

from d2_featcomp.modeling import StandardizedMSFC


@pytest.fixture(scope="module")
def model():
    return networks.shrunk_network(
        MODEL__FEATCOMP__SPLIT="StandardizedMSFC",
        MODEL__FEATCOMP__FREEZE_TASK_NETWORK=True,
        MODEL__FEATCOMP__LOSS="distill",
    )


def test_means_and_deviations_are_averages_of_training(model, make_record):
    model.train()
    batches = [[make_record(seed=0), make_record(seed=1)], [make_record(seed=2), make_record(seed=3)]]
    seen = []
    for batch in batches:
        images = model.normalized_images(batch).tensor
        seen.append(model.split_point.head(images))
        loss = model(batch)["loss_distill"]
        assert loss.item() < 10  # whatever the scale of the features
    split = model.feature_split
    assert isinstance(split, StandardizedMSFC) and set(split.scales) == {"p2", "p3", "p4", "p5"}
    for name, scale in split.scales.items():
        mean = torch.stack([x[name].mean(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
        variance = torch.stack([x[name].var(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
        torch.testing.assert_close(scale.running_mean, mean, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(scale.running_var, variance, atol=1e-6, rtol=1e-3)
    assert not any(parameter.requires_grad for parameter in model.network.roi_heads.parameters())
    assert not list(split.scales.parameters())


def test_the_cloud_undoes_what_the_edge_did(model, make_record, monkeypatch):
    """With nothing lost in between, features come back as they were."""
    model.train()([make_record(seed=0)])
    model.eval()
    split = model.feature_split
    with torch.no_grad():
        features = model.split_point.head(model.normalized_images([make_record()]).tensor)
        sent = {}
        monkeypatch.setattr(split.msff, "forward", lambda pyramid: pyramid)
        monkeypatch.setattr(split.encoder, "forward", lambda x: sent.setdefault("levels", x))
        split.reduce(features)
        fused = dict(zip(split.fused, sent["levels"], strict=True))
        fused["p6"] = fused["p5"][..., ::2, ::2]
        monkeypatch.setattr(split.decoder, "forward", lambda y: y)
        monkeypatch.setattr(split.msfr, "forward", lambda x, image_size: fused)
        restored = split.restore([None], (64, 96))
    assert set(restored) == set(features)
    for name, x in features.items():
        torch.testing.assert_close(restored[name], x, atol=1e-3, rtol=1e-3)
    assert (fused["p2"] - features["p2"]).abs().max() > 0.01


@pytest.mark.parametrize("inference", ["plain", "fused"])
def test_sub_models_have_the_scales_and_compute_the_same(model, make_record, inference):
    model.eval()
    record = make_record(seed=4)
    with torch.no_grad():
        model.accelerate("plain")
        expected = model([record])[0]["instances"]
        model.accelerate(inference)
        found = model.cloud_inference(model.edge_inference([record]))[0]["instances"]
    assert len(found) == len(expected) > 0
    torch.testing.assert_close(found.scores, expected.scores, atol=1e-4, rtol=1e-3)
    for sub_model in ("edge", "cloud"):
        assert any("feature_split.scales.p5.running_var" in n for n in model.sub_model_names(sub_model))
