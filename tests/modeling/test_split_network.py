import copy
from dataclasses import replace

import networks
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from torch import nn

from d2_featcomp.codecs import BitstreamError, FeatureBitstream
from d2_featcomp.engine.importance import compute_feature_gradients
from d2_featcomp.modeling import split_network
from d2_featcomp.modeling.splits.base import compute_distillation_loss


def same(first, second):
    for field in ("pred_boxes", "scores", "pred_classes", "pred_masks"):
        a, b = first["instances"].get(field), second["instances"].get(field)
        a, b = getattr(a, "tensor", a), getattr(b, "tensor", b)
        assert torch.equal(a, b), field


def test_outputs_do_not_depend_on_the_batch(small_model, make_record):
    model = small_model()
    records = [make_record(64, 96, 0), make_record(128, 64, 1), make_record(90, 131, 2)]
    together = model(records)
    for record, expected in zip(records, together, strict=True):
        (alone,) = model([record])
        assert len(alone["instances"]) > 0
        assert alone["bitstream"].to_bytes() == expected["bitstream"].to_bytes()
        same(alone, expected)
    backwards = model(records[::-1])[::-1]
    for first, second in zip(together, backwards, strict=True):
        same(first, second)


def test_the_cloud_needs_nothing_but_the_bytes(small_model, make_record):
    edge = small_model()
    cloud = networks.shrunk_network()
    cloud.load_state_dict(edge.state_dict())
    cloud.fingerprint()  # looks once at what the edge reads
    cloud.backbone.backbone.forward = None  # the cloud must not run it
    record = make_record(64, 96)
    sent = [stream.to_bytes() for stream in edge.edge_inference([record])]
    (found,) = cloud.cloud_inference([FeatureBitstream.from_bytes(data) for data in sent])
    (expected,) = edge([record])
    assert len(expected["instances"]) > 0
    same(found, expected)


def test_the_cloud_leaves_the_network_as_it_was(small_model, make_record):
    model = small_model()
    before = copy.deepcopy(model.state_dict())
    streams = model.edge_inference([make_record()])
    backbone = model.backbone
    model.cloud_inference(streams)
    assert model.backbone is backbone and not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_fingerprint_follows_the_edge_weights_alone(small_model):
    model = small_model()
    first = model.fingerprint()
    twin = networks.shrunk_network()
    twin.load_state_dict(model.state_dict())
    assert twin.fingerprint() == first
    with torch.no_grad():
        model.feature_split.decoder.conv.weight.add_(1)
    assert model.fingerprint() == first
    with torch.no_grad():
        model.feature_split.encoder.conv.weight.view(-1)[0] += 1
    assert model.fingerprint() != first


def test_weights_are_found_in_training_too(small_model):
    """Without a change of the norms' statistics, as a run in training mode would."""
    model = small_model("configs/quick/msfc_R18.yaml")
    names = {part: model.sub_model_names(part) for part in ("edge", "cloud")}
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert any(name.startswith("backbone.") and name.endswith("running_mean") for name in before)
    model.train()
    model.network.roi_heads.eval()
    modes = [module.training for module in model.modules()]
    assert {part: model.sub_model_names(part) for part in ("edge", "cloud")} == names
    model.fingerprint()
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_foreign_and_ill_fitting_streams_are_refused(small_model, make_record):
    model = small_model()
    (stream,) = model.edge_inference([make_record()])
    sizes = type(stream.sizes)
    for change, words in [
        ({"fingerprint": b"\0\0\0\0"}, "another model"),
        ({"sizes": sizes((64, 96), (65, 96), (64, 96))}, "do not fit together"),
        ({"sizes": sizes((512, 512), (64, 96), (64, 96))}, None),  # shapes follow from the sizes
        ({"tensors": stream.tensors * 2}, None),
        ({"description": replace(stream.description, split="Other")}, "feature split 'Other'"),
        ({"description": replace(stream.description, shapes=((8, 1, 1),))}, "this model expects"),
    ]:
        with pytest.raises(BitstreamError, match=words):
            model.cloud_inference([replace(stream, **change)])


def test_inference_methods_need_evaluation_mode(small_model, make_record):
    model = small_model()
    streams = model.edge_inference([make_record()])
    model.train()
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        model.edge_inference([make_record()])
    with pytest.raises(RuntimeError, match=r"call model\.eval\(\) first"):
        model.cloud_inference(streams)


