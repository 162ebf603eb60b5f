"""`python -m d2_featcomp`: the command `featcomp`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
