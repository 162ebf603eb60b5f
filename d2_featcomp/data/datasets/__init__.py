from . import cityscapes, scenes  # only registration