def test_frozen_task_network_stays_as_it_is(make_record):
    model = networks.shrunk_network(MODEL__FEATCOMP__FREEZE_TASK_NETWORK=True).train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for seed in range(2):
        optimizer.zero_grad()
        sum(model([make_record(seed=seed)]).values()).backward()
        optimizer.step()
    changed = {k for k, value in model.state_dict().items() if not torch.equal(value, before[k])}
    assert changed and all(key.startswith("feature_split.") for key in changed)
    assert "feature_split.encoder.conv.norm.running_mean" in changed


@pytest.mark.parametrize(("loss", "names"), [("distill", {"loss_distill"}), ("both", None)])
def test_distillation(make_record, loss, names):
    model = networks.shrunk_network(MODEL__FEATCOMP__LOSS=loss).train()
    losses = model([make_record()])
    assert set(losses) == names if names else {"loss_distill", "loss_mask"} <= set(losses)
    assert torch.isfinite(losses["loss_distill"])


def test_losses_count_by_their_weights(make_record):
    # Of a network that samples no proposals, so that two have the same losses.
    settings = {
        "MODEL__FEATCOMP__TASK_NETWORK": "RetinaNet",
        "MODEL__RETINANET__IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    }
    weights = (("loss_cls", 3.0), ("loss_box_reg", 0))
    plain = networks.shrunk_network(**settings).train()
    weighted = networks.shrunk_network(**settings, MODEL__FEATCOMP__LOSS_WEIGHTS=weights).train()
    weighted.load_state_dict(plain.state_dict())
    own, given = (copy.deepcopy(model)([make_record()]) for model in (plain, weighted))
    assert given["loss_cls"].item() == pytest.approx(3 * own["loss_cls"].item())
    assert given["loss_box_reg"].item() == 0 < own["loss_box_reg"].item()
    # So does the importance of channels.
    own, given = (compute_feature_gradients(model, [make_record()])["p3"] for model in (plain, weighted))
    assert given.abs().max() > 2 * own.abs().max() > 0


def test_weights_of_unknown_losses_are_refused(make_record):
    model = networks.shrunk_network(MODEL__FEATCOMP__LOSS_WEIGHTS=(("mask", 2.0),)).train()
    with pytest.raises(ValueError, match="'mask', which is no loss of the task network; it has loss_"):
        model([make_record()])


def test_distillation_loss_by_hand():
    features = {"p2": torch.tensor([0.0, 2.0]), "p3": torch.tensor([0.0, 4.0])}
    restored = {"p2": torch.tensor([1.0, 1.0]), "p3": torch.tensor([0.0, 0.0])}
    # p2: error 1, variance 1; p3: error 8, variance 4.
    assert compute_distillation_loss(restored, features).item() == pytest.approx((1 / 1 + 8 / 4) / 2)
    assert compute_distillation_loss(features, features).item() == 0


def test_distillation_loss_with_weights_of_channels_by_hand():
    features = {
        "p2": torch.tensor([[[[0.0, 2.0]], [[5.0, 5.0]]]]),
        "p3": torch.tensor([[[[1.0]], [[3.0]]], [[[5.0]], [[3.0]]]]),
    }
    restored = {
        "p2": torch.tensor([[[[1.0, 2.0]], [[5.0, 7.0]]]]),
        "p3": torch.tensor([[[[1.0]], [[3.0]]], [[[5.0]], [[9.0]]]]),
    }
    weights = {"p2": torch.tensor([4.0, 1.0]), "p3": torch.tensor([2.0, 0.5])}
    # Errors 1 and 4, 0 and 36; squared distances from the mean 2 and 0, 8 and 0.
    loss = compute_distillation_loss(restored, features, weights)
    assert loss.item() == pytest.approx((4 * 1 + 1 * 4 + 2 * 0 + 0.5 * 36) / (4 * 2 + 2 * 8))
    constant = {name: x.mean(dim=(0, 2, 3), keepdim=True).expand_as(x) for name, x in features.items()}
    assert compute_distillation_loss(constant, features, weights).item() == pytest.approx(1)


def test_feature_gradients_are_those_of_the_losses(make_record):
    # Of a network that samples no proposals, so that its losses are smooth.
    model = networks.shrunk_network(
        MODEL__FEATCOMP__TASK_NETWORK="RetinaNet",
        MODEL__RETINANET__IN_FEATURES=["p2", "p3", "p4", "p5", "p6"],
    ).train()
    records = [make_record(), make_record(seed=1)]
    gradients = compute_feature_gradients(model, records)
    images = model.normalized_images(records).tensor
    features = model.split_point.head(images)
    assert {name: x.shape for name, x in gradients.items()} == {n: x.shape for n, x in features.items()}
    assert all(parameter.grad is None for parameter in model.parameters())
    # The loss falls by as much as its gradient says.
    step = 3e-3 / max(gradient.abs().max().item() for gradient in gradients.values())

    def loss(sign):
        moved = {name: x + sign * step * gradients[name] for name, x in features.items()}
        model.network.backbone.forward = lambda images: model.split_point.tail(moved)
        model.network.loss_normalizer = 100  # a running mean, and its first value
        return sum(model.network(records).values()).item()

    fallen = loss(1) - loss(-1)
    expected = 2 * step * sum(gradient.square().sum().item() for gradient in gradients.values())
    assert fallen == pytest.approx(expected, rel=0.1)
    with pytest.raises(RuntimeError, match=r"call model.train\(\)"):
        compute_feature_gradients(model.eval(), records)


def test_distillation_weights_channels(make_record, monkeypatch):
    model = networks.shrunk_network(MODEL__FEATCOMP__LOSS="distill").train()
    features = model.split_point.head(model.normalized_images([make_record()]).tensor)
    restored = {}
    restore = model.feature_split.restore
    monkeypatch.setattr(
        model.feature_split, "restore", lambda *given: restored.update(restore(*given)) or restored
    )
    model.channel_weights = {name: torch.rand(x.shape[1]) for name, x in features.items()}
    loss = model([make_record()])["loss_distill"]
    expected = compute_distillation_loss(restored, features, model.channel_weights)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() != pytest.approx(compute_distillation_loss(restored, features).item(), rel=0.01)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TASK_NETWORK", "Nothing", "name a registered Detectron2"),
        ("SPLIT", "Nothing", "unknown feature split 'Nothing'"),
        ("LOSS", "nothing", "unknown training loss 'nothing'"),
        ("LOSS_WEIGHTS", (("loss_mask", -1.0),), "0 or more"),
        ("LOSS_WEIGHTS", ("loss_mask", 2.0), "give pairs of a loss"),
        ("LOSS_WEIGHTS", (("loss_mask", "twice"),), "give pairs of a loss"),
        ("CODEC__NAME", "flif", "unknown codec 'flif'"),
        ("CODEC__BITS", 17, "cannot carry 17 bits"),
        ("CODEC__QUALITY", 26, "QUALITY 26 is out of range"),
        ("CODEC__QUANTIZER", "vector", "unknown quantizer 'vector'"),
    ],
)
def test_bad_settings_are_refused_when_the_model_is_built(small_config, key, value, words):
    with pytest.raises(ValueError, match=words):
        build_model(small_config(**{f"MODEL__FEATCOMP__{key}": value}))


