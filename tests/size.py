"""Counts what the project weighs, against its budgets: `python -m tests.size`.

Of the files that git tracks. Prints one JSON line last; exits with 1 if a budget is exceeded.
"""

import json
import subprocess
import sys
from pathlib import PurePath

from tests.support.paths import ROOT

BUDGETS = {"product_lines": 56_000, "lab_lines": 15_000, "test_lines": 38_000, "doc_words": 40_000}
SMALL_LINES = 30


def tracked() -> dict[PurePath, str]:
    """The text of each tracked Python and Markdown file by its path."""
    command = ["git", "ls-files", "*.py", "*.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    paths = (PurePath(line) for line in done.stdout.splitlines())
    return {path: (ROOT / path).read_text("utf-8") for path in paths if (ROOT / path).is_file()}


def size() -> dict[str, int]:
    sizes = dict.fromkeys([*BUDGETS, "product_files", "test_files", "files_under_30_lines"], 0)
    for path, text in tracked().items():
        if path.suffix == ".md":
            if path.parts[0] != "lab":
                sizes["doc_words"] += len(text.split())
            continue
        lines = text.count("\n")
        room = {"lab": "lab", "tests": "test"}.get(path.parts[0], "product")
        sizes[f"{room}_lines"] += lines
        if room == "lab":
            continue
        sizes[f"{room}_files"] += 1
        is_package = path.name == "__init__.py"
        sizes["files_under_30_lines"] += lines < SMALL_LINES and not is_package and room != "test"
    return sizes


def main() -> int:
    sizes = size()
    for name, count in sizes.items():
        budget = f"  of {BUDGETS[name]:,}" if name in BUDGETS else ""
        print(f"{name:22}{count:>8,}{budget}")
    print(json.dumps(sizes))
    return int(any(sizes[name] > budget for name, budget in BUDGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
