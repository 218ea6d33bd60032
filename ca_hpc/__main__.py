"""``python -m ca_hpc``."""

from ca_hpc.cli import main

main()