def test_a_network_without_backbone_cannot_be_cut(small_model):
    model = small_model()
    with pytest.raises(ValueError, match="no attribute `backbone`"):
        split_network(nn.Identity(), feature_split=model.feature_split, feature_codec=None)


def test_a_network_is_cut_once(small_model):
    """Else, e.g. where a cell of a notebook runs again, its features would be coded twice."""
    model = small_model()
    parts = {"feature_split": model.feature_split, "feature_codec": model.feature_codec}
    for network in (model, model.network):
        with pytest.raises(ValueError, match="is split already: build it anew"):
            split_network(network, **parts)


def test_checkpoints_are_those_of_the_plain_network(small_model):
    cut = small_model()
    plain = networks.shrunk_network(MODEL__FEATCOMP__ENABLED=False)
    assert type(plain) is META_ARCH_REGISTRY.get("GeneralizedRCNN")
    into_plain = plain.load_state_dict(cut.state_dict(), strict=False)
    assert not into_plain.missing_keys
    assert all(key.startswith("feature_split.") for key in into_plain.unexpected_keys)
    into_cut = cut.load_state_dict(plain.state_dict(), strict=False)
    assert not into_cut.unexpected_keys
    assert all(key.startswith("feature_split.") for key in into_cut.missing_keys)


def test_evaluation_takes_originals_of_any_size(small_model, make_record):
    """Limits are for what comes from elsewhere."""
    model = small_model(MODEL__MASK_ON=False)
    record = {**make_record(64, 96), "height": 6000, "width": 9000}
    (output,) = model([record])
    assert output["instances"].image_size == (6000, 9000)
    with pytest.raises(BitstreamError, match="at most"):
        FeatureBitstream.from_bytes(output["bitstream"].to_bytes())
