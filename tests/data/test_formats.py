"""Lists and tables of other toolkits come in and go out unchanged, and nothing in them is executed."""

import gzip
import io
import json
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import kaldiio
import numpy as np
import pytest
import soundfile

from speakerverif._util.toml import format_toml, to_dict
from speakerverif.audio import reading
from speakerverif.cli.entry import main
from speakerverif.config import Recipe
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.formats.tables import read_table, write_table
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.models.folder import read_model_folder


@pytest.fixture
def table() -> EmbeddingTable:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((3, 5)).astype(np.float32)
    return EmbeddingTable(
        ["a/1.wav", "b", "c-é"],
        numbers,
        np.ones(3, np.float32),
        np.ones(3, np.float32),
        ["ok"] * 3,
        "0123456789abcdef",
    )


def same(found: EmbeddingTable, table: EmbeddingTable) -> None:
    assert list(found.ids) == list(table.ids)
    np.testing.assert_array_equal(found.embeddings, table.embeddings)


def test_kaldi_archives(table: EmbeddingTable, tmp_path: Path) -> None:
    write_table(table, tmp_path / "e.ark")
    for path in (tmp_path / "e.ark", tmp_path / "e.scp"):
        same(read_table(path), table)
    # kaldiio, which others read them with, sees the same, and we read what it writes.
    theirs = kaldiio.load_scp(str(tmp_path / "e.scp"))
    for name, vector in zip(table.ids, table.embeddings, strict=True):
        np.testing.assert_array_equal(theirs[name], vector)
    for options in ("ark,scp", "ark,t,scp"):
        with kaldiio.WriteHelper(f"{options}:{tmp_path}/k.ark,{tmp_path}/k.scp") as writer:
            for name, vector in zip(table.ids, table.embeddings, strict=True):
                writer(name, vector)
        for path in (tmp_path / "k.ark", tmp_path / "k.scp"):
            found = read_table(path)
            np.testing.assert_allclose(found.embeddings, table.embeddings, rtol=1e-6)
            assert list(found.ids) == list(table.ids)
    with kaldiio.WriteHelper(f"ark:{tmp_path}/d.ark") as writer:
        writer("x", table.embeddings[0].astype(np.float64))
    np.testing.assert_array_equal(read_table(tmp_path / "d.ark").embeddings[0], table.embeddings[0])


