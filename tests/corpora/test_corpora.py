"""Corpora: both layouts of speechocean762, MUSAN, RIRS_NOISES, and what is said where something is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.audio import reading
from speakerverif.audio.augment import Recordings, read_recording
from speakerverif.corpora import musan, rirs, speechocean762
from speakerverif.corpora._prepared import Prepared, balanced_trials, durations, kaldi_table, recordings_in
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError

TRAIN_SPEAKERS, TEST_SPEAKERS, EACH = ("0001", "0005"), ("0003", "0044", "0092", "0094", "0111"), 3


def wav(path: Path, seconds: float = 0.1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.full(int(16000 * seconds), 0.1), 16000)
    return path


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """A small speechocean762 as it is distributed."""
    root = tmp_path / "speechocean762"
    for split, speakers in (("train", TRAIN_SPEAKERS), ("test", TEST_SPEAKERS)):
        (root / split).mkdir(parents=True)
        utterances = [
            (f"{s}0{u:03d}", s, f"WAVE/SPEAKER{s}/{s}0{u:03d}.WAV") for s in speakers for u in range(EACH)
        ]
        for _, _, path in utterances:
            wav(root / path)
        # The corpus separates by tabs in some tables and spaces in others.
        (root / split / "wav.scp").write_text("".join(f"{u}\t{path}\n" for u, _, path in utterances))
        (root / split / "utt2spk").write_text("".join(f"{u} {s}\n" for u, s, _ in utterances))
        genders = zip(speakers, "mmfmf", strict=False)
        ages = zip(speakers, (6, 20, 8, 23, 13), strict=False)
        (root / split / "spk2gender").write_text("".join(f"{s} {g}\n" for s, g in genders))
        (root / split / "spk2age").write_text("".join(f"{s}\t{a}\n" for s, a in ages))
    return root


def speaker(path: str) -> str:
    return path.split("/")[1].removeprefix("SPEAKER")


def pairs(trials: TrialList) -> list[tuple[str, str, bool]]:
    assert trials.labels is not None
    return list(zip(trials.enroll_ids(), trials.test_ids(), trials.labels.tolist(), strict=True))


def test_the_original_layout_gets_dev_and_seeded_trials(original: Path, tmp_path: Path) -> None:
    prepared = speechocean762.prepare(original, tmp_path / "out")
    train, dev = Manifest.read(prepared.train), Manifest.read(tmp_path / "out" / "dev.tsv")
    assert train.speakers == [f"SPEAKER{s}" for s in TRAIN_SPEAKERS]
    assert dev.speakers == ["SPEAKER0003", "SPEAKER0092", "SPEAKER0111"]  # every second, from the first
    assert train[0].id == "WAVE/SPEAKER0001/00010000.WAV"
    assert Path(train[0].path) == original / train[0].id and train[0].duration_s == pytest.approx(0.1)
    assert prepared.audio_root == original

    trials = pairs(TrialList.read(prepared.trials["trials"]))
    # 3 speakers have 3 pairs each: 9 targets and 9 of the 27 non-targets.
    assert sorted(label for *_, label in trials) == [False] * 9 + [True] * 9
    assert len({frozenset(pair[:2]) for pair in trials}) == 18
    assert all((speaker(enroll) == speaker(test)) == label for enroll, test, label in trials)
    assert any("made here with seed 0" in note for note in prepared.notes)
    assert any("found 2 speakers, 6 utterances" in note for note in prepared.notes)
    record = json.loads((tmp_path / "out" / "prepare.json").read_text())
    assert (
        record["found"]["dev"] == {"speakers": 3, "utterances": 9}
        and record["expected"]["dev"]["speakers"] == 63
    )


def test_hard_nontargets_are_alike(original: Path, tmp_path: Path) -> None:
    # dev holds 0003 (m, 6), 0092 (f, 8) and 0111 (f, 13).
    prepared = speechocean762.prepare(original, tmp_path / "out")
    hard = pairs(TrialList.read(prepared.trials["trials_hard"]))
    assert len(hard) == 18
    assert {frozenset((speaker(a), speaker(b))) for a, b, label in hard if not label} == {
        frozenset(("0092", "0111"))
    }


def test_a_list_without_pairs_is_refused(original: Path, tmp_path: Path) -> None:
    (original / "test" / "spk2age").write_text("0003 6\n0044 20\n0092 8\n0094 23\n0111 14\n")
    with pytest.raises(InputError, match="trials_hard: 9 utterances give 9 target and 0 non-target pairs"):
        speechocean762.prepare(original, tmp_path / "out")


def test_another_seed_draws_other_trials(original: Path, tmp_path: Path) -> None:
    lists = [
        speechocean762.prepare(original, tmp_path / str(n), seed=s).trials for n, s in enumerate((1, 1, 2))
    ]
    first, again, other = (chosen["trials"].read_bytes() for chosen in lists)
    assert first == again != other


def test_the_given_layout_keeps_its_lists_byte_by_byte(original: Path, tmp_path: Path) -> None:
    (original / "test").rename(original / "dev")
    a, b, c = (f"WAVE/SPEAKER{s}/{s}0000.WAV" for s in ("0003", "0003", "0044"))
    for name in ("trials", "trials_hard"):
        (original / "dev" / f"{name}.txt").write_text(f"1 {a} {b}\n0 {a}  {c}\n")
    prepared = speechocean762.prepare(original, tmp_path / "out")
    assert prepared.trials["trials"].read_text() == f"1 {a} {b}\n0 {a}  {c}\n"
    assert Manifest.read(tmp_path / "out" / "dev.tsv").speakers == [f"SPEAKER{s}" for s in TEST_SPEAKERS]
    assert not any("made here" in note for note in prepared.notes)

    (original / "dev" / "trials.txt").write_text(f"1 {a} elsewhere.wav\n")
    with pytest.raises(InputError, match=r"trials\.txt: 1 files that dev/wav\.scp doesn't have.*elsewhere"):
        speechocean762.prepare(original, tmp_path / "out")


def test_bad_audio_is_listed_together(original: Path, tmp_path: Path) -> None:
    (original / "WAVE/SPEAKER0001/00010000.WAV").unlink()
    (original / "WAVE/SPEAKER0003/00030001.WAV").write_bytes(b"")
    (original / "WAVE/SPEAKER0003/00030002.WAV").write_bytes(b"not a recording")
    with pytest.raises(InputError) as caught:
        speechocean762.prepare(original, tmp_path / "out")
    message = str(caught.value)
    assert message.startswith("3 of 15 audio files can't be used")
    for part in ("1 missing", "1 empty", "1 unreadable", "00010000.WAV (missing)", "00030001.WAV (empty)"):
        assert part in message
    assert not (tmp_path / "out" / "train.tsv").exists()


def test_a_folder_too_high_is_told_where_to_look(original: Path, tmp_path: Path) -> None:
    for folder in (original.parent, original / "WAVE"):
        with pytest.raises(InputError, match=f"not speechocean762.*expected WAVE/.*{original} looks like it"):
            speechocean762.prepare(folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("table", "text", "message"),
    [
        ("utt2spk", "00010000 0001\n", "5 utterances in only one"),
        ("utt2spk", "00010000 0001\n00010000 0001\n", r"utt2spk:2: found '00010000 0001'"),
        ("wav.scp", "00010000\n", r"wav\.scp:1: found '00010000'"),
    ],
)
def test_wrong_tables_are_named(original: Path, tmp_path: Path, table: str, text: str, message: str) -> None:
    (original / "train" / table).write_text(text)
    with pytest.raises(InputError, match=message):
        speechocean762.prepare(original, tmp_path / "out")


@pytest.mark.corpus
def test_the_shared_corpus_is_complete(shared: Path, tmp_path: Path) -> None:
    root = shared / "corpora" / "speechocean762"
    prepared = speechocean762.prepare(root, tmp_path)
    assert prepared.notes == []
    assert (len(Manifest.read(prepared.train)), len(Manifest.read(tmp_path / "dev.tsv"))) == (2500, 1260)
    for name, path in prepared.trials.items():
        assert path.read_bytes() == (root / "dev" / f"{name}.txt").read_bytes()


def test_balanced_trials_never_repeat_or_mirror_a_pair() -> None:
    speakers = np.arange(12) // 4
    same = speakers[:, None] == speakers
    drawn = balanced_trials("abcdefghijkl", same, ~same, 20, np.random.default_rng(0), "toy")
    trials = pairs(drawn)
    assert len({frozenset(pair[:2]) for pair in trials}) == len(trials) == 20
    assert sum(label for *_, label in trials) == 10
    assert {bool(a < b) for a, b, _ in trials} == {True, False}  # sides are drawn, too
    assert all(same["abcdefghijkl".index(a), "abcdefghijkl".index(b)] == label for a, b, label in trials)


def test_durations_come_from_the_headers(tmp_path: Path) -> None:
    paths = [wav(tmp_path / f"{n}.wav", n / 10) for n in (1, 5, 3)]
    assert durations(paths) == pytest.approx([0.1, 0.5, 0.3])


def test_musan_becomes_lists_that_augmentation_reads(tmp_path: Path) -> None:
    root = tmp_path / "musan"
    for name in ("music/fma/m1", "noise/free-sound/n1", "noise/sound-bible/n2", "speech/librivox/s1"):
        wav(root / f"{name}.wav")
    prepared = musan.prepare(root, tmp_path / "out")
    recordings = Recordings(prepared.lists["noise"], 16000, read_recording)
    assert [Path(path).name for path in recordings.paths] == ["n1.wav", "n2.wav"]
    assert "noise: found 2 recordings, the corpus has 930" in prepared.notes
    shutil.rmtree(root / "music")
    with pytest.raises(InputError, match=r"no WAV files in music/.*expected music/fma"):
        musan.prepare(root, tmp_path / "out")
    with pytest.raises(InputError, match=f"{root} looks like it"):
        musan.prepare(tmp_path, tmp_path / "out")


def test_rirs_are_those_of_the_corpus_lists_and_not_its_noises(tmp_path: Path) -> None:
    root = tmp_path / "renamed"
    for name in ("real_rirs_isotropic_noises/air_rir", "simulated_rirs/smallroom/Room001/Room001-00001"):
        wav(root / f"{name}.wav")
    wav(root / "real_rirs_isotropic_noises/some_noise.wav")
    (root / "real_rirs_isotropic_noises/rir_list").write_text(
        "--rir-id 1 --room-id 1 RIRS_NOISES/real_rirs_isotropic_noises/air_rir.wav\n"
    )
    (root / "simulated_rirs/smallroom/rir_list").write_text(
        "--rir-id 1 --room-id 1 RIRS_NOISES/simulated_rirs/smallroom/Room001/Room001-00001.wav\n"
    )
    prepared = rirs.prepare(root, tmp_path / "out")
    assert prepared.lists["real"].read_text() == f"{root}/real_rirs_isotropic_noises/air_rir.wav\n"
    assert prepared.lists["simulated"].read_text().endswith("Room001-00001.wav\n")
    assert reading.info(prepared.lists["real"].read_text().strip()).sample_rate == 16000
    with pytest.raises(InputError, match=r"not RIRS_NOISES; expected real_rirs_isotropic_noises/rir_list"):
        rirs.prepare(tmp_path, tmp_path / "out")
    (root / "simulated_rirs/smallroom/rir_list").write_text("--rir-id 1 somewhere.wav\n")
    with pytest.raises(InputError, match=r"smallroom/rir_list:1: found '--rir-id 1 somewhere\.wav'"):
        rirs.prepare(root, tmp_path / "out")


def test_what_a_mac_or_a_nas_leaves_is_no_recording(tmp_path: Path) -> None:
    for name in ("a.wav", "d/b.wav", "._a.wav", "__MACOSX/c.wav", "d/@eaDir/b.wav", ".hidden/e.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert recordings_in(tmp_path) == [tmp_path / "a.wav", tmp_path / "d" / "b.wav"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"train": 1}', "\xff", "[" * 100_000])
def test_a_damaged_record_of_preparing_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "prepared.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="run the stage `prepare` again"):
        Prepared.load(tmp_path / "prepared.json")


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "utt2spk").write_bytes("a René\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"utt2spk:1: not UTF-8"):
        kaldi_table(tmp_path / "utt2spk", "")
