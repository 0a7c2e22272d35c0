#!/usr/bin/env python3
"""Parameters and multiply-adds of models.

python tools/complexity.py --all | --model NAME ... [--img-size N] [--frames N] [--json FILE] [--markdown]
"""

import sys

from mvidx.complexity import main

if __name__ == "__main__":
    sys.exit(main())
