"""Encrypted enrolment stores: nothing plain in the files, and every change of a value noticed."""

import os
import sqlite3
import stat
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from speakerverif.inference.enrollment import Store
from speakerverif.inference.samples import Sample
from speakerverif.inference.store_encryption import read_key, reseal, write_key
from tests.inference.test_store_sharing import bytes_of, old_store, share, vector

pytest.importorskip("cryptography")

NAMES = ("Ann of Antwerp", "Bob of Bologna", "Cät of Canberra")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A file with a key."""
    write_key(tmp_path / "key")
    return tmp_path / "key"


def sample(name: str) -> Sample:
    """Return a recording with every fact that a store keeps."""
    return Sample(
        vector(name),
        path=f"/recordings/of/{name}.wav",
        sha256=name.encode().hex().ljust(64, "0")[:64],
        duration_s=3.5,
        speech_s=2.5,
        audio=b"kept audio of " + name.encode() * 200,
        enrolled_at="2026-01-02T03:04:05+00:00",
    )


def fill(store: Store) -> Store:
    """Enrol everybody with two recordings, and return the store."""
    store.enroll_all((name, [sample(name), sample(name + " again")]) for name in NAMES)
    return store


def plain_traces() -> list[bytes]:
    """Return what the files of a plain store hold and those of an encrypted one must not."""
    samples = [sample(name + again) for name in NAMES for again in ("", " again")]
    texts = [text.encode() for s in samples for text in (s.path, s.sha256)]
    return [
        *(name.encode() for name in NAMES),
        *texts,
        *(s.embedding.tobytes() for s in samples),
        b"kept audio",
    ]


def assert_same(store: Store, other: Store) -> None:
    """Assert that two stores answer alike."""
    assert store.names() == other.names() == sorted(NAMES)
    assert store.speakers() == other.speakers()
    for name in NAMES:
        for ours, theirs in zip(store.samples(name), other.samples(name), strict=True):
            np.testing.assert_array_equal(ours.embedding, theirs.embedding)
            assert (ours.path, ours.sha256, ours.audio) == (theirs.path, theirs.sha256, theirs.audio)
            assert (ours.duration_s, ours.enrolled_at) == (theirs.duration_s, theirs.enrolled_at)
        assert store.search(vector(name)) == other.search(vector(name))
    hashes = [sample(NAMES[1]).sha256, "unknown"]
    assert store.owners(hashes) == other.owners(hashes) == {hashes[0]: NAMES[1]}


def test_an_encrypted_store_answers_as_a_plain_one_and_holds_nothing_plain(tmp_path: Path, key: Path) -> None:
    plain = fill(Store(tmp_path / "plain", "model", create=True))
    sealed = fill(Store(tmp_path / "sealed", "model", create=True, key_file=key))
    assert sealed.encrypted and not plain.encrypted
    assert_same(sealed, plain)
    for trace in plain_traces():
        assert trace in bytes_of(tmp_path / "plain") and trace not in bytes_of(tmp_path / "sealed")
    for store in (plain, sealed):
        assert store.enroll_all([(NAMES[0], [sample(NAMES[0])])]) == 1, "the same recording is counted once"
        store.rename(NAMES[0], "Anna")
        with pytest.raises(InputError, match="is enrolled already"):
            store.rename("Anna", NAMES[1])
        assert store.remove(NAMES[1]) == 2 and store.names() == ["Anna", NAMES[2]]
    assert sealed.search(vector(NAMES[0])) == plain.search(vector(NAMES[0]))


def test_a_plain_store_of_any_age_is_encrypted_rekeyed_and_decrypted(tmp_path: Path, key: Path) -> None:
    folder, secret = tmp_path / "store", read_key(key)
    plain, new = fill(Store(tmp_path / "plain", "model", create=True)), os.urandom(32)
    plain.backup(folder)
    reseal(folder, None, secret)
    encrypted = bytes_of(folder)
    assert not [trace for trace in plain_traces() if trace in encrypted]
    assert_same(Store(folder, "model", key_file=key), plain)

    sealed_values = [value for row in rows(folder) for value in row if isinstance(value, bytes)]
    assert len(sealed_values) == 6 * 4
    reseal(folder, secret, new)
    assert not [value for value in sealed_values if value in bytes_of(folder)]
    with pytest.raises(InputError, match="another key than the one given"):
        Store(folder, key_file=key)
    key.write_bytes(new)
    assert_same(Store(folder, "model", key_file=key), plain)
    reseal(folder, new, None)
    assert_same(Store(folder, "model"), plain)

    people = old_store(tmp_path / "old")
    reseal(tmp_path / "old", None, new)
    np.testing.assert_array_equal(Store(tmp_path / "old", key_file=key).utterances("bob"), people["bob"])
    assert people["bob"][0].tobytes() not in bytes_of(tmp_path / "old")


def rows(folder: Path) -> list[tuple[object, ...]]:
    """Return the values of all recordings as they are stored."""
    with closing(sqlite3.connect(folder / "store.db")) as db:
        return db.execute("SELECT embedding, path, sha256, audio FROM utterances").fetchall()


def change(folder: Path, sql: str, *values: object) -> None:
    """Change a store's file behind its back."""
    with closing(sqlite3.connect(folder / "store.db")) as db:
        db.create_function("flip", 2, lambda blob, i: blob[:i] + bytes([blob[i] ^ 1]) + blob[i + 1 :])
        db.execute(sql, values)
        db.commit()


