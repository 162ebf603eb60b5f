import pytest
import torch
from torch import nn

from d2_featcomp.engine import mixed_precision
from d2_featcomp.engine.mixed_precision import CPUMixedPrecisionTrainer


class Regression(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self.dtypes = []

    def forward(self, data):
        y = self.layer(data)
        self.dtypes.append(y.dtype)
        return {"loss": (y.float() - 1).square().mean()}


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_forward_in_bfloat16_where_the_cpu_has_it(monkeypatch, supported, dtype):
    monkeypatch.setattr(mixed_precision, "cpu_has_bfloat16", lambda: supported)
    torch.manual_seed(0)
    model = Regression()
    before = model.layer.weight.detach().clone()
    trainer = CPUMixedPrecisionTrainer(
        model, [torch.ones(2, 4)] * 3, torch.optim.SGD(model.parameters(), lr=0.1)
    )
    trainer.train(0, 3)
    assert model.dtypes == [dtype] * 3
    assert model.layer.weight.dtype == torch.float32
    assert not torch.equal(model.layer.weight, before)
    with torch.no_grad():
        assert (model.layer(torch.ones(1, 4)) - 1).abs() < 0.5
