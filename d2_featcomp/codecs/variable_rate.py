"""The variable-rate codec: one network, every rate.

Shape shorthand in this module:
    N: images of a batch; C, H, W: channels, height and width of a latent y; n: bit depth; R: rate points
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from ..ops import quantize_uniform
from .base import FEATURE_CODEC_REGISTRY
from .entropy import HasRate, IntegerWeights, find_rate_code, interpolate
from .images import BitstreamError
from .learned import LearnedFeatureCodec, scale_gradient
from .quantized import as_array, read_defaults
from .rate_control import find_target_bytes
from .structures import CodedTensor
from .symbol_coding import STEP_UNIT, prepend_rate, scale_range
from .symbols import SymbolDecoder

__all__ = ["VariableRateFeatureCodec"]

_MOST = 6.0  # logarithm of the largest step size


@FEATURE_CODEC_REGISTRY.register()
class VariableRateFeatureCodec(HasRate, LearnedFeatureCodec):
    """A :class:`LearnedFeatureCodec` whose rate is chosen for each image, when it is coded.

    The rate, between 0 and 1, sets the step size of each channel, and the entropy model knows it. Both
    are trained at R rate points and linear in between; in training each image has a rate of its own, and
    a rate weight that goes with it. Training begins with step sizes that rise from the first channel to
    the last, the more the lower the rate, so that low rates do without the last channels; or with equal
    ones, for channels that a trained network computes in no order.

    Symbols count step sizes from the middle of the range, so that a coarsely quantized latent is mostly
    of one value; a channel that is constant is all of the middle. Training rounds, whatever
    TRAIN_QUANTIZATION is. A stream carries the rate in the first byte of each latent.

    Args:
        channels (sequence[int]): C of each latent.
        bits (int): n, 2..8, at the largest rate: symbols are -2^(n-1)..2^(n-1)-1.
        rate (float): 0..1, at which images are coded; attribute `rate` changes it.
        target_bytes (float or None): see :class:`FeatureCodec`.
        rates (int): R, at least 2.
        rate_weight (float): lambda at rate 1, task loss for one byte of an image.
        rate_weight_ratio (float): lambda at rate 0 over that at rate 1; geometric in between.
        rate_exponent (float): the rates of training images are uniform numbers in 0..1 to this power:
            below 1, high rates are more frequent.
        ordered (bool): False for equal first step sizes of all channels.
        settings: those of :class:`LearnedFeatureCodec`.

    Raises:
        ValueError: a setting is out of range. ImportError: the package constriction is not installed.
    """

    name = "variable_rate"
    typical_rates = (0.0, 0.25, 0.5, 0.75, 1.0)

    def __init__(
        self,
        *,
        channels,
        bits,
        rate=1.0,
        target_bytes=None,
        rates=4,
        rate_weight_ratio=1.0,
        rate_exponent=1.0,
        ordered=True,
        **settings,
    ):
        if not rates >= 2:
            raise ValueError(
                f"MODEL.FEATCOMP.CODEC.LEARNED.RATE_POINTS is {rates}: codec {self.name!r} takes 2 or "
                "more"
            )
        if not 1 <= rate_weight_ratio < float("inf"):
            raise ValueError(
                f"MODEL.FEATCOMP.TRAIN.RATE_WEIGHT_RATIO is {rate_weight_ratio}: it must be 1 or more"
            )
        if not 0 < rate_exponent < float("inf"):
            raise ValueError(
                f"MODEL.FEATCOMP.TRAIN.RATE_EXPONENT is {rate_exponent}: it must be above 0"
            )
        super().__init__(channels=channels, bits=bits, rates=rates, **settings)
        self.rate_weight_ratio = rate_weight_ratio
        self.rate_exponent = rate_exponent
        self.rate = rate
        self.target_bytes = target_bytes
        self.step_models = nn.ModuleList(_StepSizes(count, bits, rates, ordered) for count in channels)
        self._drawn = None

    @classmethod
    def read_rate_settings(cls, cfg, feature_split):
        """See :meth:`LearnedFeatureCodec.read_rate_settings`."""
        featcomp = cfg.MODEL.FEATCOMP
        return {
            "rate": featcomp.CODEC.RATE,
            "target_bytes": find_target_bytes(featcomp.CODEC.TARGET_KB),
            "rates": featcomp.CODEC.LEARNED.RATE_POINTS,
            "rate_weight_ratio": featcomp.TRAIN.RATE_WEIGHT_RATIO,
            "rate_exponent": featcomp.TRAIN.RATE_EXPONENT,
            "ordered": read_defaults(cfg, feature_split)["ordered"],
        }

    # ---- training ----------------------------------------------------------------------------------

    def quantize(self, ys):
        """See :meth:`FeatureCodec.quantize`. In training each image has a random rate."""
        if self.training:
            count = len(ys[0])
            # As far apart as they can be, in random order.
            uniform = (torch.randperm(count) + torch.rand(count)) / count
            self._drawn = uniform**self.rate_exponent
        return super().quantize(ys)

    def _surrogate(self, y, bits, index):
        position, step, middle = self._find_positions_and_steps(y, index)
        with torch.no_grad():
            symbol = position.round().clamp(0, 2**self.bits - 1)
            inside = (position >= -0.5) & (position <= 2**self.bits - 0.5)
            restored = middle + (symbol - self._zero) * step
            # A coarser step size makes larger errors, and moves the ends of the range, where values are
            # clipped.
            slope = torch.where(inside, symbol - position, symbol - self._zero)
        passed = torch.where(inside, y, restored)
        y_hat = passed + (restored - passed).detach() + slope * (step - step.detach())
        return y_hat, step.detach()

    def _estimate_bits(self, y, index):
        rate = self._drawn.to(y.device)
        weights = self.rate_weight * self.rate_weight_ratio ** (1 - rate)
        scale = self._bytes_of_rate_term * weights[:, None, None, None]
        if not self.rate_weight:
            y = y.detach()
        position, _, _ = self._find_positions_and_steps(y, index)
        return self.context_models[index](scale_gradient(position, scale), rate=rate)

    def _find_positions_and_steps(self, y, index):
        """(N, C, H, W) -> the same in units of step sizes, where the middle of the range is 2^(n-1);
        the step sizes (N, C, 1, 1), and the middle, (N, 1 or C, 1, 1)."""
        low, high = (end.detach() for end in self._quantizer.find_batch_range(y))
        middle, half = (low + high) / 2, ((high - low) / 2).clamp(min=1e-12)
        relative = interpolate(self.step_models[index](), self._drawn.to(y.device))
        step = relative[..., None, None] * half / (self._zero - 1)
        return (y - middle) / step + self._zero, step, middle

    @torch.no_grad()
    def start_from_moments(self, moments):
        """Lets the entropy models begin with the distributions of each channel at each rate. Ranges that
        are measured on each image are not known here: with these nothing is done.

        Args:
            moments (sequence[(Tensor, Tensor)]): of each latent, means and deviations of its channels,
                (C,) float.
        """
        ends = getattr(self._quantizer, "value_range", None)
        if ends is None:
            return
        middle, half = sum(ends) / 2, (ends[1] - ends[0]) / 2
        pairs = zip(self.context_models, self.step_models, moments, strict=True)
        for model, steps, (mean, deviation) in pairs:
            step = steps() * half / (self._zero - 1)
            model.start_from_moments(
                (mean.to(step) - middle) / step + self._zero, deviation.to(step) / step
            )

    @property
    def _zero(self):
        """int: the symbol of the middle of the range."""
        return 2 ** (self.bits - 1)

    def update(self):
        """See :meth:`LearnedFeatureCodec.update`."""
        super().update()
        for model in self.step_models:
            model.update()

    # ---- stage 4 -----------------------------------------------------------------------------------

    @property
    def fitting_rates(self):
        """See :meth:`LearnedFeatureCodec.fitting_rates`."""
        return self.typical_rates

    def keep_for_fitting(self, y):
        """See :meth:`LearnedFeatureCodec.keep_for_fitting`."""
        return y.detach().float()

    def find_symbols_at(self, kept, index, rate):
        """See :meth:`LearnedFeatureCodec.find_symbols_at`."""
        return self._quantize_at(kept, index, find_rate_code(rate))[0]

    # ---- coding ------------------------------------------------------------------------------------

    def integer_step_sizes(self):
        """Returns, of each latent, the step sizes at the rate points, (R, C) int32 ndarray, in units of
        2^-12 of the smallest."""
        return [model.integer_steps.cpu().numpy() for model in self.step_models]

    def _quantize_at(self, y, index, code):
        """(C, H, W) float32 -> (symbols, low and high that are sent, low and high of the symbols)."""
        sent = self._quantizer.find_range(y)
        low, high = (end.to(y.device) for end in self._scale(*sent, index, code))
        symbols = quantize_uniform(y, self.bits, low, high)
        return symbols.masked_fill_(low == high, self._zero), sent, (low, high)

    def _quantize_latent(self, y, index):
        symbols, _, ends = self._quantize_at(y, index, self._code)
        return symbols, *ends

    def _compress_latent(self, y, index):
        symbols, sent, _ = self._quantize_at(y, index, self._code)
        return prepend_rate(self._code_symbols(symbols, *sent, index), self._code)

    def encode_symbols(self, symbols, index, rate=None):
        """See :meth:`LearnedFeatureCodec.encode_symbols`."""
        code = self._code if rate is None else find_rate_code(rate)
        return self._integer_model_at(index, code).encode(as_array(symbols, self.bits))

    def _decode_symbols(self, payload, shape, index, code):
        return torch.from_numpy(self._integer_model_at(index, code).decode(payload, shape))

    def _integer_model_at(self, index, code):
        return self.context_models[index].integer_model().at_rate(code)

    def _scale(self, low, high, index, code):
        """Finds the range of the symbols at a rate.

        Args:
            low, high (Tensor): (1 or C, 1, 1), the range of the latent.
            index (int): of the latent.
            code (int): 0..255, the rate.

        Returns:
            (Tensor, Tensor): the values of symbols 0 and 2^n - 1, each (C, 1, 1) float32 on the CPU;
            computed there, by operations that IEEE 754 fixes.
        """
        points = self.step_models[index].integer_steps.cpu().numpy()
        low, high = (end.cpu().numpy() for end in (low, high))
        return tuple(map(torch.from_numpy, scale_range(low, high, points, code, self.bits)))

    @property
    def _decoder(self):
        return _Decoder(
            name=self.name,
            bits=self.bits,
            quantizer=self._quantizer,
            decode_symbols=self._decode_symbols,
            scale=self._scale,
        )


@dataclasses.dataclass(frozen=True)
class _Decoder(SymbolDecoder):
    """Reads the rate from the first byte of each latent.

    Attributes:
        scale (callable): low, high, index and rate code -> low and high of the symbols.
    """

    scale: Callable

    def _ends(self, index, tensor, shape):
        if not tensor.payload:
            raise BitstreamError("payload is cut short: it lacks the rate")
        return self.scale(*super()._ends(index, tensor, shape), index, tensor.payload[0])

    def _read_symbols(self, index, tensor, shape):
        code, payload = tensor.payload[0], tensor.payload[1:]
        if tensor.fixed_length:
            return super()._read_symbols(index, CodedTensor({"y": payload}, None, True), shape)
        return self.decode_symbols(payload, shape, index, code)


class _StepSizes(IntegerWeights):
    """Step sizes of a latent at R rate points, in units of the smallest, by which symbols of n bits
    reach the whole range."""

    described = "the step sizes"

    def __init__(self, channels, bits, rates, ordered):
        super().__init__()
        first = _first_step_sizes(channels, bits, rates, ordered)
        self.excess = nn.Parameter((first - 1).log())
        self.register_buffer("integer_steps", torch.zeros(rates, channels, dtype=torch.int32))
        self.register_source()
        self.update()

    def forward(self):
        """(R, C) float, 1 or more. The gradient of the largest goes on: they may become smaller."""
        beyond = (self.excess - _MOST).clamp(min=0).detach()
        return 1 + (self.excess - beyond).exp()

    def _make_integers(self):
        self.integer_steps.copy_(torch.round(self() * 2**STEP_UNIT).int())


def _first_step_sizes(channels, bits, rates, ordered):
    """(R, C): geometric along rates and channels. At rate 1 all channels have fine steps. At rate 0 the
    first has few symbols and the last one alone, so that the network learns what to do without; without
    an order, all have few."""
    levels = 2 ** (bits - 1) - 1.0
    if ordered:
        ends = torch.tensor([[max(2.0, 0.7 * levels), 8 * levels], [1.5, 2.5]]).log()
    else:
        ends = torch.tensor([[max(3.0, 0.5 * levels)] * 2, [2.0] * 2]).log()
    rate = torch.linspace(0, 1, rates)[:, None, None]
    channel = torch.linspace(0, 1, channels)[:, None]
    at_rate = ends[0] + rate * (ends[1] - ends[0])  # (R, 1, 2): of the first and of the last channel
    return torch.lerp(at_rate[..., :1], at_rate[..., 1:], channel)[..., 0].exp()
