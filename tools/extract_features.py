#!/usr/bin/env python3
"""Write features of videos: python tools/extract_features.py VIDEO [VIDEO ...] --checkpoint FILE --output FOLDER."""

import sys

from mvidx.cli.features import main

if __name__ == "__main__":
    sys.exit(main())