SWAP = (
    "UPDATE utterances SET {0} = (SELECT {0} FROM utterances AS other WHERE other.id = 5 - utterances.id)"
    " WHERE id IN (2, 3)"
)


@pytest.mark.parametrize(
    "damage",
    [
        *(SWAP.format(column) for column in ("embedding", "path", "sha256", "audio")),
        "UPDATE utterances SET speaker = 4 - speaker",
        "UPDATE utterances SET path = sha256",
        "UPDATE utterances SET embedding = flip(embedding, 0)",
        "UPDATE utterances SET embedding = flip(embedding, 50)",
        "UPDATE utterances SET sha256 = flip(sha256, 3)",
        "UPDATE utterances SET audio = flip(audio, 900)",
        "UPDATE utterances SET embedding = x''",
        "UPDATE utterances SET path = 'plain.wav'",
        "UPDATE speakers SET name = flip(name, 40)",
        "UPDATE speakers SET name = flip(name, 0)",
        "UPDATE speakers SET id = id + 10",
        "UPDATE meta SET value = 5 WHERE key = 'seal'",
        "UPDATE meta SET value = flip(value, 20) WHERE key = 'seal'",
        "DELETE FROM meta WHERE key = 'seal'",
    ],
)
def test_every_changed_or_moved_value_is_refused(tmp_path: Path, key: Path, damage: str) -> None:
    fill(Store(tmp_path / "store", "model", create=True, key_file=key))
    change(tmp_path / "store", damage)
    with pytest.raises(InputError, match=r"damaged|another key|is not encrypted, but") as refusal:
        store = Store(tmp_path / "store", "model", key_file=key)
        for name in store.names():
            store.samples(name)
    assert "\n" not in str(refusal.value)


def test_a_name_that_leads_to_somebody_else_is_refused(tmp_path: Path, key: Path) -> None:
    store = fill(Store(tmp_path / "store", "model", create=True, key_file=key))
    with closing(sqlite3.connect(tmp_path / "store" / "store.db")) as db:
        (ann, bob, _) = (name for (name,) in db.execute("SELECT name FROM speakers ORDER BY id"))
        for row, name in ((1, b"aside"), (2, ann[:32] + bob[32:]), (1, bob[:32] + ann[32:])):
            db.execute("UPDATE speakers SET name = ? WHERE id = ?", (name, row))
        db.commit()
    for act in (store.has, store.samples, store.remove):
        with pytest.raises(InputError, match="the name in row 2 was changed"):
            act(NAMES[0])


