#!/usr/bin/env python3
"""Write or push a model for the Hugging Face Hub: python tools/share.py --checkpoint FILE --folder FOLDER."""

import sys

from mvidx.cli.share import main

if __name__ == "__main__":
    sys.exit(main())
