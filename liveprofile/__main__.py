"""`python -m liveprofile`, and what `torchrun -m` runs."""

from liveprofile.cli import main

main()
