#!/usr/bin/env python3
"""What is unreadable, short, odd, missing or double in a dataset: python tools/check_dataset.py --cfg FILE ..."""

import sys

from mvidx.cli.check_dataset import main

if __name__ == "__main__":
    sys.exit(main())
