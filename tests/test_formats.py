"""Lists and tables of other toolkits come in and go out unchanged, and nothing in them is executed."""

import json

import kaldiio
import numpy as np
import pytest
import soundfile

from speakerverif.cli import main
from speakerverif.errors import InputError
from speakerverif.formats.manifests import read_manifest
from speakerverif.formats.tables import read_table, write_table
from speakerverif.lists import EmbeddingTable, Utterance


@pytest.fixture
def table() -> EmbeddingTable:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal((3, 5)).astype(np.float32)
    return EmbeddingTable(
        ["a/1.wav", "b", "c-é"], numbers, *np.ones((2, 3), np.float32), ["ok"] * 3, "0123456789abcdef"
    )


def same(found: EmbeddingTable, table: EmbeddingTable) -> None:
    assert list(found.ids) == list(table.ids)
    np.testing.assert_array_equal(found.embeddings, table.embeddings)


def test_kaldi_archives(table, tmp_path):
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


def test_an_index_moves_with_its_archive(table, tmp_path):
    (tmp_path / "a").mkdir()
    write_table(table, tmp_path / "a" / "e.ark")
    (tmp_path / "a").rename(tmp_path / "b")
    same(read_table(tmp_path / "b" / "e.scp"), table)


def test_parquet(table, tmp_path):
    write_table(table, tmp_path / "e.parquet")
    found = read_table(tmp_path / "e.parquet")
    same(found, table)
    assert found.fingerprint == table.fingerprint
    np.testing.assert_array_equal(found.durations, table.durations)
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "e.parquet").num_rows == 3


def test_damaged_tables_are_named(table, tmp_path):
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


def test_an_index_runs_no_command(tmp_path):
    (tmp_path / "e.scp").write_text(f"a touch {tmp_path}/executed |\n")
    with pytest.raises(InputError, match="archive:offset"):
        read_table(tmp_path / "e.scp")
    assert not (tmp_path / "executed").exists()


@pytest.fixture
def kaldi(tmp_path):
    folder = tmp_path / "kaldi"
    folder.mkdir()
    (folder / "wav.scp").write_text("r1 wav/one.wav\nr2  wav/with space.wav\n")
    (folder / "wav").mkdir()
    for name in ("one", "with space"):
        soundfile.write(folder / "wav" / f"{name}.wav", np.zeros(16000), 16000)
    (folder / "utt2spk").write_text("r1 ann\nr2 bob\nu1 ann\nu2 bob\n")
    return folder


def test_kaldi_folder(kaldi):
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


def test_a_kaldi_folder_runs_no_command(kaldi, tmp_path):
    (kaldi / "wav.scp").write_text(f"r1 touch {tmp_path}/executed |\nr2\n")
    with pytest.raises(InputError, match="a command, which is not run"):
        read_manifest(kaldi)
    assert not (tmp_path / "executed").exists()


def test_paths_from_the_current_folder(kaldi, monkeypatch, tmp_path):
    (kaldi / "wav.scp").write_text("r1 kaldi/wav/one.wav\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest(kaldi)[0].path == "kaldi/wav/one.wav"
    assert read_manifest(kaldi, audio_root="/corpus")[0].path == "/corpus/kaldi/wav/one.wav"


def test_speechbrain_csv(tmp_path):
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


def test_wespeaker_raw_list(tmp_path):
    path = tmp_path / "raw.list"
    path.write_text(json.dumps({"key": "id1/a", "wav": "/c/a.wav", "spk": "id1"}) + "\n\n")
    assert list(read_manifest(path)) == [Utterance("id1/a", "/c/a.wav", "id1")]
    path.write_text('{"key": "a"}\nnot json\n')
    with pytest.raises(InputError, match="2 wrong rows"):
        read_manifest(path)


def test_rttm(tmp_path):
    path = tmp_path / "meeting.rttm"
    path.write_text(
        "SPKR-INFO meeting 1 <NA> <NA> <NA> unknown ann <NA> <NA>\n"
        "SPEAKER meeting 1 0.50 1.25 <NA> <NA> ann <NA> <NA>\n"
        "SPEAKER meeting 1 1.75 2.00 <NA> <NA> bob <NA> <NA>\n"
    )
    with pytest.raises(InputError, match=r"0 files named meeting\.\*"):
        read_manifest(path)
    soundfile.write(tmp_path / "meeting.flac", np.zeros(64000), 16000)
    audio = str(tmp_path / "meeting.flac")
    assert list(read_manifest(path)) == [
        Utterance("meeting-0000500-0001750-ann", audio, "ann", 0.5, 1.25),
        Utterance("meeting-0001750-0003750-bob", audio, "bob", 1.75, 2.0),
    ]


def test_embed_takes_them_and_score_takes_the_tables(tiny_model, tiny_corpus, tmp_path):
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
