"""Integers that coding uses, made of trained weights once: where these are trained, and on no other
machine."""

import zlib

import torch
from torch import nn

__all__ = ["IntegerWeights"]


class IntegerWeights(nn.Module):
    """A module with buffers of integers, which a subclass makes of its parameters in
    :meth:`_make_integers`. Its constructor ends with :meth:`register_source`.

    Attributes:
        described (str): what the parameters are, for messages.
    """

    described = "the weights"

    def register_source(self):
        """Adds the buffer `integer_source`: the checksum of the weights that the integers were made of.
        It is saved with them, so that whoever loads both does not make them again."""
        self.register_buffer("integer_source", torch.tensor([-1]))
        self.register_state_dict_pre_hook(_update_before_saving)

    @torch.no_grad()
    def update(self):
        """Makes the integer weights from those that are trained.

        Raises:
            ValueError: a weight is not finite.
        """
        checksum = 0
        for weight in self.parameters():
            checksum = zlib.crc32(weight.detach().cpu().contiguous().numpy().data, checksum)
        if checksum == int(self.integer_source):
            return
        if not _all_finite(self):
            raise ValueError(f"{self.described} became infinite or NaN")
        self._make_integers()
        self.integer_source.fill_(checksum)

    def _make_integers(self):
        raise NotImplementedError


def _all_finite(module):
    return all(torch.isfinite(weight).all() for weight in module.parameters())


def _update_before_saving(module, prefix, keep_vars):
    """Hook. The weights of a training that diverged are saved as they are."""
    if module.training and _all_finite(module):
        module.update()
