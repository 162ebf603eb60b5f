from . import scenes as _  # only registration
