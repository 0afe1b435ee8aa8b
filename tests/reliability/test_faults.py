"""Kills and full disks: what is run again ends as if nothing had happened."""

import random
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from speakerverif._util.files import replacing, write_atomically
from speakerverif.cli import main
from speakerverif.errors import InputError
from tools import faults


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, faults.Command]:
    return faults.commands(tmp_path_factory.mktemp("faults"))


@pytest.fixture
def small_disk() -> Iterator[None]:
    """Files end at 64 kB: writing on is an error, as on a full disk."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", ["embed", "enroll", "calibrate"])
def test_a_killed_command_ends_as_if_undisturbed(
    commands: dict[str, faults.Command], tmp_path: Path, name: str
) -> None:
    hits, wrong = faults.torment(commands[name], tmp_path, 1, random.Random(0))
    assert hits == 1 and not wrong


def test_a_difference_at_the_end_is_noticed(commands: dict[str, faults.Command], tmp_path: Path) -> None:
    calibrate = commands["calibrate"]
    states = iter("abcdefgh")
    forgetful = faults.Command(calibrate.arguments, lambda out: {"state": next(states)})
    _, wrong = faults.torment(forgetful, tmp_path, 1, random.Random(0))
    assert wrong and "differing: state" in wrong[0]


def test_a_full_disk_leaves_the_former_file(tmp_path: Path, small_disk: None) -> None:
    write_atomically(tmp_path / "f", "former")
    with pytest.raises(InputError, match="f: can't write: File too large"):
        write_atomically(tmp_path / "f", bytes(1 << 17))
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_text() == "former"


@pytest.mark.parametrize("name", ["embed", "export"])
def test_a_command_on_a_full_disk_names_the_file_and_leaves_nothing(
    commands: dict[str, faults.Command], tmp_path: Path, small_disk: None, name: str
) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (256, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
    assert main(list(commands[name].arguments(tmp_path))) == 2
    left = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert not left & {".npz", ".pt"}


def test_what_is_being_written_is_never_read_as_whole(tmp_path: Path) -> None:
    write_atomically(tmp_path / "f", "former")
    with replacing(tmp_path / "f") as file:
        file.write(b"half")
        file.flush()
        assert (tmp_path / "f").read_text() == "former"
    assert (tmp_path / "f").read_text() == "half"
