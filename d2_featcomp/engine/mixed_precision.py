"""Mixed-precision training on CPUs."""

import logging
import time

import torch
from detectron2.engine import SimpleTrainer

__all__ = ["CPUMixedPrecisionTrainer", "cpu_has_bfloat16"]


def cpu_has_bfloat16():
    """Tells whether this CPU computes in bfloat16 itself (AVX512-BF16 or AMX): else it is no faster."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in all releases of torch
    return any(getattr(torch.cpu, name, bool)() for name in checks)


class CPUMixedPrecisionTrainer(SimpleTrainer):
    """Mixed precision on a CPU (`SOLVER.AMP.ENABLED`): forward in bfloat16 where the CPU has it, else
    float32.

    bfloat16 has the exponent range of float32, so that no gradient scaling is needed.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._autocast = cpu_has_bfloat16()
        if not self._autocast:
            logging.getLogger("d2_featcomp").info("No bfloat16 on this CPU: training in float32")

    def run_step(self):
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            losses = self.model(data)
        self.optimizer.zero_grad()
        sum(losses.values()).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self.optimizer.step()
