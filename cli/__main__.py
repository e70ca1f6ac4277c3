"""Entry point of `python -m cli` and `torchrun -m cli`."""

from cli.main import main

main()
