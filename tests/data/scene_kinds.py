"""Scenes for the tests of their composition and of their files."""

from pathlib import Path

import numpy as np

from d2_featcomp.data.datasets.scenes import procedural_recipe
from d2_featcomp.data.scenes import (
    ProceduralBackgrounds,
    ProceduralObjects,
    SceneComposer,
)

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 6, "val": 3}
RECIPE = procedural_recipe(COUNTS, seed=7)
STUFF = len(ProceduralBackgrounds.stuff_classes)


def procedural_scene(*seed):
    composer = SceneComposer(objects=ProceduralObjects(), backgrounds=ProceduralBackgrounds())
    return composer.compose(np.random.default_rng(seed))


def window_of(mask):
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
