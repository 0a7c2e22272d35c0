#!/usr/bin/env python3
"""Show what a model looks at: python tools/explain.py VIDEO ... --checkpoint FILE [--model NAME | --cfg FILE]."""

import sys

from mvidx.cli.explain import main

if __name__ == "__main__":
    sys.exit(main())
