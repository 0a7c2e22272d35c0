#!/usr/bin/env python3
"""Say what videos show: python tools/predict.py VIDEO [VIDEO ...] --checkpoint FILE [--model NAME | --cfg FILE]."""

import sys

from mvidx.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
