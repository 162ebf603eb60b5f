#!/usr/bin/env python
"""The same as `featcomp export`."""

from d2_featcomp.cli import run_tool

if __name__ == "__main__":
    run_tool(__file__)
