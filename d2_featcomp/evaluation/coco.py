"""COCO's metrics on annotations that other programs wrote."""

import contextlib
import io
import logging
import os

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ..data.coco_annotations import FORMAT_ERRORS, explain_format_error, normalize_coco
from .average_precision import ImageMatches

__all__ = ["CheckedCOCOEvaluator", "name_matches"]

# What is predicted -> key of an annotation, in words, and the setting that switches it on.
_PARTS = {
    "segm": ("segmentation", "masks", "MODEL.MASK_ON"),
    "keypoints": ("keypoints", "keypoints", "MODEL.KEYPOINT_ON"),
}


def name_matches(task):
    """Names the file of :class:`ImageMatches` that an evaluator writes, of "bbox", "segm" or
    "keypoints"; of "*" the pattern of all."""
    return f"matches_{task}.npz"


class _LoggedPrints(io.TextIOBase):
    """Logs whole lines, under a name that terminals do not show."""

    def __init__(self):
        self._line = ""

    def write(self, text):
        *lines, self._line = (self._line + text).split("\n")
        for line in filter(str.strip, lines):
            logging.getLogger("detectron2.evaluation.pycocotools").info(line)


class CheckedCOCOEvaluator(COCOEvaluator):
    """Detectron2's evaluator; what would end the evaluation, or make its result wrong, is told or mended
    when it is built, before images are computed. Beside its predictions it writes how they were matched
    to objects, :class:`ImageMatches`.

    Attributes:
        match_again (bool): do so even where Detectron2's compiled evaluation keeps its matches to
            itself, and pycocotools has to find them a second time.

    Args:
        dataset_name (str): registered, and loaded once.
        num_classes (int or None): of the network; None: not checked.
        num_classes_key (str): the config key that says so, for messages.
        predicted (sequence[str]): of "segm" and "keypoints", what the network predicts beside boxes.
        output_dir (str or None): see the base class.

    Raises:
        ValueError: the file does not follow COCO's format; the network tells more classes apart than
            there are; or annotations lack the masks or keypoints that the network predicts.
    """

    match_again = False

    def __init__(
        self, dataset_name, *, num_classes=None, num_classes_key="", predicted=(), output_dir=None
    ):
        path = MetadataCatalog.get(dataset_name).get("json_file")
        try:
            # Detectron2 converts what has no file of its own: anew each time, as it may have changed.
            super().__init__(dataset_name, output_dir=output_dir, allow_cached_coco=False)
            self._path = path or self._metadata.json_file
            if path is None:
                # It lies below `output_dir`, which is of this evaluation alone.
                vars(self._metadata).pop("json_file")
            if self._do_evaluation:
                self._normalize()
        except FORMAT_ERRORS as error:
            if path is None or path in str(error):
                raise
            raise explain_format_error(path, error) from error
        self._predicted = tuple(predicted)
        if self._do_evaluation:
            self._require_parts(predicted)
        classes = len(self._coco_api.dataset.get("categories", ()))
        if num_classes is not None and num_classes > classes:
            raise ValueError(
                f"{num_classes_key} is {num_classes}, but data set {dataset_name!r} has {classes} "
                f"classes ({self._path!r}): evaluate a network on a data set of its own classes"
            )

    def _normalize(self):
        if normalize_coco(self._coco_api.dataset, self._path):
            logging.getLogger("d2_featcomp").warning(
                "%s: an annotation id is 0, which lowers AP: annotations are numbered anew for this "
                "evaluation",
                self._path,
            )
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()

    def _require_parts(self, predicted):
        annotations = self._coco_api.dataset["annotations"]
        for task in predicted:
            key, words, setting = _PARTS[task]
            without = sum(not annotation.get(key) for annotation in annotations)
            if without:
                raise ValueError(
                    f"{self._path!r}: {without} of {len(annotations)} annotations are without {words} "
                    f"({key!r}), which the network predicts: add them, or set {setting} to False"
                )

    def evaluate(self, img_ids=None):
        """See the base class. What pycocotools prints goes to the log."""
        with contextlib.redirect_stdout(_LoggedPrints()):
            return super().evaluate(img_ids)

    def _tasks_from_predictions(self, predictions):
        nothing_found = sorted({"bbox", *self._predicted})
        return super()._tasks_from_predictions(predictions) if predictions else nothing_found

    def _evaluate_nothing(self, iou_type):
        """COCOeval: of no predictions, by which AP is 0 where there are objects, NaN where there are
        none."""
        nothing = COCO()
        nothing.dataset = {**self._coco_api.dataset, "annotations": []}
        nothing.createIndex()
        found = COCOeval(self._coco_api, nothing, iou_type)
        found.evaluate()
        found.accumulate()
        found.summarize()
        return found

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is None:
            logging.getLogger("d2_featcomp").warning("the network found nothing: %s AP is 0", iou_type)
            coco_eval = self._evaluate_nothing(iou_type)
        if self._output_dir and (coco_eval.evalImgs or self.match_again):
            path = os.path.join(self._output_dir, name_matches(iou_type))
            ImageMatches.from_evaluation(coco_eval).save(path)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)
