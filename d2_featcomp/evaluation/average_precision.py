"""Confidence intervals of COCO's average precision, by resampling images (the bootstrap).

Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13 (percentile interval).

Shape shorthand in this module:
    I: images; K: categories; T: thresholds of intersection over union; D: detections; B: resamples
"""

import copy
import dataclasses
import io

import numpy as np
import torch
from pycocotools.cocoeval import COCOeval

from ..files import write_bytes

__all__ = [
    "ImageMatches",
    "bootstrap_difference",
    "compute_average_precision",
    "compute_by_image",
    "draw_images",
    "find_interval",
    "require_same_images",
    "sample_average_precision",
]

_MOST_VALUES = 4_000_000  # that are computed at once
_IMAGES_AT_ONCE = 64  # of those that are computed alone; other images' detections weigh nothing
_METRICS = {"AP": None, "AP50": 0.5, "AP75": 0.75}  # -> threshold; None: all


@dataclasses.dataclass(frozen=True)
class ImageMatches:
    """How detections and objects of each image were matched, by COCO's rules, for objects of any size.

    Attributes:
        image_ids (ndarray): (I,) int64, or of str.
        thresholds (ndarray): (T,) float64, of the overlap that a match needs.
        recalls (ndarray): (R,) float64, at which precision is taken.
        objects (ndarray): (K, I) int64, objects that count (not crowds).
        categories, images (ndarray): (D,) int64, of each detection: index of its category and image;
            by category, then from the highest score down.
        hits, misses (ndarray): (T, D) bool, whether a detection is a true or a false positive; it is
            neither if it lies on a crowd.
    """

    image_ids: np.ndarray
    thresholds: np.ndarray
    recalls: np.ndarray
    objects: np.ndarray
    categories: np.ndarray
    images: np.ndarray
    hits: np.ndarray
    misses: np.ndarray

    @classmethod
    def from_evaluation(cls, evaluation):
        """Takes the matches out of an evaluation.

        Args:
            evaluation (COCOeval): of pycocotools or Detectron2, after its `evaluate()`.

        Returns:
            ImageMatches
        """
        if not evaluation.evalImgs:  # Detectron2's compiled evaluation keeps them to itself
            evaluation = _evaluate_plainly(evaluation)
        params = evaluation.params
        count, areas = len(params.imgIds), len(params.areaRng)
        objects = np.zeros((len(params.catIds), count), np.int64)
        columns = [[np.zeros(0, np.int64)], [np.zeros(0, np.int64)]]
        hits = [np.zeros((len(params.iouThrs), 0), bool)]
        misses = list(hits)
        for category in range(len(params.catIds)):
            start = category * areas * count  # areas begin with that of any size
            found = [
                (image, entry)
                for image, entry in enumerate(evaluation.evalImgs[start : start + count])
                if entry is not None
            ]
            for image, entry in found:
                objects[category, image] = np.count_nonzero(np.asarray(entry["gtIgnore"]) == 0)
            if not found:
                continue
            scores = np.concatenate([entry["dtScores"] for _, entry in found])
            order = np.argsort(-scores, kind="mergesort")
            places = [np.full(len(entry["dtScores"]), image) for image, entry in found]
            matched = np.concatenate([entry["dtMatches"] for _, entry in found], axis=1)[:, order] != 0
            counts = np.concatenate([entry["dtIgnore"] for _, entry in found], axis=1)[:, order] == 0
            columns[0].append(np.full(len(scores), category))
            columns[1].append(np.concatenate(places).astype(np.int64)[order])
            hits.append(matched & counts)
            misses.append(~matched & counts)
        return cls(
            image_ids=np.asarray(params.imgIds),
            thresholds=np.asarray(params.iouThrs, np.float64),
            recalls=np.asarray(params.recThrs, np.float64),
            objects=objects,
            categories=np.concatenate(columns[0]),
            images=np.concatenate(columns[1]),
            hits=np.concatenate(hits, axis=1),
            misses=np.concatenate(misses, axis=1),
        )

    def save(self, path):
        """Writes a compressed .npz file, in one piece."""
        data = io.BytesIO()
        np.savez_compressed(data, **vars(self))
        write_bytes(data.getvalue(), path)

    @classmethod
    def load(cls, path):
        """Reads what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: it is damaged, or another file.
        """
        try:
            with open(path, "rb") as data, np.load(data, allow_pickle=False) as file:
                return cls(**{field.name: file[field.name] for field in dataclasses.fields(cls)})
        except FileNotFoundError:
            raise
        except Exception as error:  # whatever a damaged archive raises
            raise ValueError(f"{path!r} holds no matches that can be read: {error}") from error


def _evaluate_plainly(evaluation):
    plain = COCOeval(evaluation.cocoGt, evaluation.cocoDt, evaluation.params.iouType)
    plain.params = copy.copy(evaluation.params)
    plain.params.areaRng, plain.params.areaRngLbl = plain.params.areaRng[:1], ["all"]
    plain.evaluate()
    return plain


def draw_images(count, resamples=1000, seed=0):
    """Draws images with replacement.

    Args:
        count (int): I.
        resamples (int): B.
        seed (int): of the choice.

    Returns:
        ndarray: (B, I) int64, how often each image is in each resample; rows sum to I.
    """
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples)


