"""Faster forms of the same networks."""

import copy
import pickle
import shutil

import processes
import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, get_norm
from detectron2.modeling import build_model
from torch import nn

from d2_featcomp.codecs import FeatureBitstream, read_step_sizes
from d2_featcomp.engine import export_sub_models, load_sub_model
from d2_featcomp.modeling.acceleration import enlarged_maps, find_quick_encoder
from d2_featcomp.modeling.acceleration.enlarged_maps import convolve_enlarged, convolve_levels_once
from d2_featcomp.modeling.acceleration.folding import fold_norms
from d2_featcomp.modeling.processor import computes_bfloat16
from d2_featcomp.modeling.split_backbone import DecodedLatents
from d2_featcomp.modeling.splits import MSFR
from d2_featcomp.modeling.splits.resampling import compute_level_size

NETWORKS = ("msfc", "fctm", "pyramid", "levels", "image", "baf", "layer", "tasks", "gains")


@pytest.mark.parametrize("name", ["msfc", "baf"])
@torch.no_grad()
def test_latents_are_computed_only_where_they_are_read(random_network, name):
    backbone = random_network(name).network.backbone
    images = torch.randn(2, 3, 64, 128)
    (fast,), (slow,) = find_quick_encoder(backbone)(images), backbone.encode_features(images)
    torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)
    assert slow.std() > 0


@pytest.mark.parametrize("norm", ["", "BN"])
@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (2, 8, 32), (8, 16)])
@pytest.mark.parametrize("size", [(64, 96), (70, 90)])  # the second does not divide
@torch.no_grad()
def test_reconstruction_repeats_what_is_equal(monkeypatch, norm, strides, size):
    torch.manual_seed(0)
    network = MSFR(
        names=[f"p{k}" for k in range(len(strides))],
        strides=list(strides),
        fused=len(strides),
        channels=6,
        norm=norm,
    )
    network = network.double().eval()
    fused = torch.randn(2, 6, *compute_level_size(size, strides[-1])).double()
    slow = network(fused, size)
    calls = []

    def count(*args):
        calls.append(args)
        return convolve_enlarged(*args)

    monkeypatch.setattr(enlarged_maps, "convolve_enlarged", count)
    convolve_levels_once(network, strides[-1])
    fast = network(fused, size)
    divides = all(side % strides[-1] == 0 for side in size)
    assert len(calls) == (divides and strides[-1] // strides[1] > 3)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["BN", "FrozenBN"])
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_folded_norms_give_the_same(norm, bias):
    torch.manual_seed(0)
    conv = Conv2d(3, 5, 3, bias=bias, norm=get_norm(norm, 5), activation=nn.ReLU()).eval()
    for value in (conv.norm.weight, conv.norm.bias, conv.norm.running_mean, conv.norm.running_var):
        value.data.uniform_(0.5, 1.5)
    kept = Conv2d(5, 5, 1, norm=get_norm(norm, 5)).eval()
    network = nn.Sequential(conv, kept)
    x = torch.randn(2, 3, 9, 9)
    expected = network(x)
    assert fold_norms(network, keep=(kept,)) == 1
    assert conv.norm is None and kept.norm is not None
    torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


class Standardized(Conv2d):
    """Computes its weight in each call, as weight standardization does."""

    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = weight / weight.std((1, 2, 3), keepdim=True)
        return self.norm(nn.functional.conv2d(x, weight, self.bias))


@pytest.mark.parametrize(
    ("make", "norm"),
    [
        (Standardized, {}),
        (Conv2d, {"affine": False}),
        (Conv2d, {"track_running_stats": False}),
        (lambda *args, **keys: nn.utils.parametrizations.weight_norm(Conv2d(*args, **keys)), {}),
    ],
    ids=["own forward", "not affine", "without statistics", "parametrized"],
)
@torch.no_grad()
def test_norms_that_cannot_be_folded_are_left(make, norm):
    torch.manual_seed(0)
    conv = make(3, 5, 3, norm=nn.BatchNorm2d(5, **norm)).eval()
    if conv.norm.running_var is not None:
        conv.norm.running_var.uniform_(0.1, 0.5)
    x = torch.randn(2, 3, 9, 9)
    expected = conv(x)
    assert fold_norms(nn.Sequential(conv)) == 0
    assert torch.equal(conv(x), expected)


@pytest.fixture
def lively_network(random_network):
    """As random_network, of which no feature is zero everywhere."""

    def build(name, seed=0):
        network = random_network(name, seed)
        for key, value in network.named_buffers():
            if key.endswith("running_mean"):
                value.div_(20)
        return network

    return build


def record(height=64, width=96):
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.rand(3, height, width, generator=generator) * 255}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_accelerated_network_sends_and_restores_the_same(lively_network, name):
    network = lively_network(name)
    (plain,) = network.edge_features([record()])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fingerprint = network.fingerprint()
    network.accelerate("fused")
    (fast,) = network.edge_features([record()])
    assert fast.sizes == plain.sizes and fast.elements == plain.elements
    for x, y in zip(fast.tensors, plain.tensors, strict=True):
        assert y.abs().max() > 0 and (x - y).abs().max() <= 1e-4 * y.abs().max()
    # What is trained and saved is as it was, and tells the same network.
    after = network.state_dict()
    assert after.keys() == before.keys() and network.fingerprint() == fingerprint
    assert all(torch.equal(value, before[key]) for key, value in after.items())
    # Both sub-models take each other's bitstreams, accelerated or not.
    stream = FeatureBitstream.from_bytes(network.edge_inference([record()])[0].to_bytes())
    received = network.decode(stream)
    found = [
        features_in_the_cloud(model, network, received, stream)
        for model in (network.accelerated("cloud"), network.network)
    ]
    for quick, slow in zip(*found, strict=True):
        assert slow.abs().max() > 0 and (quick - slow).abs().max() <= 1e-3 * slow.abs().max()
    assert network.cloud_inference([stream])[0]["bitstream"] == stream


