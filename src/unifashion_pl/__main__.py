"""``python -m unifashion_pl``."""

from unifashion_pl.cli import main

if __name__ == "__main__":
    main()
