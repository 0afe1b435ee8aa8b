"""The enrolment store among many threads and processes, in read-only folders, and what a removal leaves behind."""

import multiprocessing
import os
import sqlite3
import stat
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from speakerverif.errors import InputError
from speakerverif.inference.enrollment import Store
from speakerverif.inference.samples import Sample

DIM = 24


def vector(name: str) -> np.ndarray:
    """Return the embedding (DIM,) that a name always has."""
    return np.random.default_rng(list(name.encode())).standard_normal(DIM).astype(np.float32)


def bytes_of(folder: Path) -> bytes:
    """Return the content of all files of a folder, one after the other."""
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def live(folder: Path, who: str, until: float, results: list[tuple[set[str], set[str]]]) -> None:
    """Enrol, identify and remove until a time; append the names that must be there and those that must not."""
    store, kept, removed = Store(folder, "model"), set(), set()
    turn = 0
    while time.time() < until:
        name = f"{who} person {turn:06}"
        assert store.enroll(name, vector(name)) == 1
        assert store.search(vector(name))[0][0] == name
        if turn % 3:
            assert store.remove(name) == 1
            removed.add(name)
        else:
            kept.add(name)
        turn += 1
    results.append((kept, removed))


def live_in_threads(folder: Path, who: str, threads: int, until: float) -> list[tuple[set[str], set[str]]]:
    """Return what `live` did in each of many threads; raises what any of them raised."""
    results: list[tuple[set[str], set[str]]] = []
    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(live, folder, f"{who} {i}", until, results) for i in range(threads)]
    for job in jobs:
        job.result()
    return results


def share(folder: Path, processes: int, threads: int, seconds: float) -> None:
    """Let threads of several processes use a store at once, and check that nothing is lost or left."""
    Store(folder, "model", create=True).enroll("base", np.ones(DIM))
    context = multiprocessing.get_context("fork")
    until = time.time() + seconds
    pipes = []

    def run(writer: Connection, who: str) -> None:
        try:
            writer.send(live_in_threads(folder, who, threads, until))
        except BaseException:
            writer.send(traceback.format_exc())

    for who in range(processes):
        reader, writer = context.Pipe(duplex=False)
        pipes.append(reader)
        context.Process(target=run, args=(writer, f"process {who}"), daemon=True).start()
    answers = []
    for reader in pipes:
        assert reader.poll(seconds + 120), "a process hangs"
        answers.append(reader.recv())
    assert not [answer for answer in answers if isinstance(answer, str)], answers
    turns = [turn for answer in answers for turn in answer]
    kept = set().union(*(names for names, _ in turns))
    removed = set().union(*(names for _, names in turns))
    assert len(turns) == processes * threads and kept and removed
    store = Store(folder, "model")
    assert set(store.names()) == kept | {"base"}
    assert all(np.array_equal(store.utterances(name)[0], vector(name)) for name in sorted(kept)[:50])
    content = bytes_of(folder)
    for name in removed:
        assert name.encode() not in content
        assert vector(name).tobytes() not in content
    assert (vector(min(kept)).tobytes() in content) is not store.encrypted


def test_threads_of_two_processes_share_a_store(tmp_path: Path) -> None:
    share(tmp_path, 2, 6, 2.0)


@pytest.mark.slow
def test_a_hundred_threads_and_eight_processes_share_a_store_for_a_minute(tmp_path: Path) -> None:
    share(tmp_path, 8, 13, 60.0)


def test_one_store_object_serves_threads_and_a_forked_process(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    store.enroll("ann", vector("ann"))
    answers: list[str] = []
    threads = [
        threading.Thread(target=lambda: answers.append(store.search(vector("ann"))[0][0])) for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["ann"] * 20
    reader, writer = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(
        target=lambda: writer.send(store.enroll("ann", vector("b")))
    )
    process.start()
    assert reader.poll(30) and reader.recv() == 2
    process.join()
    assert store.enroll("ann", vector("c")) == 3


@pytest.mark.parametrize("rows", [1, 40])
def test_a_removed_speaker_leaves_the_files_while_others_have_them_open(tmp_path: Path, rows: int) -> None:
    store = Store(tmp_path, "model", create=True)
    rng = np.random.default_rng(0)
    store.enroll_all((f"other {i}", rng.standard_normal((3, DIM))) for i in range(200))
    secret = rng.standard_normal((rows, DIM)).astype(np.float32)
    samples = [
        Sample(row, path=f"/kept/voice {i}.wav", sha256=f"{i:064x}", audio=rng.bytes(5000))
        for i, row in enumerate(secret)
    ]
    store.enroll("Removed Voice", samples)
    store.enroll_all((f"later {i}", rng.standard_normal((3, DIM))) for i in range(200))
    other = sqlite3.connect(tmp_path / "store.db")
    other.execute("SELECT count(*) FROM utterances").fetchone()
    store.rename("Removed Voice", "Renamed Voice")
    assert b"Removed Voice" not in bytes_of(tmp_path)
    assert store.remove("Renamed Voice") == rows
    content = bytes_of(tmp_path)
    other.close()
    for trace in (b"Renamed Voice", b"/kept/voice", *(row.tobytes() for row in secret), samples[-1].audio):
        assert trace not in content


def old_store(folder: Path) -> dict[str, np.ndarray]:
    """Write a store as version 0 of this package wrote it, and return what it holds."""
    people = {name: np.stack([vector(name), vector(name + "2")]) for name in ("ann", "bob")}
    folder.mkdir(exist_ok=True)
    db = sqlite3.connect(folder / "store.db")
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value NOT NULL);"
        "CREATE TABLE speakers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE NOT NULL);"
        "CREATE TABLE utterances (id INTEGER PRIMARY KEY AUTOINCREMENT,"
        " speaker INTEGER NOT NULL REFERENCES speakers, embedding BLOB NOT NULL);"
        "CREATE INDEX utterances_by_speaker ON utterances (speaker);"
        "INSERT INTO meta VALUES ('changes', 0), ('removals', 0), ('indexed', 0),"
        f" ('fingerprint', 'model'), ('dim', {DIM});"
    )
    for i, (name, rows) in enumerate(people.items(), 1):
        db.execute("INSERT INTO speakers VALUES (?, ?)", (i, name))
        values = [(i, row.astype("<f4").tobytes()) for row in rows]
        db.executemany("INSERT INTO utterances (speaker, embedding) VALUES (?, ?)", values)
    db.commit()
    db.close()
    return people


