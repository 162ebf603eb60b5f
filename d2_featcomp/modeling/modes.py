"""Training and evaluation mode of single modules."""

import contextlib

__all__ = ["evaluating"]


@contextlib.contextmanager
def evaluating(modules):
    """Context in which modules are in evaluation mode, each for itself; afterwards each is as it was.

    Args:
        modules (iterable[nn.Module]): norms, e.g., or all modules of a network.
    """
    training = [module for module in modules if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
