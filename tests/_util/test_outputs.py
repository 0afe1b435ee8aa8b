"""Outputs never destroy inputs, and what can't be written is found before any work."""

import os
import re
import resource
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from speakerverif._util.files import replacing, write_json
from speakerverif._util.outputs import Output, check_outputs, refuse_to_replace
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.errors import InputError


@pytest.fixture
def scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("t.txt").write_text("1 a b\n0 a c\n0 b c\n")
    Path("s.txt").write_text("a b 0.9\na c 0.1\nb c 0.2\n")
    Path("c.wav").write_bytes(b"RIFF")
    Path("folder").mkdir()
    Path("link.txt").symlink_to("t.txt")
    Path("same.txt").hardlink_to("s.txt")
    os.mkfifo("fifo")
    return tmp_path


@pytest.mark.parametrize(
    ("option", "path", "why"),
    [
        ("--json", "t.txt", "would write over an input"),
        ("--json", "folder/../t.txt", "would write over an input"),
        ("--json", "link.txt", "would write over an input"),
        ("--out-scores", "same.txt", "would write over an input"),
        ("--json", "c.wav", "is a recording"),
        ("--json", "fifo", "is a FIFO"),
        ("--json", "/dev/null", "is a device"),
        ("--out-scores", "/dev/stdout", "is a device"),
        ("--json", "folder", "is a folder, expected a file"),
        ("--json", ".", "is a folder, expected a file"),
        ("--report", "t.txt", "is a file, expected a folder"),
        ("--json", "t.txt/x.json", "below which nothing can be written"),
        ("--report", "c.wav/x/y", "below which nothing can be written"),
        ("--json", "n" * 300, "can't be written"),
        ("--json", "/proc/x/r.json", "can't write in /proc"),
    ],
)
def test_an_output_that_would_destroy_or_fail_is_found_first(
    scored: Path, capsys: pytest.CaptureFixture[str], option: str, path: str, why: str
) -> None:
    before = {p: p.read_bytes() for p in scored.iterdir() if p.is_file()}
    assert main(["score", "t.txt", "--scores", "s.txt", option, path]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"speakerverif: {option} ") and told.err.count("\n") == 1 and not told.out

    assert re.search(why, told.err), told.err
    assert {p: p.read_bytes() for p in scored.iterdir() if p.is_file()} == before


def test_two_outputs_of_one_name(scored: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["score", "t.txt", "--scores", "s.txt", "--json", "x", "--out-scores", "folder/../x"]
    assert main(line) == 2 and "is written by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("out", "why"),
    [
        ("e.csv", "ends in .npz"),
        ("config.toml", "ends in .npz"),
        ("k/wav.ark", "would write over an input, k/wav.scp"),
    ],
)
def test_a_table_that_would_destroy_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str, why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("k").mkdir()
    Path("k/wav.scp").write_text("u a.wav\n")
    assert main(["embed", "--manifest", "k", "--out", out]) == 2
    assert why in capsys.readouterr().err
    assert Path("k/wav.scp").read_text() == "u a.wav\n"


def test_the_files_of_a_model_are_inputs(tmp_path: Path) -> None:
    for name in ("config.toml", "model.safetensors", "calibration.toml"):
        (tmp_path / name).write_text(name)
    for name in ("config.toml", "model.safetensors"):
        with pytest.raises(InputError, match="would write over an input"):
            check_outputs([Output("--json", tmp_path / name)], [tmp_path])
    check_outputs(
        [Output("--out", tmp_path / "calibration.toml"), Output("--json", tmp_path / "new")], [tmp_path]
    )


def test_a_list_may_name_the_output(tmp_path: Path) -> None:
    (tmp_path / "sound").write_text("x")
    (tmp_path / "other").hardlink_to(tmp_path / "sound")
    with pytest.raises(InputError, match=r"is the recording .*sound"):
        refuse_to_replace([Output("--json", tmp_path / "other")], ["missing", str(tmp_path / "sound")])
    refuse_to_replace([Output("--json", tmp_path / "new")], [str(tmp_path / "sound")])


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        with pytest.raises(InputError, match="is a socket"):
            check_outputs([Output("--json", tmp_path / "s")], [])


def test_links_stay_links(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("old")
    (tmp_path / "link").symlink_to("old")
    write_json(tmp_path / "link", 1)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "old").read_text() == "1\n"


def test_a_long_name_is_written(tmp_path: Path) -> None:
    write_json(tmp_path / ("n" * 255), 1)
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


@pytest.mark.parametrize("name", ["e.npz", "e.ark", "e.parquet", "text"])
def test_a_full_disk_leaves_the_former_file(tmp_path: Path, name: str) -> None:
    from speakerverif.data.formats.tables import write_table

    vectors = np.random.default_rng(0).random((1, 100_000), np.float32)
    table = EmbeddingTable(["a"], vectors, np.ones(1, np.float32), np.ones(1, np.float32), ["ok"], "")
    (tmp_path / name).write_text("former")
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(InputError, match="can't write: "):
            if name == "text":
                with replacing(tmp_path / name) as file:
                    file.write(bytes(200_000))
            else:
                write_table(table, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "former"


@pytest.mark.parametrize("out", ["store.db", "../people/store.lock", "other/link.npz"])
def test_an_export_does_not_destroy_its_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    store = tmp_path / "people"
    (store / "other").mkdir(parents=True)
    for name in ("store.db", "store.lock"):
        (store / name).write_bytes(b"kept")
    (store / "other" / "link.npz").symlink_to(store / "store.db")
    monkeypatch.chdir(tmp_path)
    assert main(["store", "export", "--store", "people", "--out", str(store / out)]) == 2
    assert "would write over an input, people/store." in capsys.readouterr().err
    assert {path.read_bytes() for path in store.glob("store.*")} == {b"kept"}
