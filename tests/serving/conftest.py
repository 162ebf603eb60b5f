"""A small network and what its edge sends: shared by the tests of servers and clients."""

import pytest
import torch


@pytest.fixture(scope="module")
def network(random_network):
    return random_network("msfc")


@pytest.fixture(scope="module")
def stream(network):
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(2)) * 255
    return network.edge_inference([{"image": image}])[0]


@pytest.fixture(scope="module")
def data(stream):
    return stream.to_bytes()
