#!/usr/bin/env python3
"""Train and test a model: python tools/run_net.py --cfg FILE [KEY VALUE ...]."""

import sys

from mvidx.launch import main

if __name__ == "__main__":
    sys.exit(main())
