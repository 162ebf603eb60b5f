"""A task head of your own: boundaries between classes, on features that several tasks share.

A task head has a loss and an output; an evaluator with the same name measures it. Both are registered
here; the encoder, the split and the codec then serve the new task, too:

    featcomp train --import examples/own_head.py --config quick/mtl_R34 OUTPUT_DIR output/own_head \\
        MODEL.MULTI_TASK.HEADS "('SegmentationHead', 'BoundaryHead')"
    featcomp eval --import examples/own_head.py --config quick/mtl_R34 OUTPUT_DIR output/own_head \\
        MODEL.MULTI_TASK.HEADS "('SegmentationHead', 'BoundaryHead')" \\
        MODEL.WEIGHTS output/own_head/model_final.pth

The evaluation reports mIoU, the group "boundary", and the rate. A head on a feature pyramid, such as a
ROI head, needs nothing from this package: register it with Detectron2 and name it in the config.
"""

import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.modeling.postprocessing import sem_seg_postprocess
from detectron2.utils import comm

from d2_featcomp.data.images import read_sem_seg
from d2_featcomp.evaluation import EVALUATOR_REGISTRY
from d2_featcomp.modeling import TASK_HEAD_REGISTRY, TaskHead
from d2_featcomp.modeling.multi_task import UpsamplingDecoder


def find_boundaries(labels):
    """(h, w) classes -> (h, w) float, 1 where the pixel below or to the right has another class."""
    below = F.pad(labels[1:] != labels[:-1], (0, 0, 0, 1))
    right = F.pad(labels[:, 1:] != labels[:, :-1], (0, 1, 0, 0))
    return (below | right).float()


@TASK_HEAD_REGISTRY.register()
class BoundaryHead(TaskHead):
    """Output: "boundary", (height, width) float, the probability of a boundary at each pixel."""

    task = "boundary"
    loss_kind = "segmentation"  # how its loss is weighted against the others'

    def __init__(self, cfg, input_shape):
        super().__init__()
        self.decoder = UpsamplingDecoder(
            in_channels=input_shape.channels, stride=input_shape.stride, min_channels=16, out_channels=1
        )

    def forward(self, features):
        return self.decoder(features)

    def loss(self, predictions, batched_inputs):
        """Mean cross-entropy over the images' pixels; boundaries, which are rare, count 5 times."""
        losses = []
        for logits, record in zip(predictions[:, 0].float(), batched_inputs, strict=True):
            target = find_boundaries(record["sem_seg"].to(logits.device))
            inside = logits[: target.shape[0], : target.shape[1]]  # images are padded
            weight = logits.new_tensor(5.0)
            losses.append(F.binary_cross_entropy_with_logits(inside, target, pos_weight=weight))
        return torch.stack(losses).mean()

    def finish(self, prediction, image_size, output_size):
        """One image's output, at the size of the original."""
        return {"boundary": sem_seg_postprocess(prediction, image_size, *output_size)[0].sigmoid()}


class BoundaryEvaluator(DatasetEvaluator):
    """Precision, recall and F-measure, in percent, of boundaries with a probability above 0.5; a pixel
    is right if a true boundary is at most one pixel away."""

    def __init__(self, dataset_name):
        records = DatasetCatalog.get(dataset_name)
        self.maps = {record["file_name"]: record["sem_seg_file_name"] for record in records}
        self.reset()

    def reset(self):
        self.counts = torch.zeros(4, dtype=torch.float64)  # right of predicted; found of true

    def process(self, inputs, outputs):
        for record, output in zip(inputs, outputs, strict=True):
            labels = torch.from_numpy(read_sem_seg(self.maps[record["file_name"]]).astype("int64"))
            truth, found = find_boundaries(labels), (output["boundary"].cpu() > 0.5).float()
            near_truth, near_found = (
                F.max_pool2d(each[None], 3, stride=1, padding=1)[0] for each in (truth, found)
            )
            sums = (found * near_truth, found, truth * near_found, truth)
            self.counts += torch.stack([each.sum() for each in sums])

    def evaluate(self):
        counts = comm.gather(self.counts)
        if not comm.is_main_process():
            return None
        right, predicted, found, true = sum(counts).clamp(min=1e-9).tolist()
        precision, recall = right / predicted, found / true
        measure = 2 * precision * recall / max(precision + recall, 1e-9)
        return {"boundary": {"F": 100 * measure, "precision": 100 * precision, "recall": 100 * recall}}


@EVALUATOR_REGISTRY.register(name="BoundaryHead")
def build_boundary_evaluator(cfg, dataset_name, output_dir):
    return [BoundaryEvaluator(dataset_name)]
