"""Several bitstreams at once: what comes out is what comes out alone."""

import pytest
import torch

NETWORKS = ("msfc", "pyramid", "image", "baf", "layer", "tasks", "gains")


def records(*sizes):
    generator = torch.Generator().manual_seed(1)
    return [
        {"image": torch.rand(3, *size, generator=generator) * 255, "height": 50 + index, "width": 70}
        for index, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_gives_what_each_image_gives_alone(random_network, name):
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
    outputs = network.outputs_of_batch(received, streams)
    for each, stream in zip(received, streams, strict=True):
        network.outputs_of(each, stream)
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


def test_another_size_does_not_fit_in(random_network):
    network = random_network("msfc")
    streams = network.edge_inference(records((64, 96), (128, 96)))
    with pytest.raises(ValueError, match=r"sizes \[\(64, 96\), \(128, 96\)\] cannot be"):
        network.outputs_of_batch([network.decode(stream) for stream in streams], streams)
