"""An edge half on a GPU and a cloud half on a CPU, and the other way round."""

import copy

import pytest
import torch

from d2_featcomp.codecs import FeatureBitstream

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("exact_float32")]

NETWORKS = ("msfc", "pyramid", "image", "baf", "layer", "tasks", "gains")


@pytest.fixture
def pair(random_network, device):
    """A function: name of a network -> the same one on the CPU and on the device."""

    def build(name):
        network = random_network(name)
        for key, value in network.named_buffers():
            if key.endswith("running_mean"):
                value.div_(20)  # so that no feature is zero everywhere
        return network, copy.deepcopy(network).to(device)

    return build


def record(height=64, width=96):
    generator = torch.Generator().manual_seed(1)
    return {"image": torch.rand(3, height, width, generator=generator) * 255, "height": 70, "width": 105}


def decoded(network, data):
    """list[Tensor]: (C, H, W) float32, on the CPU."""
    return [x.cpu() for x in network.decode(FeatureBitstream.from_bytes(data))]


def assert_close_features(network, data, other, share=1e-3):
    """All but a few symbols of two bitstreams are equal, and those few are neighbours."""
    streams = [FeatureBitstream.from_bytes(each) for each in (data, other)]
    assert streams[0].fingerprint == streams[1].fingerprint and streams[0].sizes == streams[1].sizes
    restored = [decoded(network, each) for each in (data, other)]
    shapes = [tuple(x.shape) for x in restored[0]]
    steps = network.feature_codec.step_sizes(streams[0].tensors, shapes)
    for x, y, step in zip(*restored, steps, strict=True):
        difference = (x - y).abs()
        assert y.abs().max() > 0 and (difference <= 1.01 * step + 1e-3 * y.abs().max()).all()
        assert (difference > 0.5 * step).float().mean() <= share


@pytest.mark.parametrize("name", NETWORKS)
def test_both_halves_take_each_others_bitstreams(pair, device, name):
    on_cpu, on_gpu = pair(name)
    assert on_gpu.fingerprint() == on_cpu.fingerprint()
    sent = [network.edge_inference([record()])[0].to_bytes() for network in (on_cpu, on_gpu)]
    if name == "image":
        assert sent[0] == sent[1]  # no network comes before the codec
    else:
        assert_close_features(on_cpu, *sent)
    for data in sent:
        outputs = []
        for network in (on_cpu, on_gpu):
            (output,) = network.cloud_inference([FeatureBitstream.from_bytes(data)])
            assert output["bitstream"].to_bytes() == data
            outputs.append(output)
        assert outputs[0].keys() == outputs[1].keys()
        for x, y in zip(decoded(on_gpu, data), decoded(on_cpu, data), strict=True):
            assert torch.equal(x, y)
        for key, wanted in outputs[0].items():
            if isinstance(wanted, torch.Tensor):  # dense: the tasks'
                found = outputs[1][key]
                assert found.device.type == device.type
                assert (found.cpu() - wanted).norm() <= 1e-3 * wanted.norm(), key
            elif key == "instances":
                found = outputs[1][key].to("cpu")
                assert found.image_size == wanted.image_size == (70, 105)
                assert found.get_fields().keys() == wanted.get_fields().keys()


@pytest.mark.parametrize("name", NETWORKS)
def test_a_fused_network_sends_the_same(pair, name):
    _, network = pair(name)
    plain = network.edge_inference([record()])[0].to_bytes()
    network.fuse_for_inference()
    fused = network.edge_inference([record()])[0].to_bytes()
    assert_close_features(network, fused, plain)
    (output,) = network.cloud_inference([FeatureBitstream.from_bytes(plain)])
    assert output["bitstream"].to_bytes() == plain


@pytest.mark.parametrize("name", ["msfc", "baf", "tasks"])
def test_an_edge_half_in_bfloat16_is_close(pair, name):
    _, network = pair(name)
    (plain,) = network.edge_features([record()])
    network.fuse_for_inference(torch.bfloat16)
    (low,) = network.edge_features([record()])
    for x, y in zip(low.tensors, plain.tensors, strict=True):
        assert x.dtype == torch.float32 and not torch.equal(x, y)
        assert (x - y).norm() <= 0.05 * y.norm()
    network.cloud_inference(network.edge_inference([record()]))


def test_a_network_that_moves_is_no_longer_fused(pair, device):
    on_cpu, _ = pair("msfc")
    plain = on_cpu.edge_inference([record()])[0].to_bytes()
    on_cpu.fuse_for_inference()
    on_cpu.edge_inference([record()])
    moved = on_cpu.to(device)
    (stream,) = moved.edge_inference([record()])
    assert_close_features(moved, stream.to_bytes(), plain)
    assert all(parameter.device.type == device.type for parameter in moved.parameters())
