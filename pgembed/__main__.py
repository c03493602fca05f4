"""`python -m pgembed` is the `pgembed` command."""

from pgembed.cli import main

if __name__ == "__main__":
    main()