@torch.no_grad()
def features_in_the_cloud(model, network, y_hats, stream):
    """list[Tensor]: what the heads get."""
    padded, y_hats = stream.sizes.padded, [y[None] for y in y_hats]
    if network.sends_image:
        return list(model.backbone(network.feature_split.restore(y_hats, padded)["image"]).values())
    stream = network.describe_stream(stream)
    steps = [step[None] for step in read_step_sizes(stream, network.feature_codec)]
    return list(model.backbone.decode_features(DecodedLatents(y_hats, steps, padded)).values())


def test_copies_follow_the_weights(random_network):
    """However they are changed: what is sent never carries the fingerprint of other weights."""
    network, other = random_network("msfc"), random_network("msfc", seed=1)
    network.accelerate("fused")
    (before,) = network.edge_features([record()])
    network.load_state_dict(other.state_dict())
    (found,), (expected,) = network.edge_features([record()]), other.edge_features([record()])
    torch.testing.assert_close(found.tensors[0], expected.tensors[0], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found.tensors[0], before.tensors[0], atol=1e-3)
    with torch.no_grad():
        for model in (network, other):
            model.feature_split.encoder.conv.weight.mul_(-1)  # in place
    (found,), (expected,) = network.edge_features([record()]), other.edge_features([record()])
    torch.testing.assert_close(found.tensors[0], expected.tensors[0], rtol=1e-3, atol=1e-4)
    assert network.fingerprint() == other.fingerprint()


def test_eval_sees_changes_that_pytorch_does_not_count(random_network):
    """Of averages of weights, e.g., which are often written through `.data`."""
    network, other = random_network("msfc"), random_network("msfc", seed=1)
    network.accelerate("fused")
    network.edge_inference([record()])
    kept = network.accelerated("edge")
    assert network.eval().accelerated("edge") is kept  # nothing has changed
    for own, given in zip(network.parameters(), other.parameters(), strict=True):
        own.data.copy_(given.data)
    for own, given in zip(network.buffers(), other.buffers(), strict=True):
        own.data.copy_(given.data)
    network.eval()
    (found,), (expected,) = network.edge_features([record()]), other.edge_features([record()])
    torch.testing.assert_close(found.tensors[0], expected.tensors[0], rtol=1e-3, atol=1e-4)
    assert network.fingerprint() == other.fingerprint()
    encoder = copy.deepcopy(random_network("msfc", seed=2).feature_split.encoder)
    network.feature_split.encoder = other.feature_split.encoder = encoder  # another module
    network.eval()
    (found,), (expected,) = network.edge_features([record()]), other.edge_features([record()])
    torch.testing.assert_close(found.tensors[0], expected.tensors[0], rtol=1e-3, atol=1e-4)
    twin = random_network("msfc", seed=1)
    twin.feature_split.encoder = encoder
    assert network.fingerprint() == twin.fingerprint()


