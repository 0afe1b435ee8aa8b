"""VoxCeleb's trees: every layout that is taken, and what is said of every one that is not."""

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speakerverif.audio import reading
from speakerverif.cli.entry import main
from speakerverif.corpora import _m4a, _voxtree, voxceleb
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from tests.voxceleb_tree import VIDEO, corpora, recordings, trials

TESTED, TRAINED = [10270, 10271], [12, 18, 20]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return corpora(tmp_path / "data", TESTED, TRAINED)


def take(tree: Path, **options: object) -> Prepared:
    """Prepare what is in `tree`, whole or not."""
    return voxceleb.prepare(tree, tree.parent / "out", **{"partial": True, **options})  # type: ignore[arg-type]


def prepare_by_command(tree: Path, *options: str) -> int:
    vox = ["--vox1", str(tree / "voxceleb1"), "--vox2", str(tree / "voxceleb2")]
    return main(["prepare", "voxceleb", *vox, "--out", str(tree.parent / "out"), *options])


def record(tree: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((tree.parent / "out" / "prepare.json").read_text())
    return result


def ids(manifest: Path) -> list[str]:
    return [u.id for u in Manifest.read(manifest)]


def test_a_tree_becomes_lists(tree: Path) -> None:
    prepared = take(tree)
    train = Manifest.read(prepared.train)
    assert train.speakers == ["id00012", "id00018", "id00020"] and len(train) == 9
    assert train[0].id == f"id00012/{VIDEO[:-1]}0/00001.wav" and train[0].duration_s == pytest.approx(0.4)
    assert train[0].path == str(tree / "voxceleb2" / "dev" / "wav" / train[0].id)
    chosen = TrialList.read(prepared.trials["veri_test"])
    assert (tree / "voxceleb1" / "veri_test.txt").read_bytes() == prepared.trials["veri_test"].read_bytes()
    found = prepared.utterances(chosen.ids)
    assert [u.path for u in found] == [str(tree / "voxceleb1" / "wav" / i) for i in chosen.ids]
    assert Prepared.load(_saved(prepared, tree)).utterances(chosen.ids) == found
    with pytest.raises(InputError, match=r"1 files of the trials are not in it: id9/x\.wav"):
        prepared.utterances(["id9/x.wav"])
    assert record(tree)["found"]["VoxCeleb1 test"] == {"speakers": 2, "utterances": 6}
    assert record(tree)["shared_speakers"] == []
    assert "0 speakers are both in training and in the trials" in prepared.notes
    assert any(
        note.startswith("not whole: VoxCeleb2 dev: found 3 speakers, 9 utt") for note in prepared.notes
    )


def _saved(prepared: Prepared, tree: Path) -> Path:
    prepared.save(tree.parent / "prepared.json")
    return tree.parent / "prepared.json"


@pytest.mark.parametrize(
    ("vox1", "vox2"),
    [
        ("wav", "wav"),
        (".", "dev"),
        ("vox1_test_wav/wav", "vox2_dev_wav/dev/wav"),
        ("test/wav", "voxceleb2_dev"),
        ("wav", "."),
    ],
)
def test_layouts_found_in_the_wild(tree: Path, vox1: str, vox2: str) -> None:
    for corpus, former, layout in (("voxceleb1", "wav", vox1), ("voxceleb2", "dev/wav", vox2)):
        aside = tree / corpus / "aside"
        (tree / corpus / former).rename(aside)
        target = tree / corpus / layout
        target.parent.mkdir(parents=True, exist_ok=True)
        if layout == ".":
            for folder in aside.iterdir():
                folder.rename(tree / corpus / folder.name)
            aside.rmdir()
        else:
            aside.rename(target)
    prepared = take(tree)
    assert len(ids(prepared.train)) == 9 and len(ids(tree.parent / "out" / "voxceleb1.tsv")) == 6


def test_a_folder_called_test_far_above_says_nothing(tmp_path: Path) -> None:
    for above, split in (
        ("test", ""),
        ("my_test_data/voxceleb2", ""),
        ("voxceleb2/dev/aac", "dev"),
        ("test/wav", "test"),
    ):
        deep = tmp_path / above / ("a/b/c/d" if above == "test" else "")
        assert _voxtree.split_of(deep / "id00012") == split


def test_dev_and_test_apart_and_together(tree: Path) -> None:
    recordings(tree / "voxceleb1" / "wav", [10269, 10309, 10310], 1)
    recordings(tree / "voxceleb2" / "test" / "wav", [17], 2)
    prepared = take(tree)
    found = record(tree)["found"]
    assert found["VoxCeleb1 dev"] == {"speakers": 2, "utterances": 2}
    assert found["VoxCeleb1 test"] == {"speakers": 3, "utterances": 7}
    assert found["VoxCeleb2 test"] == {"speakers": 1, "utterances": 2}
    assert Manifest.read(prepared.train).speakers == ["id00012", "id00018", "id00020"]


@pytest.mark.corpus
def test_the_test_speakers_are_those_of_the_published_list(shared: Path) -> None:
    published = TrialList.read(shared / "voxceleb" / "veri_test.txt")
    assert {i.split("/")[0] for i in published.ids} == voxceleb.TEST1
    assert len(voxceleb.ALL1) == 1211 + 40


def test_a_conversion_beside_its_original_is_taken_once(tree: Path) -> None:
    wav = tree / "voxceleb2" / "dev" / "wav"
    for path in sorted(wav.rglob("*.wav")):
        original = tree / "voxceleb2" / "dev" / "aac" / path.relative_to(wav).with_suffix(".m4a")
        original.parent.mkdir(parents=True, exist_ok=True)
        original.write_bytes(b"never read")
    path.with_suffix(".m4a").write_bytes(b"never read, in the same folder")
    path.with_suffix(".txt").write_text("face tracks")
    (path.parent / "._00001.wav").write_bytes(b"left by a Mac")
    prepared = take(tree)
    assert all(u.path.endswith(".wav") for u in Manifest.read(prepared.train))
    notes = [note for note in prepared.notes if "ignored" in note]
    assert not (tree.parent / "out" / "problems.txt").exists()
    assert notes == [
        "1 files ignored: *.txt",
        "10 files ignored: .m4a beside .wav",
        "1 files ignored: hidden",
    ]


def test_a_whole_corpus_needs_no_word(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = {
        "VoxCeleb1 dev": {"speakers": 1211, "utterances": 148642},  # not there at all: only O can be scored
        "VoxCeleb1 test": {"speakers": 2, "utterances": 6},
        "VoxCeleb2 dev": {"speakers": 3, "utterances": 9},
        "VoxCeleb2 test": {"speakers": 118, "utterances": 36237},
    }
    monkeypatch.setattr(voxceleb, "EXPECTED", whole)
    assert not any("not whole" in note for note in take(tree, partial=False).notes)
    before = {p: p.stat().st_mtime_ns for p in (tree.parent / "out").glob("vox*")}
    monkeypatch.setattr(_voxtree, "duration_s", None)  # would fail: the scan is not repeated
    take(tree, partial=False)
    assert before == {p: p.stat().st_mtime_ns for p in (tree.parent / "out").glob("vox*")}
    recordings(tree / "voxceleb2" / "dev" / "wav", [21], 1)
    monkeypatch.undo()
    monkeypatch.setattr(voxceleb, "EXPECTED", whole)
    with pytest.raises(InputError, match="VoxCeleb2 dev: found 4 speakers, 10 utterances, expected 3 sp"):
        take(tree, partial=False)


def empty(tree: Path) -> None:
    shutil.rmtree(tree / "voxceleb2")
    (tree / "voxceleb2").mkdir()


def absent(tree: Path) -> None:
    shutil.rmtree(tree / "voxceleb1")


def too_high(tree: Path) -> None:
    (tree / "voxceleb2").rename(tree / "aside")
    (tree / "voxceleb2").mkdir()
    (tree / "aside").rename(tree / "voxceleb2" / "corpus")


def both_below(tree: Path) -> None:
    shutil.copytree(tree / "voxceleb1" / "wav", tree / "voxceleb2" / "test" / "wav")


def too_low(tree: Path) -> None:
    shutil.rmtree(tree / "voxceleb2")
    (tree / "voxceleb2").symlink_to(tree / "elsewhere" / "id00012")
    recordings(tree / "elsewhere", [12], 2)


def swapped(tree: Path) -> None:
    (tree / "voxceleb1").rename(tree / "aside")
    (tree / "voxceleb2").rename(tree / "voxceleb1")
    (tree / "aside").rename(tree / "voxceleb2")


def no_speakers(tree: Path) -> None:
    shutil.rmtree(tree / "voxceleb2")
    (tree / "voxceleb2" / "wav" / "someone").mkdir(parents=True)


def no_lists(tree: Path) -> None:
    (tree / "voxceleb1" / "veri_test.txt").unlink()


def other_list(tree: Path) -> None:
    text = "1 id10270/abc/00001.wav id10270/abc/00002.wav\n0 id10270/abc/00001.wav id10271/abc/00003.wav\n"
    (tree / "voxceleb1" / "veri_test.txt").write_text(text)


def list_of_absent_speakers(tree: Path) -> None:
    names = [f"id1{n:04d}/{VIDEO}/00001.wav" for n in range(400, 404)]
    text = f"1 id10270/{VIDEO[:-1]}0/00001.wav {names[0]}\n0 {names[1]} {names[2]}\n"
    (tree / "voxceleb1" / "veri_test.txt").write_text(text)


BAD = {
    empty: (r"--vox2 .*voxceleb2: the folder is empty; expected\n.*voxceleb2/", ""),
    absent: (r"--vox1 .*voxceleb1: no such folder; expected\n.*voxceleb1/", ""),
    too_high: (r"a level too high: .*voxceleb2/corpus looks like it; expected\n", ""),
    both_below: (r"2 of 5 speakers are not VoxCeleb2's: id10270, id10271; is it a level too high\?", ""),
    swapped: (r"3 of 3 speakers are not VoxCeleb1's: .*are --vox1 and --vox2 swapped\?", ""),
    no_speakers: (r"no folders of speakers \(id and five digits\) in it; expected\n", ""),
    no_lists: (r"voxceleb1: no trial list; expected veri_test\.txt, veri_test2\.txt.* or --trials FILE", ""),
    other_list: (
        r"3 of the 3 files in this list are not among VoxCeleb1's 6: id10270/abc/00001",
        "--partial",
    ),
    list_of_absent_speakers: (
        r"no trial list can be scored: veri_test\.txt: left out, for 3 of its",
        "--partial",
    ),
}


@pytest.mark.parametrize("spoil", BAD, ids=lambda f: f.__name__)
def test_a_wrong_folder_is_told_what_is_wrong(
    tree: Path, spoil: object, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(tree)  # type: ignore[operator]
    message, option = BAD[spoil]  # type: ignore[index]
    assert prepare_by_command(tree, *([option] if option else [])) == 2
    assert re.search(message, capsys.readouterr().err, re.DOTALL)
    assert not (tree.parent / "out" / "prepared.json").exists()


@pytest.mark.parametrize(
    ("below", "what"), [("id00012", "a speaker's"), (f"id00012/{VIDEO[:-1]}0", "a video's")]
)
def test_a_level_too_low_is_told_where_to_look(tree: Path, below: str, what: str) -> None:
    wav = tree / "voxceleb2" / "dev" / "wav"
    with pytest.raises(InputError, match=f"a level too low: this is {what} folder; {wav} looks like it"):
        take(tree, vox2=wav / below)


def test_a_part_of_a_corpus_is_refused_and_its_speakers_named(tree: Path) -> None:
    with pytest.raises(InputError) as caught:
        take(tree, partial=False)
    message = str(caught.value)
    assert "VoxCeleb1 test: found 2 speakers, 6 utterances, expected 40 speakers, 4,874 utterances" in message
    assert "missing id10272, id10273, id10274" in message and "and 33 more" in message
    assert "VoxCeleb2 dev: found 3 speakers, 9 utterances, expected 5,994 speakers, 1,092,009" in message
    assert "--partial" in message
    shutil.rmtree(tree / "voxceleb1" / "wav" / "id10270")
    (tree / "voxceleb1" / "wav" / "id10271").rename(tree / "voxceleb1" / "wav" / "id10001")
    with pytest.raises(InputError, match="VoxCeleb1 test: found 0 speakers, 0 utt"):
        take(tree)  # nothing to test on: no option helps


def test_what_cant_be_used_is_listed(tree: Path) -> None:
    paths = sorted((tree / "voxceleb2").rglob("*.wav"))
    paths[0].write_bytes(b"")
    paths[1].write_bytes(b"not a recording")
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    paths[3].unlink()
    paths[3].symlink_to("nowhere.wav")
    video = paths[4].parent.parent / "video-without"
    video.mkdir()
    (tree / "voxceleb2" / "dev" / "wav" / "id00099").mkdir()
    shutil.copy(paths[5], tree / "voxceleb2" / "dev" / "wav" / "id00012")
    with pytest.raises(InputError) as caught:
        take(tree, partial=False)
    message, listed = str(caught.value), (tree.parent / "out" / "problems.txt").read_text()
    assert message.startswith("7 files or folders can't be used")
    for part in ("1 empty", "1 broken", "1 cut off", "1 missing", "1 a video's folder without recordings"):
        assert part in message
    assert "1 a speaker's folder without videos" in message and "1 outside a video's folder" in message
    assert f"{paths[0]}\tempty: 0 bytes\n" in listed and f"{video}\ta video's folder" in listed
    assert len(listed.splitlines()) == 7
    prepared = take(tree)
    assert len(ids(prepared.train)) == 5
    assert any(note.startswith("left out: 7 files") for note in prepared.notes)


def test_the_published_lists_are_known_by_hash_or_by_counts(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speakerverif.data import trial_audit

    text = (tree / "voxceleb1" / "veri_test.txt").read_text()
    (tree / "voxceleb1" / "veri_test2.txt").write_text(text.split("\n", 1)[1])
    rows = text.count("\n")
    known = {rows: "VoxCeleb1-O (original)", rows - 1: "VoxCeleb1-O (cleaned)"}
    monkeypatch.setattr(trial_audit, "KNOWN_COUNTS", known)
    prepared = take(tree)
    assert list(prepared.trials) == ["vox1_o", "vox1_o_cleaned"]
    assert record(tree)["trials"]["vox1_o"]["known_as"] == "VoxCeleb1-O (original), by its counts"
    shutil.copy(tree / "voxceleb1" / "veri_test.txt", tree / "copy.txt")
    with pytest.raises(InputError, match=r"copy\.txt: this is vox1_o, as .*veri_test\.txt is; give one"):
        take(tree, trials=[tree / "voxceleb1" / "veri_test.txt", tree / "copy.txt"])


def test_a_list_with_a_missing_file_is_refused_and_one_of_absent_speakers_left_out(tree: Path) -> None:
    names = recordings(tree / "voxceleb1" / "wav", [10280], 2)
    (tree / "voxceleb1" / "list_test_all.txt").write_text(trials(names))
    shutil.rmtree(tree / "voxceleb1" / "wav" / "id10280" / f"{VIDEO[:-1]}0")
    with pytest.raises(InputError, match=r"list_test_all\.txt: 1 of the 2 files in this list are not among"):
        take(tree)
    shutil.rmtree(tree / "voxceleb1" / "wav" / "id10280")
    with pytest.raises(InputError, match="2 of the 2 files"):
        take(tree)  # not one of its files
    first = (tree / "voxceleb1" / "veri_test.txt").read_text()
    (tree / "voxceleb1" / "list_test_all.txt").write_text(first + trials(names))
    prepared = take(tree)
    assert list(prepared.trials) == ["veri_test"]
    assert any(n.startswith("list_test_all.txt: left out, for 1 of its speakers") for n in prepared.notes)


ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


@pytest.fixture
def compressed(tree: Path) -> Path:
    """VoxCeleb2 as it is distributed."""
    wav = tree / "voxceleb2" / "dev" / "wav"
    aac = tree / "voxceleb2" / "dev" / "aac"
    first = min(wav.rglob("*.wav"))
    subprocess.run(
        ["ffmpeg", "-v", "error", "-i", first, "-c:a", "aac", first.with_suffix(".m4a")], check=True
    )
    for path in sorted(wav.rglob("*.wav")):
        target = aac / path.relative_to(wav).with_suffix(".m4a")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first.with_suffix(".m4a"), target)
    shutil.rmtree(wav)
    return tree


@ffmpeg
def test_m4a_is_decoded_once(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = take(compressed)
    train = Manifest.read(prepared.train)
    assert train[0].path == str(compressed.parent / "out" / "wav" / train[0].id)
    decoded = reading.read(compressed / "voxceleb2" / "dev" / "aac" / train[0].id.replace(".wav", ".m4a"))
    written, rate = soundfile.read(train[0].path, dtype="float32")
    assert rate == 16000 and np.abs(written - decoded).max() <= 1 / 32768
    assert train[0].duration_s == len(decoded) / 16000
    assert any("9 recordings decoded from m4a" in note for note in prepared.notes)

    read, calls = reading.read, []

    def counted(path: str, **options: object) -> np.ndarray:
        calls.append(path)
        return read(path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(reading, "read", counted)
    assert take(compressed).train == prepared.train and not calls
    # Interrupted: one file is not there yet, another was left empty by a machine that went down.
    Path(train[1].path).unlink()
    Path(train[2].path).write_bytes(b"")
    (compressed.parent / "out" / "train.json").unlink()
    assert len(ids(take(compressed).train)) == 9 and len(calls) == 2


@ffmpeg
def test_ffmpegs_own_words_are_kept(compressed: Path) -> None:
    path = min((compressed / "voxceleb2").rglob("*.m4a"))
    data = bytearray(path.read_bytes())
    begin = data.index(b"mdat") + 4
    data[begin : begin + 400] = bytes(400)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"1 files or folders.*1 ffmpeg can't decode it.*00001\.m4a"):
        _decode(compressed)
    (compressed / "voxceleb2" / "dev" / "aac" / "id00099").mkdir()
    prepared = take(compressed)
    listed = (compressed.parent / "out" / "problems.txt").read_text()
    assert len(ids(prepared.train)) == 8 and f"{path}\tffmpeg can't decode it: " in listed
    assert "id00099\ta speaker's folder without videos" in listed
    path.write_bytes(data[:-300])
    with pytest.raises(InputError, match=r"1 cut off.*box is not whole"):
        take(compressed, partial=False)


def _decode(tree: Path) -> None:
    notes: list[str] = []
    found = _voxtree.find_speakers(_voxtree.VOX2, tree / "voxceleb2")
    source = tree.parent / "source.tsv"
    _voxtree.scan(_voxtree.VOX2, found, source)
    failed = _m4a.convert(source, tree.parent / "train.tsv", tree.parent / "wav")
    voxceleb._report_problems(failed, tree.parent, False, notes)


def test_m4a_without_ffmpeg_is_refused(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    movie = struct.pack(">4sIIIII", b"mvhd", 0, 0, 0, 1000, 400) + bytes(80)
    movie = struct.pack(">I", len(movie) + 4) + movie
    for path in sorted((tree / "voxceleb2").rglob("*.wav")):
        boxes = struct.pack(">I4s", 8, b"ftyp") + struct.pack(">I4s", len(movie) + 8, b"moov") + movie
        path.with_suffix(".m4a").write_bytes(boxes)
        path.unlink()
    monkeypatch.setenv("PATH", str(tree))
    with pytest.raises(InputError, match="9 recordings are m4a, and ffmpeg, which decodes them, is not inst"):
        take(tree)


@ffmpeg
def test_a_full_disk_is_seen_before_decoding(compressed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(InputError, match=r"9 of 9 m4a files.*0.0 GB are free: make room"):
        take(compressed)


def test_another_corpus_takes_no_vox1(tree: Path) -> None:
    assert main(["prepare", "musan", "--vox1", str(tree), "--out", str(tree / "out")]) == 2
    with pytest.raises(InputError, match=r"where is VoxCeleb2.*--vox2 DIR"):
        voxceleb.prepare(None, tree, vox1=tree / "voxceleb1")
    with pytest.raises(InputError, match="no folder voxceleb1 in it"):
        voxceleb.prepare(tree / "voxceleb2", tree)
