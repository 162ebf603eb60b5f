"""Abilities of the processor."""

import torch

__all__ = ["computes_bfloat16", "require_bfloat16"]


def computes_bfloat16(device):
    """Tells whether convolutions of a device (torch.device) take bfloat16: on CPUs those of oneDNN,
    which need AVX-512 or AVX-NE-CONVERT and heed the environment variable ONEDNN_MAX_CPU_ISA."""
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def require_bfloat16(device):
    """Raises ValueError unless :func:`computes_bfloat16`."""
    if not computes_bfloat16(device):
        raise ValueError(
            "bfloat16 needs a processor with AVX-512 or AVX-NE-CONVERT, which this one lacks, or which "
            "ONEDNN_MAX_CPU_ISA hides: set MODEL.FEATCOMP.INFERENCE to fused"
        )
