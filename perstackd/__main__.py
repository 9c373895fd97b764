"""`python -m perstackd` and the `perstackd` command."""

from perstackd.cli import main

if __name__ == "__main__":
    main()