def compute_average_precision(matches, counts, metric="AP"):
    """Computes COCO's average precision of resamples of the images: the matches stay, and only precision
    and recall are computed anew.

    Args:
        matches (ImageMatches): of all images.
        counts (ndarray): (B, I) int, how often each image is in each resample.
        metric (str): "AP", "AP50" or "AP75".

    Returns:
        ndarray: (B,) float64, percent; NaN for a resample without objects.

    Raises:
        ValueError: an unknown metric, or its threshold is not among those of the matches.
    """
    rows = _find_thresholds(matches, metric)
    counts, recalls = (torch.as_tensor(np.asarray(x, np.float64)) for x in (counts, matches.recalls))
    sums, categories = torch.zeros(len(counts)).double(), torch.zeros(len(counts)).double()
    for category in np.flatnonzero(matches.objects.any(axis=1)):
        own = slice(*np.searchsorted(matches.categories, [category, category + 1]))
        objects = counts @ torch.as_tensor(matches.objects[category]).double()
        hits, misses = (torch.as_tensor(x[rows, own]) for x in (matches.hits, matches.misses))
        images = torch.as_tensor(matches.images[own])
        step = max(1, _MOST_VALUES // max(1, len(images)))
        parts = [
            _average_category(counts[n : n + step, images], objects[n : n + step], hits, misses, recalls)
            for n in range(0, len(counts), step)
        ]
        present = objects > 0
        sums += torch.where(present, torch.cat(parts), 0.0)
        categories += present
    return (100 * sums / categories).numpy()


def _find_thresholds(matches, metric):
    if metric not in _METRICS:
        raise ValueError(f"unknown metric {metric!r}: choose one of {', '.join(_METRICS)}")
    wanted = _METRICS[metric]
    rows = np.flatnonzero(np.isclose(matches.thresholds, wanted or matches.thresholds))
    if not len(rows):
        raise ValueError(f"{metric} needs matches at {wanted}, there are {matches.thresholds}")
    return rows


def _average_category(weights, objects, hits, misses, recalls):
    """(B, D) weights of detections, (B,) objects, (T, D) bool twice, (R,) -> (B,) mean over thresholds
    and recalls of the precision."""
    total = torch.zeros(len(weights)).double()
    recalls = recalls.expand(len(weights), -1).contiguous()
    for hit, counts in zip(hits, hits | misses, strict=True):
        places = hit.nonzero()[:, 0]  # where recall rises: there precision is taken, and nowhere else
        true = weights[:, places].cumsum(dim=1)
        seen = (weights * counts).cumsum(dim=1)[:, places]
        precision = (true / (seen + np.spacing(1))).flip(1)
        if len(places):
            precision = precision.cummax(dim=1).values
        precision = torch.cat([precision.flip(1), precision.new_zeros(len(weights), 1)], dim=1)
        found = torch.searchsorted(true / objects.clamp(min=1)[:, None], recalls)
        total += precision.gather(1, found).mean(dim=1)
    return total / len(hits)


def compute_by_image(matches, metric="AP"):
    """Computes the average precision of each image alone.

    Args:
        matches, metric: see :func:`compute_average_precision`.

    Returns:
        ndarray: (I,) float64, percent; NaN for an image without objects.

    Raises:
        ValueError: see :func:`compute_average_precision`.
    """
    order = np.argsort(matches.images, kind="stable")
    count = len(matches.image_ids)
    ends = np.searchsorted(matches.images[order], np.arange(count + 1))
    values = []
    for first in range(0, count, _IMAGES_AT_ONCE):
        last = min(count, first + _IMAGES_AT_ONCE)
        own = np.sort(order[ends[first] : ends[last]])
        part = dataclasses.replace(
            matches,
            image_ids=matches.image_ids[first:last],
            objects=matches.objects[:, first:last],
            categories=matches.categories[own],
            images=matches.images[own] - first,
            hits=matches.hits[:, own],
            misses=matches.misses[:, own],
        )
        values.append(compute_average_precision(part, np.eye(last - first), metric))
    return np.concatenate([np.zeros(0), *values])


def find_interval(values, level=0.95):
    """Finds the percentile interval of what was computed from resamples.

    Args:
        values (ndarray): (B,) float; NaN is left out.
        level (float): share of the resamples between the bounds, 0 to 1.

    Returns:
        (float, float): NaN where no value is left.
    """
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sample_average_precision(matches, metric="AP", resamples=1000, seed=0):
    """Computes the average precision of all images, and of resamples of them.

    Args:
        matches, metric: see :func:`compute_average_precision`.
        resamples, seed (int): see :func:`draw_images`; one seed draws the same images for all matches of
            as many images.

    Returns:
        ndarray: (1 + B,) float64, percent; the first is of all images.
    """
    count = len(matches.image_ids)
    counts = np.concatenate([np.ones((1, count), np.int64), draw_images(count, resamples, seed)])
    return compute_average_precision(matches, counts, metric)


def bootstrap_difference(test, anchor, *, metric="AP", resamples=1000, level=0.95, seed=0):
    """Computes how much higher one average precision is than another, and an interval of that. The same
    images are drawn for both, so that what makes images easy or hard for both does not widen it.

    Args:
        test, anchor (ImageMatches): of the same images.
        metric (str): see :func:`compute_average_precision`.
        resamples, seed (int): see :func:`draw_images`.
        level (float): see :func:`find_interval`.

    Returns:
        (float, float, float): difference of all images, lower and upper bound, in percent points.

    Raises:
        ValueError: of different images or objects; see also :func:`compute_average_precision`.
    """
    require_same_images(test, anchor)
    values = [sample_average_precision(each, metric, resamples, seed) for each in (test, anchor)]
    differences = values[0] - values[1]
    return float(differences[0]), *find_interval(differences[1:], level)


def require_same_images(test, anchor):
    """Raises ValueError unless two :class:`ImageMatches` are of the same images and objects."""
    if not (
        np.array_equal(test.image_ids, anchor.image_ids) and np.array_equal(test.objects, anchor.objects)
    ):
        raise ValueError("the two were not measured on the same images: measure both on one data set")
