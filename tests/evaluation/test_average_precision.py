"""Average precision of resampled images, and intervals of differences."""

import contextlib
import copy
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from d2_featcomp.evaluation import ImageMatches, average_precision, bootstrap_difference
from d2_featcomp.evaluation.average_precision import (
    compute_average_precision,
    compute_by_image,
    draw_images,
    find_interval,
    sample_average_precision,
)

SIDE = 20.0


def evaluate(objects, detections, images, categories=1):
    """COCOeval of objects (image, category, x, crowd) and detections (image, category, x, score):
    squares of one size, at x."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "info": {},
            "images": [{"id": 10 + n, "width": 1000, "height": 100} for n in range(images)],
            "categories": [{"id": 1 + n, "name": str(n)} for n in range(categories)],
            "annotations": [
                {
                    "id": n,
                    "image_id": 10 + image,
                    "category_id": 1 + category,
                    "bbox": [x, 0.0, SIDE, SIDE],
                    "area": SIDE**2,
                    "iscrowd": int(crowd),
                }
                for n, (image, category, x, crowd) in enumerate(objects, 1)
            ],
        }
        truth.createIndex()
        found = truth.loadRes(
            [
                {
                    "image_id": 10 + image,
                    "category_id": 1 + category,
                    "bbox": [x, 0.0, SIDE, SIDE],
                    "score": score,
                }
                for image, category, x, score in detections
            ]
        )
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
    return evaluation


def draw_evaluation(seed, images=12, categories=3):
    """Some objects and crowds; detections near them, and others."""
    generator = np.random.default_rng(seed)
    objects, detections = [], []
    for image in range(images):
        for x in range(0, 400, 50):
            category = int(generator.integers(categories))
            if generator.random() < 0.5:
                objects.append((image, category, float(x), generator.random() < 0.1))
            if generator.random() < 0.6:
                other = int(generator.integers(categories))
                seen = category if generator.random() < 0.8 else other
                moved = float(x + generator.uniform(-5, 5))
                detections.append((image, seen, moved, float(generator.random())))
    return evaluate(objects, detections, images, categories)


def accumulate(evaluation, chosen):
    """Average precision, by pycocotools itself, of a list of images in which some may be repeated."""
    again = copy.copy(evaluation)
    again._paramsEval = copy.deepcopy(evaluation._paramsEval)
    count = len(evaluation.params.imgIds)
    again.evalImgs = [
        evaluation.evalImgs[start + image]
        for start in range(0, len(evaluation.evalImgs), count)
        for image in chosen
    ]
    again.params = copy.deepcopy(evaluation.params)
    again._paramsEval.imgIds = again.params.imgIds = list(range(len(chosen)))
    with contextlib.redirect_stdout(io.StringIO()):
        again.accumulate()
    precision = again.eval["precision"][:, :, :, 0, -1]  # any size, all detections
    return [
        100 * np.mean(part[part > -1]) if (part > -1).any() else np.nan
        for part in (precision, precision[:1])
    ]


def test_one_image_right_and_one_wrong():
    # Image 0: its object is found. Image 1: missed, and something else is seen with the lowest score.
    evaluation = evaluate(
        [(0, 0, 0.0, False), (1, 0, 0.0, False)], [(0, 0, 0.0, 0.9), (1, 0, 500.0, 0.8)], 2
    )
    matches = ImageMatches.from_evaluation(evaluation)
    assert matches.image_ids.tolist() == [10, 11]
    assert matches.objects.tolist() == [[1, 1]]
    assert matches.images.tolist() == [0, 1]
    assert matches.hits.all(axis=0).tolist() == [True, False]
    assert matches.misses.all(axis=0).tolist() == [False, True]
    counts = np.array([[1, 1], [2, 0], [0, 2], [3, 1], [0, 0]])
    # Precision is 1 up to a recall of 1/2, of 101 recalls at 51; of 3/4 at 76. Without images: none.
    expected = [100 * 51 / 101, 100, 0, 100 * 76 / 101, np.nan]
    np.testing.assert_allclose(compute_average_precision(matches, counts), expected)
    np.testing.assert_allclose(compute_average_precision(matches, counts, "AP50"), expected)


def test_crowds_count_neither_as_objects_nor_as_mistakes():
    objects = [(0, 0, 0.0, False), (0, 0, 100.0, True)]
    evaluation = evaluate(objects, [(0, 0, 100.0, 0.9), (0, 0, 0.0, 0.8)], 1)
    matches = ImageMatches.from_evaluation(evaluation)
    assert matches.objects.tolist() == [[1]]
    assert matches.hits.all(axis=0).tolist() == [False, True] and not matches.misses.any()
    assert compute_average_precision(matches, [[1]]) == pytest.approx([100])


def test_categories_without_objects_among_the_drawn_images_do_not_count():
    objects = [(0, 0, 0.0, False), (1, 1, 0.0, False)]
    matches = ImageMatches.from_evaluation(evaluate(objects, [(0, 0, 0.0, 0.9)], 2, categories=2))
    assert compute_average_precision(matches, [[1, 1], [2, 0], [0, 2]]) == pytest.approx([50, 100, 0])


@pytest.mark.parametrize("seed", range(4))
def test_resamples_have_the_average_precision_that_pycocotools_computes(seed):
    evaluation = draw_evaluation(seed)
    matches = ImageMatches.from_evaluation(evaluation)
    counts = draw_images(12, 20, seed)
    assert (counts.sum(axis=1) == 12).all() and counts.max() > 1
    expected = [accumulate(evaluation, np.repeat(np.arange(12), row)) for row in counts]
    for column, metric in enumerate(("AP", "AP50")):
        found = compute_average_precision(matches, counts, metric)
        np.testing.assert_allclose(found, [row[column] for row in expected], atol=1e-9)


def test_of_each_image_alone_as_pycocotools_computes_it(monkeypatch):
    monkeypatch.setattr(average_precision, "_IMAGES_AT_ONCE", 5)
    evaluation = draw_evaluation(0)
    matches = ImageMatches.from_evaluation(evaluation)
    expected = np.array([accumulate(evaluation, [image]) for image in range(12)])
    np.testing.assert_allclose(compute_by_image(matches), expected[:, 0])
    np.testing.assert_allclose(compute_by_image(matches, "AP50"), expected[:, 1])


def test_of_an_image_without_objects_there_is_none():
    matches = ImageMatches.from_evaluation(evaluate([(0, 0, 0.0, False)], [(1, 0, 0.0, 0.9)], 2))
    np.testing.assert_allclose(compute_by_image(matches), [0, np.nan])


def test_what_a_compiled_evaluation_keeps_to_itself_is_matched_again():
    evaluation = draw_evaluation(1)
    expected = ImageMatches.from_evaluation(evaluation)
    evaluation.evalImgs = []
    with contextlib.redirect_stdout(io.StringIO()):
        found = ImageMatches.from_evaluation(evaluation)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(found, name), value)


def test_differences_of_pairs_of_images():
    # Of 8 images, each with one object. Both find it in 4 images, and only one in two of the others.
    objects = [(n, 0, 0.0, False) for n in range(8)]
    seen = {
        n: ImageMatches.from_evaluation(evaluate(objects, [(k, 0, 0.0, 0.9) for k in range(n)], 8))
        for n in (4, 6)
    }
    difference, low, high = bootstrap_difference(seen[6], seen[4], seed=3)
    # Recall 6/8 and 4/8 at precision 1: 76 and 51 of 101 recalls.
    assert difference == pytest.approx(100 * 25 / 101)
    assert 0 <= low < difference < high < 100
    # 2 of 8 images: a binomial share, whose deviation is 15 points; 95 % lie within 2 of them.
    assert high - low == pytest.approx(100 * 4 * np.sqrt(0.25 * 0.75 / 8), abs=12)
    assert bootstrap_difference(seen[6], seen[4], seed=3) == (difference, low, high)
    assert bootstrap_difference(seen[4], seen[6], seed=3) == pytest.approx((-difference, -high, -low))
    assert bootstrap_difference(seen[4], seen[4]) == (0, 0, 0)


def test_the_first_sample_is_of_all_images_and_a_seed_gives_the_same_ones():
    evaluation = draw_evaluation(2)
    matches = ImageMatches.from_evaluation(evaluation)
    found = sample_average_precision(matches, resamples=10, seed=5)
    assert found.shape == (11,)
    assert found[0] == pytest.approx(accumulate(evaluation, range(12))[0])
    assert np.array_equal(found, sample_average_precision(matches, resamples=10, seed=5))
    assert not np.array_equal(found, sample_average_precision(matches, resamples=10, seed=6))


def test_an_interval_of_values_by_hand():
    assert find_interval(np.arange(101.0)) == pytest.approx((2.5, 97.5))
    assert find_interval(np.array([np.nan, 1.0, np.nan])) == (1, 1)
    assert np.isnan(find_interval(np.full(3, np.nan))).all()


def test_other_images_are_refused():
    found = [ImageMatches.from_evaluation(draw_evaluation(seed)) for seed in (1, 2)]
    with pytest.raises(ValueError, match="not measured on the same images"):
        bootstrap_difference(*found)
    with pytest.raises(ValueError, match="unknown metric 'AR'"):
        bootstrap_difference(found[0], found[0], metric="AR")


def test_matches_are_read_as_they_were_written(tmp_path):
    path = tmp_path / "matches.npz"
    matches = ImageMatches.from_evaluation(draw_evaluation(1))
    matches.save(str(path))
    for name, value in vars(ImageMatches.load(str(path))).items():
        np.testing.assert_array_equal(value, getattr(matches, name))
        assert value.dtype == getattr(matches, name).dtype
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match="holds no matches that can be read"):
        ImageMatches.load(str(path))
    with pytest.raises(FileNotFoundError):
        ImageMatches.load(str(tmp_path / "none.npz"))
