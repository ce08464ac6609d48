"""Run the command: `python -m batchwright`."""

import sys

from batchwright.cli import main

if __name__ == "__main__":
    sys.exit(main())
