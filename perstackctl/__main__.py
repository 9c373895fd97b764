"""`python -m perstackctl`."""

import sys

from perstackctl.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