def test_the_key_is_asked_for_in_one_line(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(Store(tmp_path / "plain", "model", create=True))
    store = fill(Store(tmp_path / "store", "model", create=True, key_file=key))
    (tmp_path / "short").write_bytes(b"x" * 31)
    write_key(tmp_path / "other")
    wrong: list[tuple[str, Path | None, str]] = [
        ("store", None, "is encrypted: name its key's file by SPEAKERVERIF_STORE_KEY_FILE"),
        ("store", tmp_path / "other", "encrypted with another key than the one given"),
        ("store", tmp_path / "short", "expected 32 bytes, found 31 bytes"),
        ("store", tmp_path / "nowhere", "No such file"),
        ("plain", key, "is not encrypted, but a key is given"),
    ]
    for folder, file, expected in wrong:
        arguments = ["store", "list", "--store", str(tmp_path / folder)]
        assert main(arguments + (["--key-file", str(file)] if file else [])) == 2
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    monkeypatch.setenv("SPEAKERVERIF_STORE_KEY_FILE", str(key))
    assert Store(tmp_path / "store", "model").names() == store.names()
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'speakerverif\[encrypt\]'"):
        Store(tmp_path / "store", "model")


def test_commands_encrypt_export_rekey_and_decrypt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = fill(Store(tmp_path / "plain", "model", create=True))
    plain.backup(tmp_path / "store")
    key, new, out = tmp_path / "key", tmp_path / "new", tmp_path / "people.npz"

    def run(action: str, *arguments: object) -> int:
        return main(["store", action, *map(str, arguments)])

    store = ("--store", tmp_path / "store")
    assert run("keygen", key) == run("keygen", new) == 0
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and len(key.read_bytes()) == 32
    assert run("keygen", key) == 2 and "never overwritten" in capsys.readouterr().err
    assert run("encrypt", *store) == 2 and "name the file of the key" in capsys.readouterr().err
    assert run("encrypt", *store, "--key-file", key) == 0
    assert run("list", *store, "--key-file", key, "--json", tmp_path / "list.json") == 0
    assert '"encrypted": true' in (tmp_path / "list.json").read_text()
    assert run("export", *store, "--key-file", key, "--out", out) == 2
    assert "say --plain" in capsys.readouterr().err and not out.exists()
    assert run("export", *store, "--key-file", key, "--out", out, "--plain") == 0
    assert "not encrypted, unlike the store" in capsys.readouterr().out
    copy = tmp_path / "copy"
    assert run("import", out, "--store", copy, "--key-file", key) == 0
    assert_same(Store(copy, key_file=key), plain)
    assert not [trace for trace in plain_traces() if trace in bytes_of(copy)]
    assert run("rekey", *store, "--key-file", key, "--new-key-file", new) == 0
    assert run("backup", *store, "--key-file", new, "--out", tmp_path / "backup") == 0
    assert_same(Store(tmp_path / "backup", key_file=new), plain)
    assert run("decrypt", *store, "--key-file", new) == 0
    assert_same(Store(tmp_path / "store"), plain)


def test_another_model_s_embeddings_are_sealed_too(tmp_path: Path, key: Path) -> None:
    store = fill(Store(tmp_path / "store", "model", create=True, key_file=key))
    people = [(name, [Sample(vector(name + " new"))] * 2) for name in store.names()]
    store.replace_embeddings("other", people, store.changes)
    np.testing.assert_array_equal(store.utterances(NAMES[0])[0], vector(NAMES[0] + " new"))
    assert vector(NAMES[0] + " new").tobytes() not in bytes_of(tmp_path / "store")


def test_the_search_index_is_sealed_too(tmp_path: Path, key: Path) -> None:
    pytest.importorskip("faiss")
    store = fill(Store(tmp_path / "store", "model", create=True, key_file=key))
    store.build_index()
    exact = store.search(vector(NAMES[2]), 2)
    again = Store(tmp_path / "store", key_file=key)
    assert [name for name, _ in again.search(vector(NAMES[2]), 2, use_index=True)] == [n for n, _ in exact]
    index = tmp_path / "store" / "index.faiss"
    content = index.read_bytes()
    assert not [model for model in store.models()[1] if model.tobytes() in content]
    index.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match="the index in row 0 was changed"):
        Store(tmp_path / "store", key_file=key).search(vector(NAMES[2]), use_index=True)
    reseal(tmp_path / "store", read_key(key), None)
    assert not index.exists()


def test_threads_of_two_processes_share_an_encrypted_store(
    tmp_path: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEAKERVERIF_STORE_KEY_FILE", str(key))
    share(tmp_path / "store", 2, 3, 0.5)
