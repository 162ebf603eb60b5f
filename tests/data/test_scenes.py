"""Scenes as they are composed."""

import numpy as np
import pytest
from scene_kinds import STUFF, procedural_scene, window_of

from d2_featcomp.data.scenes import (
    Background,
    ProceduralBackgrounds,
    ProceduralObjects,
    SceneComposer,
)


class Squares:
    """Opaque squares, so that what is hidden of each can be told from its mask alone."""

    classes = ("dull", "bright")

    def draw(self, rng, size, light):
        class_id = int(rng.integers(2))
        sprite = np.ones((round(size), round(size), 4), dtype=np.float32)
        sprite[..., :3] = 0.3 + 0.5 * class_id
        return sprite, class_id


def square_scene(seed):
    composer = SceneComposer(
        objects=Squares(), backgrounds=ProceduralBackgrounds(), object_count=(10, 14)
    )
    return composer.compose(np.random.default_rng(seed))


def disparity_of(scene, item):
    """The disparity at the centre of an object's slanted surface, checked to be one for all of it."""
    slant = np.linspace(-0.06, 0.06, item.mask.shape[1])[None]
    values = (scene.disparity / (1 + slant))[item.mask]
    assert np.ptp(values) < 1e-4 * values.mean()
    return values.mean()


@pytest.fixture(scope="module")
def scenes():
    return [procedural_scene(2021, index) for index in range(110)]


def test_a_seed_decides_every_pixel():
    first, again, other = procedural_scene(5), procedural_scene(5), procedural_scene(6)
    for kind in ("image", "semantic", "disparity"):
        np.testing.assert_array_equal(getattr(first, kind), getattr(again, kind))
    assert len(first.objects) == len(again.objects)
    for a, b in zip(first.objects, again.objects, strict=True):
        assert a.class_id == b.class_id
        np.testing.assert_array_equal(a.mask, b.mask)
    assert first.image.shape != other.image.shape or (first.image != other.image).mean() > 0.5


def test_masks_are_disjoint_and_agree_with_the_semantic_map(scenes):
    for scene in scenes[:40]:
        height, width = scene.semantic.shape
        assert scene.image.shape == (height, width, 3)
        assert scene.image.dtype == scene.semantic.dtype == np.uint8
        covered = np.zeros((height, width), dtype=int)
        for item in scene.objects:
            assert item.mask.any()
            covered += item.mask
            assert (scene.semantic[item.mask] == STUFF + item.class_id).all()
        assert covered.max() <= 1
        assert (scene.semantic[covered == 0] < STUFF).all()


def test_objects_come_from_far_to_near_and_their_disparity_tells_their_depth(scenes):
    for scene in scenes[:40]:
        disparities = [disparity_of(scene, item) for item in scene.objects]
        assert disparities == sorted(disparities)
        # 44 to 130 px in diameter at 4 px of diameter for 1 px of disparity
        assert all(11 <= disparity <= 32.5 for disparity in disparities)
        covered = np.any([item.mask for item in scene.objects], axis=0)
        for row in np.flatnonzero(~covered.all(axis=1)):
            assert np.ptp(scene.disparity[row, ~covered[row]]) == 0  # the ground lies level


def test_near_objects_hide_far_ones():
    hidden_pixels = 0
    for seed in range(12):
        scene = square_scene(seed)
        for index, item in enumerate(scene.objects):
            nearer = np.zeros_like(item.mask)
            for other in scene.objects[index + 1 :]:
                assert disparity_of(scene, other) >= disparity_of(scene, item)
                nearer |= other.mask
            # Whatever a square lacks within its own outline, a nearer one covers.
            window = window_of(item.mask)
            assert (item.mask | nearer)[window].all()
            hidden_pixels += (~item.mask[window]).sum()
    assert hidden_pixels > 1000


