"""The entropy model as a network that is trained, and its weights as integers.

Shape shorthand in this module:
    N: maps; C, H, W: channels, height and width of a map; Z: channels of its hyper-latent; G: groups, of
    c channels each; F: hidden channels of a group; K: side of a kernel; O: outputs of a symbol, or of a
    layer of I inputs
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from .estimated_bits import estimate_bits
from .frequencies import COMPONENTS, SOFTMAX_BITS, outputs_per_symbol
from .hyper_latent import HYPER_BITS, HyperLatent
from .integer_layers import ACTIVATION_MAX, ACTIVATION_UNIT, KERNEL
from .integer_model import PHASES, IntegerModel
from .integer_weights import (
    IntegerWeights,
    activate,
    as_integers,
    bias_at_rate,
    largest_shift,
    make_layer,
    read_integers,
    weight_rows,
)
from .tables import LOGIT_UNIT, POSITION_UNIT, SCALE_OFFSET, SCALE_UNIT

__all__ = ["ContextModel"]

# First widths of a mixture's components, in deviations; and the least logit.
_WIDTHS = (0.3, 1.0, 2.0)
_FARTHEST = 12.0


class ContextModel(IntegerWeights):
    """Probabilities of the symbols of a map from those that were coded before, see
    :class:`IntegerModel`, whose float counterpart this is.

    Checkpoints hold the weights twice: as they are trained, and as integers (names begin with
    "integer_"), which coding uses. :meth:`update` makes these from those.

    Args:
        channels (int): C.
        bits (int): n, of a symbol.
        group (int): c; 0 chooses: 1 up to 15 channels, else C // 8, so that there are 8 to 12 groups.
        hidden (int): F; 0 chooses by c.
        rates (int): R. With more than one, biases depend on the rate, between 0 and 1, at which a map
            was quantized: there are R of each, at equal distances, and linear in between.
        hyper (int): Z; 0 is no hyper-latent.
        context (bool): False lets symbols depend on the hyper-latent alone; all channels are one group.

    Raises:
        ValueError: neither context nor a hyper-latent.
    """

    described = "the entropy model's weights"

    def __init__(self, channels, bits, group=0, hidden=0, rates=1, hyper=0, context=True):
        super().__init__()
        if not context and not hyper:
            raise ValueError(
                "MODEL.FEATCOMP.CODEC.LEARNED.CONTEXT is False: a hyper-latent must take its place, of "
                "MODEL.FEATCOMP.CODEC.LEARNED.HYPER channels"
            )
        self.channels, self.bits, self.rates = channels, bits, rates
        self.hyper, self.context = hyper, context
        self.group = min(group or max(1, channels // 8), channels) if context else channels
        self.groups = -(-channels // self.group)
        self.hidden = hidden or 16 + 4 * min(self.group, 12)
        self.outputs = outputs_per_symbol(bits)
        # Groups of several channels see much at once, and would be slow.
        self._middle_kernel = (KERNEL, KERNEL) if self.group == 1 else (3, 3)
        every, padded = self.groups * self.hidden, self.groups * self.group
        sizes = {
            "before": (every, hyper + (padded if context else 0), KERNEL, KERNEL),
            "middle": (every, self.hidden, *self._middle_kernel),
            "own": (len(PHASES) * every, self.group if context else 0, KERNEL, KERNEL),
            "hidden": (len(PHASES), every, self.hidden),
            "head": (len(PHASES), padded * self.outputs, self.hidden),
        }
        biases = {
            "before": (every,),
            "own": (len(PHASES), every),
            "hidden": (len(PHASES), every),
            "head": (len(PHASES), padded * self.outputs),
        }
        shifts = {**biases, "own": (every,)}
        if rates > 1:
            biases = {name: (rates, *shape) for name, shape in biases.items()}
        for name, shape in sizes.items():
            if math.prod(shape):
                self.register_parameter(f"{name}_weight", nn.Parameter(torch.zeros(shape)))
            else:  # without context
                self.register_buffer(f"{name}_weight", torch.zeros(shape), persistent=False)
            self.register_buffer(f"integer_{name}_weight", torch.zeros(shape, dtype=torch.int32))
        for name, shape in biases.items():
            self.register_parameter(f"{name}_bias", nn.Parameter(torch.zeros(shape)))
            self.register_buffer(f"integer_{name}_bias", torch.zeros(shape, dtype=torch.int32))
        for name, shape in shifts.items():
            self.register_buffer(f"integer_{name}_shift", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("_own_mask", _mask_of_phases(), persistent=False)
        self.register_source()
        self.hyper_latent = None
        if hyper:
            small = ContextModel(hyper, HYPER_BITS, rates=rates)
            self.hyper_latent = HyperLatent(
                small, channels=channels, bits=bits, hidden=self.hidden, rates=rates
            )
        self._integer_model = None
        self.reset_parameters()
        self.register_load_state_dict_post_hook(_forget_integer_model)

    def _mask_of_groups(self):
        """(G * F, Z + G * c, 1, 1): a group sees the hyper-latent, and those before it."""
        group = torch.arange(self.groups)
        rows, columns = group.repeat_interleave(self.hidden), group.repeat_interleave(self.group)
        columns = torch.cat([-torch.ones(self.hyper), columns if self.context else columns[:0]])
        return (columns[None] < rows[:, None]).float()[..., None, None]

    def reset_parameters(self):
        """Random hidden weights; outputs that say that all symbols are alike (a mixture: nearly)."""
        for name in ("before", "middle", "own", "hidden"):
            weight = getattr(self, f"{name}_weight")
            inputs = self.hidden if name == "hidden" else weight[0].numel()
            if inputs:
                nn.init.normal_(weight, std=1 / math.sqrt(inputs))
        for name in ("before", "own", "hidden"):
            biases = getattr(self, f"{name}_bias").data.view(self.rates, -1)
            nn.init.normal_(biases[0], std=0.3)
            biases[1:] = biases[0]  # alike at all rates
        nn.init.zeros_(self.head_weight)
        nn.init.zeros_(self.head_bias)
        if self.bits > SOFTMAX_BITS:
            with torch.no_grad():
                bias = self.head_bias.view(self.rates, len(PHASES), -1, 3, COMPONENTS)
                bias[..., 1, :] = torch.linspace(-1, 1, COMPONENTS)
                bias[..., 2, :] = math.log(2**self.bits / 8)
        self.update()

    @torch.no_grad()
    def start_from_moments(self, means, deviations):
        """Lets training begin with outputs that say how each channel's symbols are distributed, whatever
        is known of others: else the first hundreds of iterations learn nothing but that.

        Args:
            means, deviations (Tensor): (R, C) float, of the symbols at the rate points.
        """
        means, deviations = means[:, None], deviations[:, None].clamp(min=0.05)
        bias = self.head_bias.view(self.rates, len(PHASES), -1, self.outputs)[:, :, : self.channels]
        if self.bits <= SOFTMAX_BITS:
            symbols = torch.arange(2**self.bits, device=bias.device)
            distance = (symbols - means[..., None]).abs() / deviations[..., None]
            bias.copy_((-math.sqrt(2) * distance).clamp(min=-_FARTHEST).expand_as(bias))  # Laplacian
        else:
            logits, centres, scales = bias.unflatten(-1, (3, COMPONENTS)).unbind(-2)
            logits.zero_()
            middle = (2**self.bits - 1) / 2
            centres.copy_(((means - middle) / 2 ** (self.bits - 2))[..., None].expand_as(centres))
            # Logistic distributions that are narrower, as wide and wider: peaks with long tails.
            widths = torch.tensor(_WIDTHS, device=bias.device) * math.sqrt(3) / math.pi
            scales.copy_((deviations[..., None] * widths).log().expand_as(scales))
        self.update()

    # ---- training ----------------------------------------------------------------------------------

    def hidden_matrices(self):
        """Yields the weights of hidden layers, each (Parameter, (O, I)): it holds matrices of O outputs
        and I inputs, one after the other."""
        for name in ("before", "middle", "own", "hidden"):
            weight = getattr(self, f"{name}_weight")
            if isinstance(weight, nn.Parameter):
                inputs = self.hidden if name == "hidden" else weight[0].numel()
                yield weight, (self.hidden, inputs)

    def forward(self, positions, mask=None, rate=None):
        """Estimates the bits of maps.

        Between two symbols the bits are those of both, in proportion to the nearness: the mean over
        uniform noise of one step before rounding. So gradients reach the latents; through what is known
        of other symbols they pass straight, as if nothing had been rounded.

        Args:
            positions (Tensor): (N, C, H, W) float, latents in units of step sizes, 0..2^n - 1.
            mask (Tensor or None): (N, 1, H, W) bool, where a map ends before this tensor does; nothing
                is known outside.
            rate (Tensor or None): (N,), 0..1, of each map; needed with several rate points.

        Returns:
            Tensor: scalar, bits of all maps together.
        """
        with torch.autocast(positions.device.type, enabled=False):
            return self._estimate(positions.float(), mask, rate)

    def _biases(self, rate):
        """dict: name of a layer -> bias at the rate of each map, (N or 1, ..., channels, 1, 1)."""
        return {
            name: bias_at_rate(getattr(self, f"{name}_bias"), self.rates, rate)
            for name in ("before", "own", "hidden", "head")
        }

    def _estimate(self, positions, mask, rate):
        highest = 2**self.bits - 1
        rounded = positions.detach().round().clamp(0, highest)
        inside = positions.clamp(0, highest)
        known = (2 * (inside + (rounded - inside).detach()) - highest) / 2 ** (self.bits - 1)
        if mask is not None:
            known = known * mask
        before, bits = [], positions.new_zeros(())
        if self.hyper_latent is not None:
            hyper, bits = self.hyper_latent(known, mask, rate)
            before.append(hyper)
        spare = self.groups * self.group - self.channels
        known = F.pad(known, (0, 0, 0, 0, 0, spare))
        if self.context:
            before.append(known)
        biases = self._biases(rate)
        context = self._context(torch.cat(before, dim=1), mask, biases["before"])
        known = F.pad(known, (KERNEL // 2,) * 4)
        for phase, (y, x) in enumerate(PHASES):
            part = inside[:, :, y::2, x::2]
            if not part.numel():
                continue
            of_phase = {name: bias[:, phase] for name, bias in biases.items() if name != "before"}
            outputs = self._outputs(known[:, :, y:, x:], context[:, :, y::2, x::2], phase, of_phase)
            lengths = estimate_bits(outputs[:, : self.channels], part, self.bits)
            if mask is not None:
                lengths = lengths * mask[:, :, y::2, x::2]
            bits = bits + lengths.sum()
        return bits

    def _context(self, before, mask, bias):
        """(N, G * F, H, W): what the hyper-latent and the groups before mean for each group.
        Convolutions of one group each are faster on a CPU than one of all groups."""
        found = []
        for index in range(self.groups):
            rows = slice(index * self.hidden, (index + 1) * self.hidden)
            seen = self.hyper + (index * self.group if self.context else 0)
            total = bias[:, rows].expand(len(before), -1, *before.shape[2:])
            if seen:
                total = total + F.conv2d(
                    before[:, :seen], self.before_weight[rows, :seen], padding=KERNEL // 2
                )
            total = activate(total) if mask is None else activate(total) * mask
            found.append(F.conv2d(total, self.middle_weight[rows], padding="same"))
        return torch.cat(found, dim=1)

    def _outputs(self, known, context, phase, biases):
        """(N, G * c, O, h, w) for one phase."""
        groups, size = self.groups, context.shape[2:]
        total = context + biases["own"]
        if phase and self.context:
            weight = self._own_weights()[phase] * self._own_mask[phase]
            own = F.conv2d(known, weight, stride=2, groups=groups)
            total = total + own[:, :, : size[0], : size[1]]
        for name in ("hidden", "head"):
            weight = getattr(self, f"{name}_weight")[phase, ..., None, None]
            total = F.conv2d(activate(total), weight, groups=groups) + biases[name]
        return total.unflatten(1, (-1, self.outputs))

    def _own_weights(self):
        """One weight (G * F, c, K, K) for each phase; the parameter has no more than four dimensions."""
        return self.own_weight.chunk(len(PHASES))

    # ---- integers ----------------------------------------------------------------------------------

    def update(self):
        """See :meth:`IntegerWeights.update`."""
        if self.hyper_latent is not None:
            self.hyper_latent.update()
        super().update()

    def _make_integers(self):
        # On the CPU, so that all devices round alike.
        given = {name: weight.detach().cpu() for name, weight in self.named_parameters(recurse=False)}
        given.setdefault("own_weight", self.own_weight.cpu())  # no parameter without context
        if self.rates == 1:
            given |= {name: bias[None] for name, bias in given.items() if name.endswith("_bias")}
        symbols = (self.bits - 1, 2**self.bits - 1)
        activations = (ACTIVATION_UNIT, ACTIVATION_MAX)
        masked = given["before_weight"] * self._mask_of_groups()
        # The hyper-latent and the symbols differ in their units.
        terms = [
            (weight_rows(masked[:, : self.hyper]), HYPER_BITS - 1, 2**HYPER_BITS - 1),
            (weight_rows(masked[:, self.hyper :]), *symbols),
        ]
        weights, bias, shift = make_layer(terms, given["before_bias"])
        self.set_integers("before", weight=torch.cat(weights, dim=1), bias=bias, shift=shift)
        # The middle layer is computed once for all phases, so one shift holds for all.
        middle = (weight_rows(given["middle_weight"]), *activations)
        phases = []
        for weight, mask, bias in zip(
            given["own_weight"].chunk(len(PHASES)),
            self._own_mask.cpu(),
            given["own_bias"].unbind(1),
            strict=True,
        ):
            phases.append(([middle, (weight_rows(weight * mask), *symbols)], bias))
        shift = torch.stack([largest_shift(*phase) for phase in phases]).amin(0)
        made = [as_integers(*phase, shift) for phase in phases]
        self.set_integers("middle", weight=made[0][0][0])
        self.set_integers(
            "own",
            weight=torch.stack([weights[1] for weights, _, _ in made]),
            bias=torch.stack([bias for _, bias, _ in made], 1),
            shift=made[0][2],
        )
        for name, (offset, unit) in {
            "hidden": (0.0, ACTIVATION_UNIT),
            "head": self._outputs_meaning(),
        }.items():
            weights, biases = given[f"{name}_weight"], given[f"{name}_bias"] + offset
            made = [
                make_layer([(weight_rows(weight), *activations)], bias, unit)
                for weight, bias in zip(weights, biases.unbind(1), strict=True)
            ]
            self.set_integers(
                name,
                weight=torch.stack([weights[0] for weights, _, _ in made]),
                bias=torch.stack([bias for _, bias, _ in made], 1),
                shift=torch.stack([shift for _, _, shift in made]),
            )
        self._integer_model = None

    def _outputs_meaning(self):
        """(offset, unit) of the head's outputs, each (G * c * O,): what is added to an output, and the
        exponent of 2 that it is then counted in."""
        if self.bits <= SOFTMAX_BITS:
            return 0.0, LOGIT_UNIT
        highest, steps = 2**self.bits - 1, 2 ** (self.bits - 2)
        offset = torch.tensor([0.0, highest / 2 / steps, SCALE_OFFSET / 2**SCALE_UNIT])
        unit = torch.tensor([LOGIT_UNIT, self.bits - 2 + POSITION_UNIT, SCALE_UNIT])
        symbols = self.groups * self.group
        return tuple(part.repeat_interleave(COMPONENTS).repeat(symbols) for part in (offset, unit))

    def integer_model(self, dtype="float32"):
        """Returns the :class:`IntegerModel` of the integer weights.

        Args:
            dtype (str): "float32" or "float64"; the results are the same.
        """
        if dtype != "float32":
            return self._read_integer_model(dtype)
        if self._integer_model is None:
            self._integer_model = self._read_integer_model(dtype)
        return self._integer_model

    def _read_integer_model(self, dtype):
        parts = read_integers(self, dtype)
        if self.hyper_latent is not None:
            parts["hyper_analysis"] = self.hyper_latent.integer_analysis(dtype)
            parts["hyper_model"] = self.hyper_latent.model.integer_model(dtype)
        return IntegerModel(bits=self.bits, channels=self.channels, **parts)


def _forget_integer_model(module, incompatible_keys):
    """Hook after weights were loaded."""
    module._integer_model = None


def _mask_of_phases():
    """(4, 1, K, K): 1 where an earlier phase lies."""
    reach = torch.arange(KERNEL) - KERNEL // 2
    order = torch.empty(2, 2, dtype=torch.long)
    for index, phase in enumerate(PHASES):
        order[phase] = index
    masks = []
    for index, (y, x) in enumerate(PHASES):
        masks.append(order[(reach[:, None] + y) % 2, (reach[None] + x) % 2] < index)
    return torch.stack(masks).float()[:, None]
