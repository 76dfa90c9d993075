"""`python -m alignkit` is the command line."""

import sys

from alignkit.cli import main

sys.exit(main())