def test_when_a_network_can_be_accelerated(random_network):
    network = random_network("msfc")
    network.accelerate("fused")
    assert network.accelerated("cloud") is not network.network
    network.train()
    assert network.accelerated("cloud") is network.network
    with pytest.raises(RuntimeError, match=r"call model.eval\(\) first"):
        network.accelerate("fused")
    with pytest.raises(ValueError, match="give torch"):
        network.eval().fuse_for_inference(torch.float16)
    network.fuse_for_inference()
    assert network.accelerated("cloud") is not network.network
    network.accelerate("plain")
    assert network.accelerated("cloud") is network.network


def test_accelerated_networks_are_copied_and_pickled(random_network):
    network = random_network("msfc")
    network.accelerate("fused")
    (expected,) = network.edge_inference([record()])
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert twin.edge_inference([record()])[0] == expected
        assert twin.accelerated("cloud") is not twin.network


def test_nothing_is_left_to_fold(random_network):
    network = random_network("msfc")
    network.accelerate("fused")
    cloud = network.accelerated("cloud")
    backbone = cloud.backbone.backbone
    left = [m for m in backbone.modules() if isinstance(m, (nn.BatchNorm2d, FrozenBatchNorm2d))]
    assert not left and fold_norms(backbone) == 0
    assert not any(parameter.requires_grad for parameter in cloud.parameters())
    assert fold_norms(network.network) > 10


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_edge_half_sends_the_same(lively_network, caplog):
    network = lively_network("msfc")
    (plain,) = network.edge_features([record()])
    network.accelerate("compiled")
    with caplog.at_level("INFO", logger="d2_featcomp"):
        for _ in range(2):
            (compiled,) = network.edge_features([record()])
    told = [entry.getMessage() for entry in caplog.records if entry.name == "d2_featcomp"]
    assert len(told) == 1 and told[0].startswith(
        "compiled the edge sub-model for 1 image(s) of 64 x 96 "
    )
    (x,), (y,) = compiled.tensors, plain.tensors
    assert compiled.elements == plain.elements
    assert y.abs().max() > 0 and (x - y).abs().max() <= 1e-4 * y.abs().max()


@pytest.mark.parametrize("name", ["msfc", "baf", "tasks"])
def test_bfloat16_is_close(lively_network, name):
    # Of some seeds MSFC's latents are off by up to 9 %: random weights can make its tanh very steep.
    network = lively_network(name, seed=2)
    (plain,) = network.edge_features([record()])
    if not computes_bfloat16("cpu"):
        with pytest.raises(ValueError, match=r"set MODEL\.FEATCOMP\.INFERENCE to fused"):
            network.accelerate("bfloat16")
        # It works as before.
        assert torch.equal(network.edge_features([record()])[0].tensors[0], plain.tensors[0])
        return
    network.accelerate("bfloat16")
    (low,) = network.edge_features([record()])
    for x, y in zip(low.tensors, plain.tensors, strict=True):
        assert x.dtype == torch.float32 and not torch.equal(x, y)
        assert (x - y).norm() <= 0.05 * y.norm()
    assert next(network.accelerated("cloud").parameters()).dtype == torch.float32
    stream = network.edge_inference([record()])[0]
    network.cloud_inference([FeatureBitstream.from_bytes(stream.to_bytes())])


