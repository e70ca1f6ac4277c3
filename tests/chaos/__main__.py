"""Long runs of random load and faults through a stack of their own, before a release.

    python -m tests.chaos                          # all programs at full size: about two hours
    python -m tests.chaos fuzz flood --scale 0.1
    python -m tests.chaos kills --seed 4711        # repeats a run

Prints the seed first, then a line of JSON for each program. Exit code 1: something differs from the
reference, is lost, or is left over.
"""

import json
import random
from typing import Annotated

import typer

from tests.chaos import erasures, programs
from tests.support.summary import say

# Name -> run(seed, scale), which returns JSON with `ok`. Raises AssertionError if it cannot end.
PROGRAMS = {
    "faults": programs.faults,
    "kills": programs.kills,
    "flood": programs.flood,
    "fuzz": programs.fuzz,
    "erasures": erasures.run,
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(PROGRAMS)}; default: all.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: a random one, printed.")] = None,
    scale: Annotated[float, typer.Option(help="Share of the full size.", min=0.001)] = 1.0,
) -> None:
    """Runs random load and faults through a stack. Prints a line of JSON for each program."""
    if unknown := set(names or ()) - PROGRAMS.keys():
        raise typer.BadParameter(f"unknown program {', '.join(sorted(unknown))}")
    seed = random.randrange(10**6) if seed is None else seed
    say(f"--seed {seed}")
    failed = []
    for name in names or PROGRAMS:
        try:
            result = PROGRAMS[name](seed, scale)
        except AssertionError as error:
            result = {"ok": False, "error": str(error)}
        typer.echo(json.dumps({"program": name, "seed": seed, "scale": scale} | result))
        failed += [] if result["ok"] else [name]
    raise typer.Exit(1 if failed else 0)


if __name__ == "__main__":
    typer.run(main)
