"""Entropy models of a hyper-latent alone, of many channels, as L-MSFC has them, go on learning: larger
steps drive the activations of their wide layers to the ends, where nothing passes any more."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from d2_featcomp.engine import entropy_stage, setup_config
from d2_featcomp.engine.trainer import Trainer

CONFIG = str(Path(__file__).parents[2] / "configs/quick/lmsfc_R18_variable.yaml")
IMAGES, RATE = 16, 0.5


@pytest.fixture
def cfg():
    return setup_config(CONFIG, ["MODEL.DEVICE", "cpu"])


@pytest.fixture
def model(cfg):
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.fixture(scope="module")
def latents():
    """Smooth ones, of channels that have much in common and means of their own."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator)

    smooth = torch.nn.functional.interpolate(random(IMAGES, 8, 3, 3), size=(8, 8), mode="bilinear")
    gains = 0.3 * torch.rand(128, 8, generator=generator)
    common = torch.einsum("nkhw,ck->nchw", smooth, gains)
    return common + 0.5 * random(1, 128, 1, 1) - 1 + 0.2 * random(IMAGES, 128, 8, 8)


def share_that_learns(codec, latents):
    """Of the first layer's units after the hyper-latent, those that get a gradient."""
    codec.train()
    (model,) = codec.context_models
    symbols = torch.stack([codec.find_symbols_at(y, 0, RATE) for y in latents]).float()
    codec.zero_grad()
    (model(symbols, rate=torch.full((IMAGES,), RATE)) / symbols.numel()).backward()
    return float((model.before_weight.grad.flatten(1) != 0).any(dim=1).float().mean())


def test_beside_the_network(cfg, model, latents):
    codec = model.feature_codec.train()
    optimizer = Trainer.build_optimizer(cfg, model)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        chosen = torch.randint(IMAGES, (4,), generator=generator).tolist()
        rates = torch.rand(4, generator=generator)
        symbols = torch.stack(
            [
                codec.find_symbols_at(latents[i], 0, r)
                for i, r in zip(chosen, rates.tolist(), strict=True)
            ]
        ).float()
        optimizer.zero_grad()
        (codec.context_models[0](symbols, rate=rates) / symbols.numel()).backward()
        optimizer.step()
    assert share_that_learns(codec, latents) > 0.5


def test_in_stage_4(cfg, model, latents):
    codec = model.feature_codec.train()
    settings = cfg.MODEL.FEATCOMP.TRAIN.STEP4
    fitting = entropy_stage._Fitting(codec, [[y] for y in latents], settings, seed=0)
    found = [fitting.step() for _ in range(40)]
    assert share_that_learns(codec, latents) > 0.5
    assert sum(found[-5:]) < 0.7 * sum(found[:5])
