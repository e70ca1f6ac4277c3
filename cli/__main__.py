"""`python -m cli`, and what `torchrun -m` runs."""

from cli.main import main

main()
