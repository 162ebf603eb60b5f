"""Entropy models and maps for tests, the same in every process; as a program it codes or decodes them.

entropy_models.py encode FILE COUNT DTYPE    writes COUNT payloads
entropy_models.py decode FILE COUNT DTYPE PART OF    decodes one of OF equal parts; prints how many
    these are, and how many do not give their maps back
"""

import pickle
import sys

import numpy as np
import torch

from d2_featcomp.codecs import BitstreamError
from d2_featcomp.codecs.entropy import ContextModel

# channels, bits, and other settings
KINDS = [
    (2, 2, {}),
    (3, 4, {"group": 2}),
    (1, 3, {"hyper": 1}),
    (4, 6, {"group": 4}),
    (2, 8, {"hyper": 2, "context": False}),
]
SHAPES = [(1, 1), (3, 4), (1, 1), (1, 9), (7, 2), (1, 2), (2, 1), (1, 1)]


def random_model(channels, bits, group=0, seed=0, scale=0.4, **settings):
    """A model whose outputs differ much from symbol to symbol."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = ContextModel(channels, bits, group, **settings)
        for name, weight in model.named_parameters():
            size = scale if name.startswith("head") else 0.3
            weight.add_(torch.randn(weight.shape, generator=generator) * size)
    model.update()
    return model


def smooth_maps(count, channels, bits, size=(12, 16), seed=0):
    """(count, C, H, W) int64 symbols that their neighbours tell much of."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, channels, size[0] // 4 + 2, size[1] // 4 + 2, generator=generator)
    smooth = torch.nn.functional.interpolate(noise, size=size, mode="bilinear")
    smooth = smooth + smooth[:, :1] + 0.1 * torch.randn(count, channels, *size, generator=generator)
    highest = 2**bits - 1
    return ((torch.sigmoid(2 * smooth)) * highest).round().long()


def fit(model, maps, iterations=60, rate=0.02):
    """Fits a model; returns the bits of a symbol at each iteration."""
    optimizer, found = torch.optim.Adam(model.parameters(), rate), []
    for iteration in range(iterations):
        batch = maps[iteration * 4 % len(maps) :][:4].float()
        bits = model(batch) / batch.numel()
        optimizer.zero_grad()
        bits.backward()
        optimizer.step()
        found.append(float(bits.detach()))
    model.update()
    return found


def cases(count):
    """Yields (model index, map) of `count` streams."""
    random = np.random.default_rng(7)
    for index in range(count):
        kind = index % len(KINDS)
        channels, bits = KINDS[kind][:2]
        shape = SHAPES[index // len(KINDS) % len(SHAPES)]
        yield kind, random.integers(0, 2**bits, (channels, *shape)).astype(np.int32)


def main(action, path, count, dtype, part="0", of="1"):
    models = [
        random_model(channels, bits, seed=index, **settings)
        for index, (channels, bits, settings) in enumerate(KINDS)
    ]
    models = [model.integer_model(dtype) for model in models]
    if action == "encode":
        payloads = [models[kind].encode(symbols) for kind, symbols in cases(int(count))]
        with open(path, "wb") as file:
            pickle.dump(payloads, file)
        return
    with open(path, "rb") as file:
        payloads = pickle.load(file)
    size, wrong = int(count) // int(of), 0
    coded = list(zip(payloads, cases(int(count)), strict=True))
    for payload, (kind, symbols) in coded[int(part) * size :][:size]:
        try:
            wrong += not np.array_equal(models[kind].decode(payload, symbols.shape), symbols)
        except BitstreamError:
            wrong += 1
    print(size, wrong)


if __name__ == "__main__":
    main(*sys.argv[1:])
