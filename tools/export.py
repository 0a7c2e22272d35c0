#!/usr/bin/env python3
"""Write a model for other runtimes: python tools/export.py --checkpoint FILE --output FILE.pt2|FILE.onnx."""

import sys

from mvidx.cli.export import main

if __name__ == "__main__":
    sys.exit(main())
