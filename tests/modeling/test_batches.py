"""Several images, or bitstreams, at once: what comes out is what comes out alone."""

import pytest
import torch
from detectron2.layers import FrozenBatchNorm2d
from torch import nn

from d2_featcomp.codecs import FeatureBitstream

NETWORKS = ("msfc", "pyramid", "image", "baf", "layer", "tasks", "gains")


def records(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.rand(3, *size, generator=generator) * 255, "height": 50 + index, "width": 70}
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_cloud_gives_what_each_image_gives_alone(random_network, name):
    network = random_network(name)
    seen = []  # what the network's heads get, and give

    def keep(module, inputs, output):
        seen.append(output)

    heads = {"msfc": "proposal_generator", "pyramid": "proposal_generator", "image": "backbone"}
    module = getattr(network, heads.get(name, "head" if name in ("baf", "layer") else "heads"))
    if name in ("msfc", "pyramid"):
        module = module.rpn_head
    elif name in ("tasks", "gains"):
        (module, *_) = module.values()
    module.register_forward_hook(keep)
    # Of one padded size, but for "image", which pads nothing.
    sizes = ((64, 96),) * 3 if name == "image" else ((64, 96), (60, 90), (64, 96))
    streams = network.edge_inference(records(*sizes))
    assert len({stream.sizes.padded for stream in streams}) == 1
    # Random features: those of a network that learned nothing are alike for all images.
    torch.manual_seed(0)
    scale = 100 if name == "image" else 1
    received = [
        [scale * (index + torch.randn_like(z)) for z in network.decode(stream)]
        for index, stream in enumerate(streams)
    ]
    seen.clear()
    outputs = network.compute_batch_outputs(received, streams)
    for each, stream in zip(received, streams, strict=True):
        network.compute_outputs(each, stream)
    together, *alone = (flat(output) for output in seen)
    assert any((x[0] - x[2]).abs().max() > 0.01 * x.abs().max() for x in together)
    for tensors in zip(together, *alone, strict=True):
        batch, single = tensors[0], torch.cat(tensors[1:])
        assert batch.shape == single.shape and len(batch) == 3
        assert (batch - single).abs().max() < 1e-4 * single.abs().max() or not single.any()
    for index, output in enumerate(outputs):  # each has its own image's size
        for key in output.keys() & {"instances", "sem_seg"}:
            value = output[key]
            found = value.image_size if hasattr(value, "image_size") else tuple(value.shape[-2:])
            assert found == (50 + index, 70)


def flat(output):
    """list[Tensor]: all that is in nested lists and dicts."""
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flat(part)]


def test_another_size_does_not_fit_into_the_cloud(random_network):
    network = random_network("msfc")
    streams = network.edge_inference(records((64, 96), (128, 96)))
    with pytest.raises(ValueError, match=r"sizes \[\(64, 96\), \(128, 96\)\] cannot be"):
        network.compute_batch_outputs([network.decode(stream) for stream in streams], streams)


def let_images_differ(network):
    """Sets the statistics of batch norms to those of noise; random ones leave nothing of an image."""

    def set_statistics(norm, inputs):
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    norms = (nn.BatchNorm2d, FrozenBatchNorm2d)
    hooks = [
        module.register_forward_pre_hook(set_statistics)
        for module in network.backbone.modules()
        if isinstance(module, norms)
    ]
    with torch.no_grad():
        network.backbone(torch.randn(2, 3, 128, 128))
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("fused", [False, True])
def test_the_edge_gives_what_each_image_gives_alone(random_network, name, fused):
    network = random_network(name)
    let_images_differ(network)
    if fused:
        network.fuse_for_inference()
    batch = records((64, 96), (64, 96), (64, 96))
    together, alone = network.compute_batch_features(batch), network.edge_features(batch)
    assert [each.sizes for each in together] == [each.sizes for each in alone]
    assert [each.sizes.original for each in together] == [(50, 70), (51, 70), (52, 70)]
    for first, second in zip(together, alone, strict=True):
        assert first.elements == second.elements
        for x, y in zip(first.tensors, second.tensors, strict=True):
            assert x.shape == y.shape and (x - y).abs().max() <= 1e-4 * y.abs().max()
    first, second = (each.tensors[0] for each in together[:2])
    assert (first - second).abs().max() > 0.01 * first.abs().max()
    assert network.compute_batch_features([]) == []


def test_a_stream_of_a_batch_is_one_of_the_network(random_network):
    network = random_network("msfc")
    let_images_differ(network)
    batch = records((64, 96), (64, 96))
    sent = [network.encode(each).to_bytes() for each in network.compute_batch_features(batch)]
    alone = [stream.to_bytes() for stream in network.edge_inference(batch)]
    assert sent == alone and sent[0] != sent[1]
    streams = [FeatureBitstream.from_bytes(data) for data in sent]
    outputs = network.compute_batch_outputs([network.decode(stream) for stream in streams], streams)
    assert [output["instances"].image_size for output in outputs] == [(50, 70), (51, 70)]
    assert network.compute_batch_outputs([], []) == []


def test_another_size_does_not_fit_into_the_edge(random_network):
    network = random_network("msfc")
    with pytest.raises(ValueError, match=r"sizes \[\(3, 60, 96\), \(3, 64, 96\)\] cannot be"):
        network.compute_batch_features(records((64, 96), (60, 96)))


def test_a_network_in_training_has_no_edge_for_batches(random_network):
    network = random_network("msfc")
    network.train()
    try:
        with pytest.raises(RuntimeError, match="evaluation mode"):
            network.compute_batch_features(records((64, 96)))
    finally:
        network.eval()