def test_an_index_moves_with_its_archive(table: EmbeddingTable, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_table(table, tmp_path / "a" / "e.ark")
    (tmp_path / "a").rename(tmp_path / "b")
    same(read_table(tmp_path / "b" / "e.scp"), table)


def test_parquet(table: EmbeddingTable, tmp_path: Path) -> None:
    write_table(table, tmp_path / "e.parquet")
    found = read_table(tmp_path / "e.parquet")
    same(found, table)
    assert found.fingerprint == table.fingerprint
    np.testing.assert_array_equal(found.durations, table.durations)
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").num_rows == 3


def test_damaged_tables_are_named(table: EmbeddingTable, tmp_path: Path) -> None:
    write_table(table, tmp_path / "e.ark")
    write_table(table, tmp_path / "e.parquet")
    for name, least in (("e.ark", 1), ("e.parquet", 1)):
        path = tmp_path / name
        whole = path.read_bytes()
        for size in (len(whole) - 1, len(whole) // 2, least):
            path.write_bytes(whole[:size])
            with pytest.raises(InputError, match=r"damaged|no vectors"):
                read_table(path)
    with pytest.raises(InputError, match="name the archive"):
        write_table(table, tmp_path / "e.scp")


def test_an_index_runs_no_command(tmp_path: Path) -> None:
    (tmp_path / "e.scp").write_text(f"a touch {tmp_path}/executed |\n")
    with pytest.raises(InputError, match="archive:offset"):
        read_table(tmp_path / "e.scp")
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def kaldi(tmp_path: Path) -> Path:
    folder = tmp_path / "kaldi"
    folder.mkdir()
    (folder / "wav.scp").write_text("r1 wav/one.wav\nr2  wav/with space.wav\n")
    (folder / "wav").mkdir()
    for name in ("one", "with space"):
        soundfile.write(folder / "wav" / f"{name}.wav", np.zeros(16000), 16000)
    (folder / "utt2spk").write_text("r1 ann\nr2 bob\nu1 ann\nu2 bob\n")
    return folder


def test_kaldi_folder(kaldi: Path) -> None:
    wav = kaldi / "wav"
    assert list(read_manifest(kaldi)) == [
        Utterance("r1", str(wav / "one.wav"), "ann"),
        Utterance("r2", str(wav / "with space.wav"), "bob"),
    ]
    (kaldi / "segments").write_text("u1 r1 0.25 0.75\nu2 r2 0.5 -1\n")
    assert list(read_manifest(kaldi)) == [
        Utterance("u1", str(wav / "one.wav"), "ann", 0.25, 0.5),
        Utterance("u2", str(wav / "with space.wav"), "bob", 0.5, None),
    ]


def test_a_kaldi_folder_runs_no_command(kaldi: Path, tmp_path: Path) -> None:
    (kaldi / "wav.scp").write_text(f"r1 touch {tmp_path}/executed |\nr2\n")
    with pytest.raises(InputError, match="a command, which is not run"):
        read_manifest(kaldi)
    assert not (tmp_path / "executed").exists()


def test_paths_from_the_current_folder(kaldi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (kaldi / "wav.scp").write_text("r1 kaldi/wav/one.wav\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(kaldi)[0].path == "kaldi/wav/one.wav"
    assert read_manifest(kaldi, audio_root="/corpus")[0].path == "/corpus/kaldi/wav/one.wav"


def test_speechbrain_csv(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text(
        "ID,duration,wav,start,stop,spk_id\n"
        "id1--a_0.0_3.0,8.0,$data_root/id1/a.wav,16000,64000,id1\n"
        "id2--b,8.0,/abs/b.wav,,,id2\n"
    )
    with pytest.raises(InputError, match="--audio-root"):
        read_manifest(path)
    assert list(read_manifest(path, "/corpus")) == [
        Utterance("id1--a_0.0_3.0", "/corpus/id1/a.wav", "id1", 1.0, 3.0),
        Utterance("id2--b", "/abs/b.wav", "id2"),
    ]
    path.write_text("ID,duration,wav,start,stop,spk_id\na,1,a.wav,x,y,s\n")
    with pytest.raises(InputError, match="1 wrong row"):
        read_manifest(path)


def test_wespeaker_raw_list(tmp_path: Path) -> None:
    path = tmp_path / "raw.list"
    path.write_text(json.dumps({"key": "id1/a", "wav": "/c/a.wav", "spk": "id1"}) + "\n\n")
    assert list(read_manifest(path)) == [Utterance("id1/a", "/c/a.wav", "id1")]
    path.write_text('{"key": "a"}\nnot json\n')
    with pytest.raises(InputError, match="2 wrong rows"):
        read_manifest(path)


def shard(path: Path, files: list[tuple[str, bytes]]) -> None:
    """Write a shard as WeSpeaker's make_shard_list does: `key.spk` and the recording under `key`."""
    with tarfile.open(path, "w") as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def encoded(samples: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, 16000, format=kind, subtype="PCM_16")
    return file.getvalue()


Shards = tuple[Path, dict[str, np.ndarray]]  # a list of shards, and the samples in them


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    rng = np.random.default_rng(0)
    sounds = {name: rng.integers(-9000, 9000, 8000).astype(np.int16) for name in ("id1-a", "id1-b", "id2-a")}
    wav = {name: encoded(samples, "WAV") for name, samples in sounds.items()}
    flac = encoded(sounds["id2-a"], "FLAC")
    shard(tmp_path / "0.tar", [("id1-a.spk", b"id1"), ("id1-a.wav", wav["id1-a"])])
    shard(
        tmp_path / "1.tar",
        [
            ("id1-b.spk", b"id1"),
            ("id1-b.wav", wav["id1-b"]),
            ("id1-b.vad", b"0.0 0.4"),
            ("id2-a.spk", b"id2\n"),
            ("id2-a.flac", flac),
        ],
    )
    (tmp_path / "shard.list").write_text("0.tar\n\n1.tar\n")
    return tmp_path / "shard.list", sounds


def test_wespeaker_shards_are_read_in_place(shards: Shards, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sounds = shards
    found = list(read_manifest(path))
    assert [(u.id, u.speaker) for u in found] == [("id1-a", "id1"), ("id1-b", "id1"), ("id2-a", "id2")]
    for utterance in found:
        samples = sounds[utterance.id] / np.float32(32768)
        np.testing.assert_array_equal(reading.read(utterance.path), samples)
        np.testing.assert_array_equal(reading.read(utterance.path, 0.1, 0.2), samples[1600:4800])
        assert reading.info(utterance.path).duration_s == 0.5
    monkeypatch.chdir(path.parent)
    assert [u.path for u in read_manifest("shard.list")] == [u.path for u in found]
    elsewhere = path.parent / "lists"
    elsewhere.mkdir()
    (elsewhere / "shard.list").write_text("0.tar\n")
    assert read_manifest(elsewhere / "shard.list", path.parent)[0].path == found[0].path


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_ffmpeg_reads_what_is_in_a_shard(shards: Shards, tmp_path: Path) -> None:
    path, sounds = shards
    soundfile.write(tmp_path / "x.wav", sounds["id1-a"], 16000)
    subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "x.wav", tmp_path / "x.m4a"], check=True)
    shard(tmp_path / "0.tar", [("z.m4a", b"not audio"), ("a.m4a", (tmp_path / "x.m4a").read_bytes())])
    path.write_text("0.tar\n")
    broken, whole = read_manifest(path)
    np.testing.assert_array_equal(reading.read(whole.path), reading.read(tmp_path / "x.m4a"))
    with pytest.raises(InputError, match=r"0\.tar:512:9: is no recording but text"):
        reading.info(broken.path)


def test_broken_shards_are_named_with_their_line(shards: Shards) -> None:
    path, _ = shards
    folder = path.parent
    whole = (folder / "1.tar").read_bytes()
    (folder / "cut.tar").write_bytes(whole[:10000])
    (folder / "header.tar").write_bytes(whole[:20000])
    (folder / "other.tar").write_text("no archive" * 100)
    shard(folder / "empty.tar", [("a.spk", b"a")])
    with tarfile.open(folder / "zipped.tar", "w:gz") as archive:
        archive.add(folder / "0.tar")
    path.write_text("0.tar\ncut.tar\nother.tar\nempty.tar\nabsent.tar\n")
    with pytest.raises(InputError) as caught:
        read_manifest(path)
    told = str(caught.value)
    assert told.startswith(f"{path}: 4 wrong rows: line 2: {folder / 'cut.tar'}: cut off within id1-b.wav")
    for line, why in ((3, "not an uncompressed tar"), (4, "no recordings"), (5, "No such file")):
        assert re.search(rf"line {line}: [^;]*{why}", told), told
    path.write_text("0.tar\nheader.tar\nzipped.tar\n")
    with pytest.raises(
        InputError, match=r"line 2: .*header.tar:19968:512: cut off.*line 3: .*not an uncompr"
    ):
        read_manifest(path)


def test_a_part_of_an_archive_that_changed(shards: Shards) -> None:
    path, _ = shards
    found = read_manifest(path)[0]
    (path.parent / "0.tar").write_bytes((path.parent / "0.tar").read_bytes()[:3000])
    with pytest.raises(InputError, match="cut off: 1464 of"):
        reading.read(found.path)
    (path.parent / "0.tar").unlink()
    with pytest.raises(InputError, match="no such file"):
        reading.read(found.path)


def cut(**changes: Any) -> dict[str, Any]:
    """Return a cut as Lhotse 1.2x writes it."""
    recording = {
        "id": "rec",
        "sources": [{"type": "file", "channels": [0], "source": "wav/rec.flac"}],
        "sampling_rate": 16000,
        "num_samples": 160000,
        "duration": 10.0,
        "channel_ids": [0],
    }
    supervision = {
        "id": "sup",
        "recording_id": "rec",
        "start": 0.0,
        "duration": 2.5,
        "channel": 0,
        "text": "hello",
        "speaker": "ann",
    }
    row = {"id": "rec-0", "start": 1.25, "duration": 2.5, "channel": 0, "type": "MonoCut"}
    row |= {"supervisions": [supervision], "recording": recording | changes.pop("recording", {})}
    return row | changes


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_lhotse_cuts(name: str, tmp_path: Path) -> None:
    changed = cut(id="b", supervisions=[], recording={"transforms": [{"name": "Resample", "kwargs": {}}]})
    text = "".join(json.dumps(row) + "\n" for row in (cut(), changed)).encode()
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    assert list(read_manifest(tmp_path / name, "/corpus")) == [
        Utterance("rec-0", "/corpus/wav/rec.flac", "ann", 1.25, 2.5),
        Utterance("b", "/corpus/wav/rec.flac", "", 1.25, 2.5),
    ]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (cut(type="MixedCut", tracks=[]), "a MixedCut"),
        (
            cut(recording={"sources": [{"type": "command", "channels": [0], "source": "touch x"}]}),
            "found command",
        ),
        (cut(recording={"sources": [{"type": "url", "channels": [0], "source": "s3://x"}]}), "found url"),
        (
            cut(recording={"sources": [{"type": "file", "channels": [0, 1], "source": "x"}]}, channel=2),
            r"channel 2 of a recording with the channels \[0, 1\]",
        ),
        (cut(recording={"transforms": [{"name": "Speed", "kwargs": {"factor": 1.1}}]}), "changed by Speed"),
        (cut(supervisions=[{"speaker": "ann"}, {"speaker": "bob"}]), "2 speakers in one cut"),
        (cut(duration=0.0), "positive length"),
        (cut(start="soon"), "expected a JSON object"),
        ({"id": "a", "recording": {"id": "a"}, "duration": 1}, "expected a JSON object"),
    ],
)
def test_broken_cuts_are_named_with_their_line(row: object, why: str, tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl"
    path.write_text(json.dumps(cut()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"cuts\.jsonl: 1 wrong row: line 2: .*{why}"):
        read_manifest(path)


def test_cuts_in_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(cut()).encode())[:-9])
    with pytest.raises(InputError, match=r"cuts\.jsonl\.gz: damaged"):
        read_manifest(path)
    path.write_text("not zipped\n")
    with pytest.raises(InputError, match=r"cuts\.jsonl\.gz: damaged"):
        read_manifest(path)


def test_rttm(tmp_path: Path) -> None:
    path = tmp_path / "meeting.rttm"
    path.write_text(
        "SPKR-INFO meeting 1 <NA> <NA> <NA> unknown ann <NA> <NA>\n"
        "SPEAKER meeting 1 0.50 1.25 <NA> <NA> ann <NA> <NA>\n"
        "SPEAKER meeting 1 1.75 2.00 <NA> <NA> bob <NA> <NA>\n"
    )
    with pytest.raises(InputError, match=r"0 files named meeting\.\*"):
        read_manifest(path)
    soundfile.write(tmp_path / "meeting.flac", np.zeros(64000), 16000)
    reading = str(tmp_path / "meeting.flac")
    assert list(read_manifest(path)) == [
        Utterance("meeting-0000500-0001750-ann", reading, "ann", 0.5, 1.25, 1),
        Utterance("meeting-0001750-0003750-bob", reading, "bob", 1.75, 2.0, 1),
    ]


def test_embed_takes_them_and_score_takes_the_tables(
    tiny_model: Path, tiny_corpus: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "kaldi"
    folder.mkdir()
    names = [f"spk{s}-{n}" for s in (0, 1) for n in (0, 1)]
    (folder / "wav.scp").write_text("".join(f"{n} {tiny_corpus / n.replace('-', '/')}.wav\n" for n in names))
    (tmp_path / "trials").write_text(f"{names[0]} {names[1]} target\n{names[0]} {names[2]} nontarget\n")
    scores = []
    for table in ("e.npz", "e.ark", "e.parquet"):
        out = tmp_path / table
        assert main(["embed", "--manifest", str(folder), "--model", str(tiny_model), "--out", str(out)]) == 0
        arguments = [str(tmp_path / "trials"), "--embeddings", str(out), "--bootstrap", "0"]
        assert main(["score", *arguments, "--out-scores", str(tmp_path / "s")]) == 0
        scores.append((tmp_path / "s").read_text())
    assert scores[0] == scores[1] == scores[2]


def test_train_takes_every_list_that_embed_takes(
    tiny_recipe: Recipe, tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kaldi's folder with segments stands for all: one reader serves both."""
    folder, model = tmp_path / "kaldi", tmp_path / "model"
    folder.mkdir()
    names = [f"spk{s}-{n}" for s in range(3) for n in range(2)]
    (folder / "wav.scp").write_text("".join(f"{n} {n.replace('-', '/')}.wav\n" for n in names))
    (folder / "segments").write_text("".join(f"{n}-0 {n} 0.1 0.9\n" for n in names))
    (tmp_path / "tiny.toml").write_text(format_toml(to_dict(tiny_recipe)))
    command = ["train", str(tmp_path / "tiny.toml"), "--out", str(model), "--set", "train.epochs=0.5"]
    command += ["--manifest", str(folder), "--audio-root", str(tiny_corpus)]
    assert main(command) == 2
    assert "6 of 6 utterances have no speaker, 'spk0-0-0' the first" in capsys.readouterr().err
    (folder / "utt2spk").write_text("".join(f"{n}-0 {n[:4]}\n" for n in names))
    assert main(command) == 0
    assert read_model_folder(model).speakers[:3] == ["spk0", "spk1", "spk2"]
