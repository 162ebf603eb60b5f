"""The command `featcomp`, as a script for tests that start processes."""

import sys

from d2_featcomp.cli import main

if __name__ == "__main__":
    sys.exit(main())