def test_a_store_of_the_first_version_opens_and_forgets(tmp_path: Path) -> None:
    people = old_store(tmp_path)
    other = sqlite3.connect(tmp_path / "store.db")  # keeps its write-ahead log alive
    other.execute("SELECT count(*) FROM meta").fetchone()
    store = Store(tmp_path, "model")
    for name, rows in people.items():
        np.testing.assert_array_equal(store.utterances(name), rows)
    assert [(s.name, s.recordings, s.speech_s) for s in store.speakers()] == [
        ("ann", 2, None),
        ("bob", 2, None),
    ]
    store.enroll("ann", [Sample(vector("new"), path="new.wav", sha256="a" * 64, duration_s=2.0)])
    assert store.samples("ann")[2].path == "new.wav"
    store.remove("bob")
    content = bytes_of(tmp_path)
    assert people["bob"][0].tobytes() not in content and people["ann"][0].tobytes() in content
    other.close()


@pytest.mark.parametrize("version", [0, 1])
def test_a_store_is_read_from_a_folder_that_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    folder = tmp_path / "store"
    if version:
        Store(folder, "model", create=True).enroll_all([("ann", vector("ann")), ("bob", vector("bob"))])
    else:
        old_store(folder)
    (folder / "store.db").chmod(0o444)
    folder.chmod(0o555)
    if os.geteuid() == 0:  # whom permissions don't stop: SQLite is asked for nothing but reading all the same
        monkeypatch.setattr("speakerverif.inference._store_file.os.access", lambda path, mode: False)
    before = (folder / "store.db").read_bytes()
    try:
        store = Store(folder, "model")
        assert store.search(vector("bob"))[0][0] == "bob"
        assert [speaker.name for speaker in store.speakers()] == store.names() == ["ann", "bob"]
        assert store.samples("ann")[0].sha256 == ""
        with pytest.raises(InputError, match="can't be written to"):
            store.remove("ann")
        assert (folder / "store.db").read_bytes() == before
    finally:
        folder.chmod(0o755)


def test_nobody_else_can_read_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "model", create=True)
    store.enroll("ann", vector("ann"))
    store.remove("ann")
    for path in (tmp_path / "store").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    old_store(tmp_path / "old")
    (tmp_path / "old" / "store.db").chmod(0o644)
    Store(tmp_path / "old", "model")
    assert stat.S_IMODE((tmp_path / "old" / "store.db").stat().st_mode) == 0o600


def test_the_same_recording_is_enrolled_once(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    first, second = (Sample(vector(name), sha256=name * 64) for name in "ab")
    assert store.enroll_all([("ann", [first, second]), ("ann", [first]), ("bob", [first])]) == 1
    assert [speaker.recordings for speaker in store.speakers()] == [2, 1]


@pytest.mark.parametrize("name", ["", " ", "a\nb", "nul\0", "lone \udcff surrogate"])
def test_names_that_can_not_be_listed_are_refused(tmp_path: Path, name: str) -> None:
    store = Store(tmp_path, "model", create=True)
    store.enroll("ann", vector("ann"))
    with pytest.raises(InputError, match="name"):
        store.enroll(name, vector("x"))
    with pytest.raises(InputError, match="name"):
        store.rename("ann", name)
    assert store.names() == ["ann"]


def test_renaming_keeps_everything_else(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    store.enroll_all([("ann", vector("ann")), ("bob", vector("bob"))])
    store.rename("ann", "anna")
    assert store.search(vector("ann"))[0][0] == "anna"
    with pytest.raises(InputError, match="'bob' is enrolled already"):
        store.rename("anna", "bob")
    with pytest.raises(InputError, match="nobody named 'ann'"):
        store.rename("ann", "x")


def test_a_backup_is_a_store(tmp_path: Path) -> None:
    store = Store(tmp_path / "a", "model", create=True)
    store.enroll("ann", vector("ann"))
    store.backup(tmp_path / "b")
    store.remove("ann")
    assert Store(tmp_path / "b", "model").search(vector("ann"))[0][0] == "ann"
    assert stat.S_IMODE((tmp_path / "b" / "store.db").stat().st_mode) == 0o600
    with pytest.raises(InputError, match="has a store already"):
        store.backup(tmp_path / "b")
