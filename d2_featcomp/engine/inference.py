"""How a network that was trained is computed."""

from ..modeling import SplitNetwork

__all__ = ["prepare_for_inference"]


def prepare_for_inference(model, cfg):
    """Puts a network whose weights are loaded into evaluation mode, as MODEL.FEATCOMP.INFERENCE says.

    Args:
        model (nn.Module): changed in place; one that is not cut is always computed as it is.
        cfg (CfgNode): that it was built from.
    """
    model.eval()
    if isinstance(model, SplitNetwork):
        model.accelerate(cfg.MODEL.FEATCOMP.INFERENCE)
