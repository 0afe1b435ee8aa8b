"""The commands that change a store: enroll one or many, list, rename, remove, export, import, back up, migrate."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from safetensors.torch import load_file, save_file

from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.inference.enrollment import Store
from speakerverif.models.folder import read_model_folder
from tests.conftest import RATE


@pytest.fixture
def people(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A folder of three people's recordings, with files that are none."""
    folder = tmp_path / "people"
    for name, speaker in (("ann", 0), ("bob", 2), ("cat", 4)):
        shutil.copytree(tiny_corpus / f"spk{speaker}", folder / name)
    (folder / "ann" / "notes.txt").write_text("not a recording")
    (folder / "ann" / "._0.wav").write_bytes(b"left by a Mac")
    (folder / ".trash").mkdir()
    return folder


@pytest.fixture
def store(people: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """A store of the three, the recordings kept in it."""
    options = ["--store", str(tmp_path / "store"), "--model", str(tiny_model), "--keep-audio"]
    assert main(["enroll", "--folder", str(people), *options]) == 0
    return tmp_path / "store"


def run(*arguments: object) -> int:
    """Return the exit status of a command line."""
    return main([str(argument) for argument in arguments])


def test_a_folder_per_person_is_enrolled_and_listed(
    store: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert run("store", "list", "--store", store, "--json", tmp_path / "list.json") == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("ann\t4\t")
    record = json.loads((tmp_path / "list.json").read_text())
    assert [row["name"] for row in record["speakers"]] == ["ann", "bob", "cat"]
    assert record["fingerprint"] == read_model_folder(tiny_model).fingerprint
    assert record["speakers"][0]["kept_audio"] == 4 and record["speakers"][0]["speech_s"] > 3


def test_a_recording_is_counted_once_whatever_its_name_or_format(
    store: Path, people: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples, rate = soundfile.read(people / "ann" / "0.wav", dtype="int16")
    soundfile.write(tmp_path / "another name.flac", samples, rate)
    options = ["--store", store, "--model", tiny_model]
    assert run("enroll", "ann", tmp_path / "another name.flac", people / "ann" / "1.wav", *options) == 0
    assert "ann: 4 recordings enrolled" in (out := capsys.readouterr().out) and "2 not counted again" in out
    assert run("enroll", "dan", tmp_path / "another name.flac", *options) == 2
    assert "is enrolled for 'ann'" in capsys.readouterr().err
    assert run("enroll", "dan", tmp_path / "another name.flac", *options, "--force") == 0


def test_a_manifest_enrols_and_identifies_many(
    people: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [(f"{name}-{n}", f"{name}/{n}.wav", name) for name in ("ann", "bob", "cat") for n in range(4)]
    for which, numbers in (("train", "013"), ("test", "2")):
        lines = ["\t".join(row) for row in rows if row[0][-1] in numbers]
        (people / f"{which}.tsv").write_text("\n".join(["id\tpath\tspeaker", *lines]) + "\n")
    options = ["--store", tmp_path / "store", "--model", tiny_model]
    assert run("enroll", "--manifest", people / "train.tsv", *options) == 0
    assert capsys.readouterr().out.count("3 recordings enrolled") == 3
    out = ["--threshold", "-1", "--json", tmp_path / "i.json"]
    assert run("identify", "--manifest", people / "test.tsv", *options, *out) == 0
    table = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ["id", "name", "score", "llr"]
    assert [row[1] for row in table[1:]] == ["ann", "bob", "cat"]
    record = json.loads((tmp_path / "i.json").read_text())
    for row in record:
        name = row["candidates"][0][0]
        assert run("verify", name, people / name / "2.wav", *options, "--json", tmp_path / "v.json") == 0
        pair = json.loads((tmp_path / "v.json").read_text())
        assert row["candidates"][0][1] == pytest.approx(pair["score"], abs=1e-5)


def test_one_who_can_not_be_enrolled_does_not_stop_the_others(
    people: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    soundfile.write(people / "bob" / "silent.wav", np.zeros(RATE), RATE)
    options = ["--store", tmp_path / "store", "--model", tiny_model]
    assert run("enroll", "--folder", people, *options) == 1
    assert "silent.wav: silent" in capsys.readouterr().out
    assert Store(tmp_path / "store").names() == ["ann", "cat"]


def test_rename_and_remove_leave_nothing_of_the_name(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = Store(store).utterances("ann")[0].tobytes()
    assert run("store", "rename", "ann", "Annabel Other", "--store", store) == 0
    assert run("store", "remove", "Annabel Other", "bob", "--store", store) == 0
    assert "4 recordings removed" in capsys.readouterr().out
    assert Store(store).names() == ["cat"]
    content = b"".join(path.read_bytes() for path in store.iterdir())
    assert b"Annabel" not in content and vector not in content
    assert run("store", "remove", "ann", "--store", store) == 2
    assert "nobody named 'ann'" in capsys.readouterr().err


def test_an_exported_speaker_is_imported_whole(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("store", "export", "ann", "--store", store, "--out", tmp_path / "ann.npz") == 0
    table = EmbeddingTable.load(tmp_path / "ann.npz")
    assert table.ids == ["ann/0", "ann/1", "ann/2", "ann/3"]
    assert (tmp_path / "ann.npz").stat().st_mode & 0o077 == 0
    for _ in range(2):  # the second time everything is there
        assert run("store", "import", tmp_path / "ann.npz", "--store", tmp_path / "new") == 0
    theirs, ours = Store(store).samples("ann"), Store(tmp_path / "new").samples("ann")
    assert [(s.path, s.sha256, s.audio, s.enrolled_at) for s in ours] == [
        (s.path, s.sha256, s.audio, s.enrolled_at) for s in theirs
    ]
    assert all(np.array_equal(a.embedding, b.embedding) for a, b in zip(ours, theirs, strict=True))
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    assert run("store", "import", tmp_path / "other.npz", "--store", tmp_path / "new") == 2
    assert "not a file that `store export` wrote" in capsys.readouterr().err


def test_a_backup_answers_as_the_store_does(store: Path, tmp_path: Path) -> None:
    assert run("store", "backup", "--store", store, "--out", tmp_path / "copy") == 0
    assert Store(tmp_path / "copy").names() == ["ann", "bob", "cat"]
    assert run("store", "backup", "--store", store, "--out", tmp_path / "copy") == 2


def other_model(model: Path, folder: Path) -> Path:
    """Return a copy of a model with other weights, and so another fingerprint."""
    shutil.copytree(model, folder)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor * 1.05 for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kept", [True, False])
def test_a_store_moves_to_another_model(
    people: Path, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kept: bool
) -> None:
    store, options = tmp_path / "moving", ["--keep-audio"] if kept else []
    other = other_model(tiny_model, tmp_path / "other")
    assert run("enroll", "--folder", people, "--store", store, "--model", tiny_model, *options) == 0
    (people / "bob" / "1.wav").rename(tmp_path / "1.wav")
    if not kept:
        assert run("store", "migrate", "--store", store, "--model", other) == 2
        assert "1 recordings are neither kept" in (said := capsys.readouterr().err) and "bob/1.wav" in said
        shutil.copy(people / "cat" / "2.wav", people / "bob" / "1.wav")
        assert run("store", "migrate", "--store", store, "--model", other) == 2
        assert "is not the recording that was enrolled for 'bob'" in capsys.readouterr().err
        (people / "bob" / "1.wav").unlink()
        assert Store(store).fingerprint == read_model_folder(tiny_model).fingerprint
    root = [] if kept else ["--audio-root", tmp_path]
    assert run("store", "migrate", "--store", store, "--model", other, *root) == 0
    assert "12 recordings embedded again" in capsys.readouterr().out
    moved = Store(store, read_model_folder(other).fingerprint)
    fresh = tmp_path / "fresh"
    assert (
        run("enroll", "ann", *sorted((people / "ann").glob("[0-9].wav")), "--store", fresh, "--model", other)
        == 0
    )
    np.testing.assert_allclose(moved.utterances("ann"), Store(fresh).utterances("ann"), atol=1e-4)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["ann"], "name the recordings"),
        (["--folder", "nowhere"], "one folder of recordings per speaker"),
        (["ann", "a.wav", "--folder", "x"], "or --folder"),
        ([], "or --folder"),
    ],
)
def test_wrong_enrolments_are_refused(
    given: list[str], expected: str, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("enroll", *given, "--store", tmp_path / "s", "--model", tiny_model) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.corpus
def test_a_folder_of_five_people_becomes_a_calibrated_store_and_a_decision_in_three_commands(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shared / "corpora" / "speechocean762"
    speaker_of = dict(line.split() for line in (root / "dev" / "utt2spk").read_text().splitlines())
    paths: dict[str, list[Path]] = {}
    for line in (root / "dev" / "wav.scp").read_text().splitlines():
        name, path = line.split(None, 1)
        paths.setdefault(speaker_of[name], []).append(root / path)
    enrolled, stranger = sorted(paths)[20:25], sorted(paths)[25]
    for name in enrolled:
        (tmp_path / "people" / name).mkdir(parents=True)
        for recording in paths[name][:3]:
            (tmp_path / "people" / name / recording.name).symlink_to(recording)
    store = ["--store", tmp_path / "store"]
    assert run("calibrate", "--folder", tmp_path / "people", "--far", "0.1") == 0
    kept = capsys.readouterr().out.splitlines()[-1]
    assert run("enroll", "--folder", tmp_path / "people", *store) == 0
    right = 0
    for name in (enrolled[0], stranger):
        assert run("identify", paths[name][5], *store, "--json", tmp_path / "i.json") == 0
        found = json.loads((tmp_path / "i.json").read_text())
        assert found["decided"] and found["calibration"] == kept
        right += found["name"] == (None if name == stranger else name)
    out = capsys.readouterr().out
    assert "there, on people, 5 speakers: false alarms" in out and f"calibration: {kept}" in out
    assert run("calibrate", "--remove") == 0
    assert right == 2 and "among 5 enrolled, a stranger is named in up to" in out