def test_at_least_the_promised_share_of_every_object_is_visible():
    shares = []
    for seed in range(12):
        scene = square_scene(seed)
        for item in scene.objects:
            side = round(disparity_of(scene, item) * SceneComposer.PIXELS_PER_DISPARITY)
            shares.append(item.mask.sum() / side**2)
    assert min(shares) >= SceneComposer.MIN_VISIBLE
    assert min(shares) < 0.7  # the bound is met closely: occlusion does happen
    assert max(shares) == 1


def test_an_object_that_is_hidden_too_far_leaves_no_trace():
    class Small(Squares):
        """The second object is drawn larger, so nearer, and right over the first."""

        def __init__(self):
            self.drawn = 0

        def draw(self, rng, size, light):
            self.drawn += 1
            sprite = np.ones((60, 60, 4), dtype=np.float32)
            sprite[..., :3] = (1, 0, 0) if self.drawn == 1 else (0, 0, 1)
            return sprite, self.drawn - 1

    class Wall:
        stuff_classes = ("wall",)

        def draw(self, rng, height, width):
            gray = np.full((height, width, 3), 0.5, dtype=np.float32)
            zeros = np.zeros((height, width))
            return Background(
                gray, zeros.astype(np.uint8), zeros.astype(np.float32), np.zeros(height, np.float32)
            )

    composer = SceneComposer(objects=Small(), backgrounds=Wall(), sizes=((61, 61),), object_count=(2, 2))
    scene = composer.compose(np.random.default_rng(0))
    # Both squares nearly fill the image: the nearer one hides nearly all of the farther one.
    assert len(scene.objects) == 1
    red, _, blue = scene.image[scene.objects[0].mask].astype(int).T
    nearest = "red" if red.mean() > blue.mean() else "blue"
    other = blue if nearest == "red" else red
    assert scene.objects[0].class_id == ("red", "blue").index(nearest)
    assert set(np.unique(scene.semantic)) <= {0, 1 + scene.objects[0].class_id}
    outside = scene.image[~scene.objects[0].mask].astype(int)
    assert other.max() < 20
    assert abs(outside[:, 0] - outside[:, 2]).max(initial=0) < 60  # gray, tinted at most


def test_scenes_vary(scenes):
    assert {scene.semantic.shape for scene in scenes} == {(192, 256), (256, 192)}
    sizes = np.array([4 * disparity_of(scene, item) for scene in scenes for item in scene.objects])
    classes = [item.class_id for scene in scenes for item in scene.objects]
    assert sizes.min() < 46 and sizes.max() > 125
    assert np.percentile(sizes, 75) > 1.5 * np.percentile(sizes, 25)
    counts = np.bincount(classes, minlength=len(ProceduralObjects.classes))
    assert len(counts) == len(ProceduralObjects.classes) >= 5
    assert counts.min() > 0.7 * counts.mean() and counts.max() < 1.3 * counts.mean()
    per_scene = [len(scene.objects) for scene in scenes]
    assert min(per_scene) >= 1 and 3 <= np.mean(per_scene) <= 8
    assert np.mean([len({o.class_id for o in scene.objects}) > 1 for scene in scenes]) > 0.9
    brightness = [scene.image.mean() for scene in scenes]
    assert np.percentile(brightness, 90) - np.percentile(brightness, 10) > 40


def test_colour_does_not_tell_the_class(scenes):
    def colours_and_classes(part):
        pairs = [(s.image[o.mask].mean(axis=0), o.class_id) for s in part for o in s.objects]
        colours, classes = zip(*pairs, strict=True)
        return np.array(colours), np.array(classes)

    count = len(ProceduralObjects.classes)
    colours, classes = colours_and_classes(scenes[:50])
    means = np.array([colours[classes == c].mean(axis=0) for c in range(count)])
    colours, classes = colours_and_classes(scenes[50:])
    guesses = np.linalg.norm(colours[:, None] - means, axis=-1).argmin(axis=1)
    assert len(classes) > 150
    assert abs((guesses == classes).mean() - 1 / count) < 0.10
