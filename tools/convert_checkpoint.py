#!/usr/bin/env python3
"""Rewrite a checkpoint of any known source in our format.

python tools/convert_checkpoint.py --model NAME --input FILE --output FILE [KEY=VALUE ...]
"""

import sys

from mvidx.convert import convert_main

if __name__ == "__main__":
    sys.exit(convert_main())
