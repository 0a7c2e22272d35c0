#!/usr/bin/env python3
"""One self-contained HTML page about one or several runs: python tools/report.py OUTPUT_DIR [OUTPUT_DIR ...]."""

import sys

from mvidx.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
