"""Splitting the network of a LazyConfig file: Mask R-CNN on RegNetX-4GF with MSFC on its pyramid.

`featcomp` is MODEL.FEATCOMP as a dictionary; everything else is Detectron2's own file. Each training
stage has its own length and learning rate: `train.max_iter` and `lr_multiplier` are not used.

    featcomp train --config examples/lazy_config.py --num-gpus 8 train.output_dir=output/regnet
    featcomp eval --config examples/lazy_config.py train.output_dir=output/regnet \\
        MODEL.WEIGHTS output/regnet/model_final.pth MODEL.FEATCOMP.CODEC.BITS 4

Both kinds of overrides work: NAME=VALUE for the LazyConfig, and KEY VALUE for MODEL.FEATCOMP.
"""

from detectron2 import model_zoo

base = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py")
model, dataloader, optimizer, train = base.model, base.dataloader, base.optimizer, base.train

featcomp = {
    "SPLIT": "MSFC",
    "SSFC": {"CHANNELS": 64},
    "CODEC": {"NAME": "jpegxl", "BITS": 4},
    "TRAIN": {
        "STEPS": (1, 2, 3),
        "STEP1": {"MAX_ITER": 90000, "BASE_LR": 0.02, "LR_STEPS": (60000, 80000)},
        "STEP2": {"MAX_ITER": 30000, "BASE_LR": 0.02, "LR_STEPS": (20000, 27000)},
        "STEP3": {"MAX_ITER": 60000, "BASE_LR": 0.01, "LR_STEPS": (40000, 54000)},
    },
}
