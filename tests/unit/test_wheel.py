"""The wheel works in an empty environment, outside the checkout."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def program(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command in an environment of its own that reads the dependencies of this one.

    Installing 6 GB of dependencies once more would test pip, not the wheel.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = folder / "lib" / "python3.11" / "site-packages"
    options = ["--quiet", "--no-deps", "--ignore-installed", "--prefix", str(folder)]
    command = [sys.executable, "-m", "pip", "install", *options, str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    (packages / "dependencies.pth").write_text(f"{_dependencies(folder)}\n", encoding="utf-8")
    script = folder / "bin" / "liveprofile"
    _, _, body = script.read_text(encoding="utf-8").partition("\n")
    script.write_text(f"#!{folder / 'bin' / 'python'}\n{body}", encoding="utf-8")
    return script


def _dependencies(folder: Path) -> Path:
    """Links to all installed packages but for the checkout's own."""
    links = folder / "dependencies"
    links.mkdir()
    for package in Path(pytest.__file__).parents[1].iterdir():
        if "liveprofile" not in package.name and package.suffix != ".pth":
            (links / package.name).symlink_to(package)
    return links


def run(program: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "FLINK" not in name}
    return subprocess.run(
        [str(program), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_wheel_installs_no_general_names(wheel: Path) -> None:
    names = {name.partition("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {
        "liveprofile",
        "liveprofile_app",
        "liveprofile_client",
    }


def test_installed_command_checks_the_shipped_rules(program: Path, tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_bytes((ROOT / "rules.toml").read_bytes())
    done = run(program, tmp_path, "risk", "rules", "check", "rules.toml")
    assert done.returncode == 0, done.stderr


def test_installed_show_names_the_service_that_does_not_answer(
    program: Path, tmp_path: Path
) -> None:
    (tmp_path / "settings.toml").write_text("[cassandra]\nport = 1\n", encoding="utf-8")
    done = run(program, tmp_path, "profile", "show", "42", "--config", "settings.toml")
    assert done.returncode == 3
    assert done.stderr.startswith("liveprofile: Cassandra at 127.0.0.1:1")


def test_installed_backfill_finds_its_job(program: Path, tmp_path: Path) -> None:
    """As `explain`, it runs the module jobs.backfill_job in a process of its own."""
    events = [
        f'{{"event_id":"{number}","user_id":"u","event_type":"view","event_time":{number}}}\n'
        for number in (1_577_836_800_000, 1_577_836_900_000)
    ]
    (tmp_path / "events.jsonl").write_text("".join(events), encoding="utf-8")
    options = ("--rows", "rows", "--embedded", "--no-consents", "--json")
    done = run(program, tmp_path, "model", "backfill", "events.jsonl", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 1
