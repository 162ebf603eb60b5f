"""Data sets of your own in COCO's format, as `mine_train` and `mine_val`.

It reads a folder, my_data or the environment variable MY_DATA, with images in train/ and val/, and the
files train.json and val.json in COCO's format. Train Mask R-CNN from ImageNet weights, then measure
bytes and AP (leave out MODEL.MASK_ON False if the annotations have masks):

    featcomp train --import examples/own_data.py --config msfc_R50 OUTPUT_DIR output/mine \\
        DATASETS.TRAIN "('mine_train',)" DATASETS.TEST "('mine_val',)" \\
        MODEL.ROI_HEADS.NUM_CLASSES 2 MODEL.MASK_ON False SOLVER.IMS_PER_BATCH 2 \\
        MODEL.FEATCOMP.TRAIN.STEP1.BASE_LR 0.0025 MODEL.FEATCOMP.TRAIN.STEP2.BASE_LR 0.0025 \\
        MODEL.FEATCOMP.TRAIN.STEP3.BASE_LR 0.00125
    featcomp eval --import examples/own_data.py --config msfc_R50 OUTPUT_DIR output/mine \\
        DATASETS.TEST "('mine_val',)" MODEL.ROI_HEADS.NUM_CLASSES 2 MODEL.MASK_ON False \\
        MODEL.WEIGHTS output/mine/model_final.pth

The learning rates are for 2 images at once, an eighth of msfc_R50's for 16. A single folder of images
with annotations.json needs no file like this one: its name is images:FOLDER. For run-length coded masks,
set INPUT.MASK_FORMAT bitmask.
"""

import os

from detectron2.data.datasets import register_coco_instances

ROOT = os.environ.get("MY_DATA", "my_data")

for part in ("train", "val"):
    register_coco_instances(
        f"mine_{part}", {}, os.path.join(ROOT, f"{part}.json"), os.path.join(ROOT, part)
    )
