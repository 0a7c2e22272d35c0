"""`python -m mvidx`: the command `mvidx`."""

import sys

from mvidx.cli.main import main

sys.exit(main())
