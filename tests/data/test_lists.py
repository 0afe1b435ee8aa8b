"""Trial lists, score files, manifests and embedding tables: what is read, and what is refused."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from speakerverif.data import _rows, _text
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.data.scores import ScoreList
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

ROWS = [(1, "a/1.wav", "a/2.wav"), (0, "a/1.wav", "b/1.wav"), (0, "b/1.wav", "c/1.wav")]
VOXCELEB = "".join(f"{label} {enroll} {test}\n" for label, enroll, test in ROWS)
KALDI = "".join(f"{enroll} {test} {'target' if label else 'nontarget'}\n" for label, enroll, test in ROWS)


def read(tmp_path: Path, text: str | bytes) -> TrialList:
    path = tmp_path / "trials.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return TrialList.read(path)


def rows(trials: TrialList) -> list[tuple[int, str, str]]:
    assert trials.labels is not None
    return list(zip(trials.labels.astype(int).tolist(), trials.enroll_ids(), trials.test_ids(), strict=True))


@pytest.mark.parametrize(
    "text",
    [
        VOXCELEB,
        KALDI,
        VOXCELEB.replace("\n", "\r\n"),
        VOXCELEB.replace(" ", "\t") + "\n  \n\n",
        "\ufeff" + VOXCELEB,
        VOXCELEB.rstrip("\n"),
        "\n" + KALDI,
    ],
    ids=["voxceleb", "kaldi", "crlf", "tabs and blank lines", "bom", "no last newline", "blank first line"],
)
def test_every_spelling_of_a_list_reads_alike(tmp_path: Path, text: str) -> None:
    trials = read(tmp_path, text)
    assert rows(trials) == ROWS
    assert trials.sha256 == hashlib.sha256(text.encode()).hexdigest()


def test_a_list_without_labels(tmp_path: Path) -> None:
    trials = read(tmp_path, "a b\nc d\n")
    assert trials.labels is None
    assert trials.enroll_ids() == ["a", "c"]


def test_reading_does_not_depend_on_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    text = "".join(f"{rng.integers(2)} f{rng.integers(50)} g{rng.integers(50)}\n" for _ in range(500))
    whole = read(tmp_path, text)
    monkeypatch.setattr(_text, "BLOCK_BYTES", 100)
    blocks = read(tmp_path, text)
    assert rows(blocks) == rows(whole)
    assert blocks.sha256 == whole.sha256
    with pytest.raises(InputError, match=r"1 wrong row: line 501: 2 columns"):
        read(tmp_path, text + "1 f1\n")


def test_distinct_texts_against_numpy() -> None:
    rng = np.random.default_rng(0)
    for width, size in ((8, 0), (8, 1), (16, 500), (40, 3000)):
        texts = np.array(
            [b"x" * rng.integers(1, width) + b"%d" % rng.integers(9) for _ in range(size)], f"S{width}"
        )
        names, which = _rows.distinct(texts)
        assert (names[which] == texts).all()
        assert names.tolist() == list(dict.fromkeys(texts.tolist()))


def test_texts_that_share_a_hash_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    # A multiplier of 0 gives every text the hash 0.
    monkeypatch.setattr(_rows, "_HASH_FACTOR", np.uint64(0))
    texts = np.array([b"b", b"a", b"b", b"c"], "S8")
    names, which = _rows.distinct(texts)
    assert names.tolist() == [b"b", b"a", b"c"]
    assert which.tolist() == [0, 1, 0, 2]


def test_a_field_beyond_all_measure_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="line 4: a field of 5,000 bytes"):
        read(tmp_path, VOXCELEB + f"1 a {'b' * 5000}\n")


def test_written_lists_read_back(tmp_path: Path) -> None:
    trials = read(tmp_path, KALDI)
    trials.write(tmp_path / "again.txt")
    assert (tmp_path / "again.txt").read_text() == VOXCELEB


def test_all_wrong_rows_are_reported_together(tmp_path: Path) -> None:
    text = VOXCELEB + "2 a b\n1 a\n1 a b c\na b target\n"
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert "4 wrong rows" in message
    assert "line 4: expected 0 or 1" in message
    assert "line 5: 2 columns, expected 3" in message
    assert "line 6: 4 columns, expected 3" in message
    assert "line 7: expected 0 or 1" in message
    assert "\n" not in message


def test_many_wrong_rows_are_counted_and_the_first_shown(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"20 wrong rows: line 28: .*; and 15 more") as caught:
        read(tmp_path, VOXCELEB * 9 + "7 a b\n" * 20)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("\n \n", "the file is empty"),
        ("1 a target\n", "could be either"),
        ("yes a b\n", "is neither"),
        ("a\nb\n", "most rows have 1 columns"),
        ("1 \xff b\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, text: str | bytes, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        read(tmp_path, text)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        TrialList.read(tmp_path / "none.txt")
    with pytest.raises(InputError, match="is a folder"):
        TrialList.read(tmp_path)


def scored(tmp_path: Path, text: str, trials: str = VOXCELEB) -> list[float]:
    (tmp_path / "scores.txt").write_text(text)
    values: list[float] = ScoreList.read(tmp_path / "scores.txt", read(tmp_path, trials)).scores.tolist()
    return values


def test_scores_match_by_pair_in_any_order_and_layout(tmp_path: Path) -> None:
    lines = ["a/1.wav a/2.wav 0.5", "a/1.wav b/1.wav -1e-3", "b/1.wav c/1.wav 3", "x y 9"]
    swapped = [f"{line.split()[2]} {line.split()[0]} {line.split()[1]}" for line in lines]
    expected = [0.5, -0.001, 3.0]
    assert scored(tmp_path, "\n".join(lines)) == expected
    assert scored(tmp_path, "\n".join(reversed(lines))) == expected
    assert scored(tmp_path, "\n".join(swapped)) == expected


def test_scores_of_numeric_ids_are_told_from_the_ids(tmp_path: Path) -> None:
    assert scored(tmp_path, "17 18 0.25\n17 19 0.5\n", "1 17 18\n0 17 19\n") == [0.25, 0.5]
    assert scored(tmp_path, "0.25 17 18\n0.5 17 19\n", "1 17 18\n0 17 19\n") == [0.25, 0.5]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/1.wav a/2.wav 0.5\n", r"no score for 2 trials.*a/1.wav b/1.wav, b/1.wav c/1.wav"),
        (
            "a/1.wav a/2.wav nan\na/1.wav b/1.wav inf\nb/1.wav c/1.wav 1\n",
            r"2 wrong rows: line 1: .*; line 2: ",
        ),
        (
            "a/1.wav a/2.wav x\na/1.wav b/1.wav 1\nb/1.wav c/1.wav 1_0\n",
            r"line 1: .*line 3: .*not a finite number",
        ),
        ("a/1.wav a/2.wav\na/1.wav b/1.wav 1\n", r"line 1: 2 columns, expected 3"),
        ("a/1.wav a/2.wav 1\na/1.wav a/2.wav 2\na/1.wav b/1.wav 1\nb/1.wav c/1.wav 1\n", "different scores"),
        ("a b c\n", "expected 'enroll test score'"),
        ("", "empty"),
    ],
)
def test_score_files_that_are_refused(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        scored(tmp_path, text)


def test_scores_of_no_trial_are_counted(tmp_path: Path) -> None:
    text = "a b 1\na/2.wav a/1.wav 2\na/1.wav a/2.wav 3\na/1.wav b/1.wav 4\nb/1.wav c/1.wav 5\n"
    (tmp_path / "scores.txt").write_text(text)
    assert ScoreList.read(tmp_path / "scores.txt", read(tmp_path, VOXCELEB)).extra == 2


def test_written_scores_read_back_exactly(tmp_path: Path) -> None:
    trials = read(tmp_path, VOXCELEB)
    scores = ScoreList(trials, np.array([1 / 3, np.pi * 1e-12, -2.0]))
    scores.write(tmp_path / "s.txt")
    assert ScoreList.read(tmp_path / "s.txt", trials).scores.tolist() == scores.scores.tolist()


def test_a_score_list_refuses_what_is_no_score(tmp_path: Path) -> None:
    trials = read(tmp_path, VOXCELEB)
    with pytest.raises(InputError, match=r"1 scores are not finite numbers: a/1.wav b/1.wav: nan"):
        ScoreList(trials, np.array([1.0, np.nan, 2.0]))
    with pytest.raises(InputError, match="not one of cosine"):
        ScoreList(trials, np.zeros(3), "distance")  # type: ignore[arg-type]


@pytest.mark.corpus
def test_shared_lists(shared: Path) -> None:
    trials = TrialList.read(shared / "voxceleb" / "veri_test.txt")
    assert trials.labels is not None
    assert (len(trials), len(trials.ids), int(trials.labels.sum())) == (37720, 4715, 18860)
    assert trials.sha256.startswith("303b2b65")
    assert trials.sha256.endswith("bd5976")


UTTERANCES = [
    Utterance("b/1", "audio/b 1.wav", "bob"),
    Utterance("a/1", "/elsewhere/a.wav", "anne", 1.5, 2.25),
    Utterance("ä/2", "audio/ä.wav", "anne", 0.0, 3.0),
]


def test_manifest_round_trip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = Manifest.from_utterances(UTTERANCES)
    assert list(manifest) == UTTERANCES
    assert manifest.speakers == ["anne", "bob"]
    assert manifest.speaker_index.tolist() == [1, 0, 0]
    manifest.write(tmp_path / "m.tsv")
    assert "audio/b 1.wav" in (tmp_path / "m.tsv").read_text().splitlines()[1].split("\t")
    again = Manifest.read(tmp_path / "m.tsv")
    assert [u.path for u in again] == [
        f"{tmp_path}/audio/b 1.wav",
        "/elsewhere/a.wav",
        f"{tmp_path}/audio/ä.wav",
    ]
    assert [(u.id, u.speaker, u.start_s, u.duration_s) for u in again] == [
        (u.id, u.speaker, u.start_s, u.duration_s) for u in UTTERANCES
    ]


def test_a_manifest_names_channels_only_where_an_utterance_does(tmp_path: Path) -> None:
    both = [Utterance("u1", "call.wav", "s", channel=1), Utterance("u2", "call.wav", "t", 1.5, 2.0, 2)]
    manifest = Manifest.from_utterances([*both, Utterance("u3", "mono.wav", "s")])
    manifest.write(tmp_path / "m.tsv")
    assert (tmp_path / "m.tsv").read_text().splitlines()[0].endswith("\tchannel")
    assert [u.channel for u in Manifest.read(tmp_path / "m.tsv")] == [1, 2, None]
    assert [u.channel for u in manifest.select(np.array([2, 1]))] == [None, 2]
    assert [u.channel for u in Manifest.join([manifest])] == [1, 2, None]
    manifest.select(np.array([2])).write(tmp_path / "plain.tsv")
    assert (tmp_path / "plain.tsv").read_text().splitlines()[0] == "id\tpath\tspeaker\tstart_s\tduration_s"


@pytest.mark.parametrize("channel", ["0", "-1", "1.5", "left", "nan", "inf", "99999", "1e300"])
def test_what_is_no_channel(tmp_path: Path, channel: str) -> None:
    (tmp_path / "m.tsv").write_text(f"id\tpath\tspeaker\tchannel\na\tx\ts\t2\nb\ty\ts\t{channel}\n")
    with pytest.raises(InputError, match="line 3: channel is not a whole number from 1 to 1024"):
        Manifest.read(tmp_path / "m.tsv")


def test_manifest_selects_by_mask_and_by_index() -> None:
    manifest = Manifest.from_utterances(UTTERANCES)
    assert list(manifest.select(np.array([True, False, True]))) == [UTTERANCES[0], UTTERANCES[2]]
    picked = manifest.select(np.array([2, 1]))
    assert list(picked) == [UTTERANCES[2], UTTERANCES[1]]
    assert picked.speakers == ["anne"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("id\tpath\n", ":1: expected the header"),
        ("id\tpath\tspeaker\n", "no utterances"),
        ("id\tpath\tspeaker\na\tx.wav\ts\nb\ty.wav\ts\na\tz.wav\ts\n", "'a' is repeated: lines 2 and 4"),
        ("id\tpath\tspeaker\na\tx.wav\nb\ty.wav\ts\n", "1 wrong row: line 2: 2 columns, expected 3"),
        ("id\tpath\tspeaker\tduration_s\na\tx\ts\tlong\n", "line 2: duration_s is not a number of seconds"),
        ("id\tpath\tspeaker\tduration_s\na\tx\ts\t-1\n", "line 2: duration_s is not a number of seconds"),
        ("id\tpath\tspeaker\n\tx.wav\ts\n", "line 2: empty id or path"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, body: str, expected: str) -> None:
    (tmp_path / "m.tsv").write_text(body)
    with pytest.raises(InputError, match=expected):
        Manifest.read(tmp_path / "m.tsv")


def test_reading_a_manifest_does_not_depend_on_the_block_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small blocks, Windows line ends, blank lines and a missing last line feed give the same utterances."""
    rng = np.random.default_rng(0)
    utterances = [
        Utterance(
            f"s{n % 7}/{n}", f"/a b/{'x' * rng.integers(1, 30)}{n}.wav", f"s{n % 7}", n / 8, n / 4 or None
        )
        for n in range(200)
    ]
    Manifest.from_utterances(utterances).write(tmp_path / "m.tsv")
    whole = Manifest.read(tmp_path / "m.tsv")
    assert list(whole) == utterances and whole.speaker_index.dtype == np.int64
    text = (tmp_path / "m.tsv").read_bytes()
    (tmp_path / "m.tsv").write_bytes(b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n \t\r\n\r\n").rstrip())
    monkeypatch.setattr(_text, "BLOCK_BYTES", 100)
    assert list(Manifest.read(tmp_path / "m.tsv")) == utterances
    (tmp_path / "m.tsv").write_bytes(text + b"s0/7\tx.wav\ts0\t0\t\n")
    with pytest.raises(InputError, match="'s0/7' is repeated: lines 9 and 202"):
        Manifest.read(tmp_path / "m.tsv")
    (tmp_path / "m.tsv").write_bytes(text + b"long\t" + b"x" * 1025 + b"\ts0\t0\t\n")
    with pytest.raises(InputError, match="a field of 1,025 bytes"):
        Manifest.read(tmp_path / "m.tsv")


def table(ids: list[str]) -> EmbeddingTable:
    n = len(ids)
    embeddings = np.arange(n * 4, dtype=np.float32).reshape(n, 4)
    return EmbeddingTable(ids, embeddings, np.ones(n, np.float32), np.ones(n, np.float32), ["ok"] * n, "f00d")


def test_embedding_table_round_trip(tmp_path: Path) -> None:
    written = table(["a/1", "b/ü"])
    written.save(tmp_path / "e.npz")
    again = EmbeddingTable.load(tmp_path / "e.npz")
    assert list(again.ids) == ["a/1", "b/ü"]
    assert again.embeddings.tolist() == written.embeddings.tolist()
    assert again.embeddings.dtype == np.float32
    assert (list(again.status), again.fingerprint) == (["ok", "ok"], "f00d")
    with np.load(tmp_path / "e.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["durations", "embeddings", "fingerprint", "ids", "speech", "status"]


def test_embedding_table_names_all_missing_ids_at_once() -> None:
    assert table(["a", "b"]).rows_of(["b", "a", "b"]).tolist() == [1, 0, 1]
    with pytest.raises(InputError, match=r"no embedding for 2 files: x, y"):
        table(["a", "b"]).rows_of(["a", "x", "y", "x"])


def test_embedding_files_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "e.npz"
    path.write_text("not a zip")
    with pytest.raises(InputError, match=r"expected an \.npz file"):
        EmbeddingTable.load(path)
    np.savez(path, ids=np.array(["a"], object), embeddings=np.zeros((1, 2)))
    with pytest.raises(InputError, match="plain arrays"):
        EmbeddingTable.load(path)
    np.savez(path, ids=np.array(["a", "b"]), embeddings=np.zeros((1, 2)))
    with pytest.raises(InputError, match=r"expected embeddings \(N, dim\)"):
        EmbeddingTable.load(path)
    np.savez(path, ids=np.array(["a", "a"]), embeddings=np.zeros((2, 2)))
    with pytest.raises(InputError, match="is repeated"):
        EmbeddingTable.load(path)
    np.savez(path, names=np.array(["a"]))
    with pytest.raises(InputError, match="no array named ids or embeddings"):
        EmbeddingTable.load(path)


def test_a_failed_write_leaves_the_former_file(tmp_path: Path) -> None:
    path = tmp_path / "m.tsv"
    path.write_text("precious")
    with pytest.raises(InputError, match="a tab"):
        Manifest.from_utterances([Utterance("a\tb", "x.wav", "s")]).write(path)
    assert path.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [path]
