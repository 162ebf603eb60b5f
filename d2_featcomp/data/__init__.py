"""Data sets and what reads them."""

from . import datasets as _  # only registration
