"""How a network that was trained is computed."""

import torch

from ..modeling import SplitInference

__all__ = ["prepare_for_inference"]


def prepare_for_inference(model, cfg):
    """Puts a network whose weights are loaded into evaluation mode, as MODEL.FEATCOMP.INFERENCE says.

    Args:
        model (nn.Module): changed in place; one that is not cut is always computed as it is.
        cfg (CfgNode): that it was built from.
    """
    model.eval()
    mode = cfg.MODEL.FEATCOMP.INFERENCE
    if mode != "plain" and isinstance(model, SplitInference):
        dtype = torch.bfloat16 if mode == "bfloat16" else torch.float32
        model.fuse_for_inference(dtype, compile_edge=mode == "compiled")