def test_what_a_limited_processor_says(configured, random_network, tmp_path):
    """Each half of a network under a limit of the instruction set, which holds for a whole process."""
    torch.save({"model": random_network("msfc").state_dict()}, tmp_path / "whole.pth")
    cfg = configured("msfc", "", "MODEL.FEATCOMP.INFERENCE", "bfloat16")
    (tmp_path / "config.yaml").write_text(cfg.dump())
    script = (
        "import sys\n"
        "from d2_featcomp.engine import load_sub_model, setup_config\n"
        "cfg = setup_config(sys.argv[1] + '/config.yaml')\n"
        "load_sub_model(cfg, sys.argv[1] + '/whole.pth', 'cloud')  # computes nothing in bfloat16\n"
        "try:\n"
        "    load_sub_model(cfg, sys.argv[1] + '/whole.pth', 'edge')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    (tmp_path / "script.py").write_text(script)
    limit = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    status, told, errors = processes.call(tmp_path / "script.py", [tmp_path], tmp_path / "told", limit)
    assert status == 0, errors[-2000:]
    assert "set MODEL.FEATCOMP.INFERENCE to fused" in told


def test_the_config_chooses(configured, random_network, tmp_path):
    torch.save({"model": random_network("msfc").state_dict()}, tmp_path / "whole.pth")
    cfg = configured("msfc", tmp_path / "whole.pth")
    halves = export_sub_models(cfg, str(tmp_path))
    fused = configured("msfc", tmp_path / "whole.pth", "MODEL.FEATCOMP.INFERENCE", "fused")
    edge, cloud = (load_sub_model(fused, halves[half], half) for half in ("edge", "cloud"))
    assert edge.accelerated("edge") is not edge.network.backbone
    assert cloud.accelerated("cloud") is not cloud.network
    plain = load_sub_model(cfg, halves["edge"], "edge")
    assert plain.accelerated("edge") is plain.network.backbone
    (stream,) = edge.edge_inference([record()])
    (expected,) = random_network("msfc").edge_inference([record()])
    assert stream.fingerprint == expected.fingerprint
    cloud.cloud_inference([FeatureBitstream.from_bytes(stream.to_bytes())])
    with pytest.raises(ValueError, match="INFERENCE is 'fast': choose one of plain, fused"):
        build_model(configured("msfc", "", "MODEL.FEATCOMP.INFERENCE", "fast"))


def test_proposals_of_an_enlarged_level_are_the_same(small_model, make_record, monkeypatch):
    network = small_model(MODEL__FEATCOMP__SSFC__CHANNELS=8)
    streams = network.edge_inference([make_record(128, 192)])
    (slow,) = network.cloud_inference(streams)
    counted = []

    def count(*args):
        counted.append(args)
        return convolve_enlarged(*args)

    monkeypatch.setattr(enlarged_maps, "convolve_enlarged", count)
    network.cloud_inference(streams)
    assert not counted  # plain is plain
    network.accelerate("fused")
    (fast,) = network.cloud_inference(streams)
    assert len(counted) == 2  # p3 of MSFR, and p2 in the proposals' head
    assert len(fast["instances"]) > 0
    for field in ("pred_boxes", "scores", "pred_classes"):
        one, other = (output["instances"].get(field) for output in (fast, slow))
        one, other = getattr(one, "tensor", one), getattr(other, "tensor", other)
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_a_level_that_was_changed_is_convolved_as_it_is():
    torch.manual_seed(0)
    conv = Conv2d(3, 4, 3, padding=1)
    quick = enlarged_maps._ConvOfEnlarged(conv, 4)
    x = nn.functional.interpolate(torch.randn(1, 3, 4, 6), scale_factor=4.0)
    torch.testing.assert_close(quick(x), conv(x))
    x.mul_(2)
    torch.testing.assert_close(quick(x), conv(x))
    x[0, 0, 5, 5] += 1  # no longer blocks of equal values
    assert torch.equal(quick(x), conv(x))
    assert torch.equal(quick(x[..., :-1, :]), conv(x[..., :-1, :]))


def test_training_keeps_what_the_network_remembers(small_config, make_record):
    """RetinaNet keeps a running mean of how many objects there are, as an attribute of itself."""
    network = build_model(small_config("configs/msfc_retinanet_R50.yaml")).train()
    for _ in range(2):
        network([make_record(128, 192)])
    first = network.loss_normalizer
    network([make_record(128, 192)])
    assert network.loss_normalizer != first
