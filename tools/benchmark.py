#!/usr/bin/env python3
"""Speed and memory: python tools/benchmark.py model|loader ... (--help says more)."""

import sys

from mvidx.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
