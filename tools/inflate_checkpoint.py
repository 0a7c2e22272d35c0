#!/usr/bin/env python3
"""Make weights of a video model from those of an image model.

python tools/inflate_checkpoint.py --model NAME --input FILE --output FILE [KEY=VALUE ...]
"""

import sys

from mvidx.convert import inflate_main

if __name__ == "__main__":
    sys.exit(inflate_main())
