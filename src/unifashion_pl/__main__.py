"""``python -m unifashion_pl``."""

from unifashion_pl.cli import main

main()
