"""Names for the turns of conversations: enrolled speakers, strangers, and lists of turns."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speakerverif.audio import reading
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import read_manifest
from speakerverif.data.manifest import Utterance
from speakerverif.errors import InputError
from speakerverif.inference.conversation import name_embedded, read_turns
from speakerverif.inference.embed import embed
from speakerverif.inference.engines import load_for_inference
from speakerverif.inference.enroll import EnrolmentLimits
from speakerverif.inference.samples import Sample
from speakerverif.inference.scale import Scale
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.decision import DecisionPoint
from speakerverif.scoring.scorer import Plan, fit
from tests.conftest import RATE, voice
from tools.conversations import draw, seconds_right

POINT = DecisionPoint(1.0, 0.1, 0.01, 100, 100, 10)
THRESHOLD = "0.996"  # the toy model's embeddings of one voice are that similar, those of two less so


def write_conversation(
    path: Path, parts: list[tuple[str, NDArray[np.float32]]], labels: bool = True
) -> list[str]:
    """Write recordings one after the other, and an RTTM beside them; return who speaks in each turn."""
    lines, start = [], 0
    for who, samples in parts:
        label = who if labels else "<NA>"
        lines.append(
            f"SPEAKER {path.stem} 1 {start / RATE:.3f} {len(samples) / RATE:.3f} <NA> <NA> {label} <NA> <NA>"
        )
        start += len(samples)
    soundfile.write(path, np.concatenate([samples for _, samples in parts]), RATE)
    path.with_suffix(".rttm").write_text("\n".join(lines) + "\n")
    return [who for who, _ in parts]


@pytest.fixture
def store(tiny_corpus: Path, tiny_model: Path, tmp_path: Path) -> list[str]:
    """Options that name a store in which speakers 0 and 3 are enrolled."""
    options = ["--store", str(tmp_path / "store"), "--model", str(tiny_model)]
    for name, speaker in (("ann", 0), ("bob", 3)):
        files = [str(tiny_corpus / f"spk{speaker}" / f"{n}.wav") for n in range(3)]
        assert main(["enroll", name, *files, *options]) == 0
    return options


def turns_of(path: Path) -> list[dict[str, Any]]:
    """Return the turns that a command wrote."""
    turns: list[dict[str, Any]] = json.loads(path.read_text())["turns"]
    return turns


@pytest.mark.parametrize("labels", [True, False])
def test_turns_get_names(
    store: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], labels: bool
) -> None:
    order = [0, 3, 0, 5, 3, 0, 5]
    parts = [(f"S{who}", voice(who, 20 + i, 2.0)) for i, who in enumerate(order)]
    write_conversation(tmp_path / "talk.wav", parts, labels)
    written = ["--json", str(tmp_path / "t.json"), "--out-rttm", str(tmp_path / "named.rttm")]
    rttm = ["--rttm", str(tmp_path / "talk.rttm"), "--audio-root", str(tmp_path)]
    assert main(["identify", *rttm, *store, "--threshold", THRESHOLD, *written]) == 0
    turns = turns_of(tmp_path / "t.json")
    assert [turn["start_s"] for turn in turns] == [2.0 * i for i in range(7)]
    named = {0: "ann", 3: "bob"}
    for turn, who in zip(turns, order, strict=True):
        assert turn["name"] == named.get(who, "unknown 1")
        assert (turn["score"] >= float(THRESHOLD)) == (who in named)
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0].split("\t") == ["recording", "start_s", "end_s", "name", "score", "llr"] and len(lines) == 8
    )
    rows = [line.split() for line in (tmp_path / "named.rttm").read_text().splitlines()]
    assert [row[7] for row in rows] == [turn["name"].replace(" ", "_") for turn in turns]


def test_a_stranger_has_one_number_in_all_recordings(store: list[str], tmp_path: Path) -> None:
    for name, order in (("a", [5, 0, 2]), ("b", [2, 3, 5])):
        parts = [(f"{name}{who}", voice(who, 30 + i, 2.0)) for i, who in enumerate(order)]
        write_conversation(tmp_path / f"{name}.wav", parts)
    both = (tmp_path / "a.rttm").read_text() + (tmp_path / "b.rttm").read_text()
    (tmp_path / "both.rttm").write_text(both)
    rttm = ["--rttm", str(tmp_path / "both.rttm"), "--audio-root", str(tmp_path)]
    assert (
        main(["identify", *rttm, *store, "--threshold", THRESHOLD, "--json", str(tmp_path / "t.json")]) == 0
    )
    names = [turn["name"] for turn in turns_of(tmp_path / "t.json")]
    assert names == ["unknown 1", "ann", "unknown 2", "unknown 2", "bob", "unknown 1"]


def test_a_turn_that_can_not_be_embedded_keeps_its_place(
    store: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [("S0", voice(0, 40, 2.0)), ("S9", np.zeros(RATE, np.float32)), ("S3", voice(3, 41, 2.0))]
    write_conversation(tmp_path / "talk.wav", parts)
    rttm = ["--rttm", str(tmp_path / "talk.rttm"), "--audio-root", str(tmp_path)]
    assert (
        main(["identify", *rttm, *store, "--threshold", THRESHOLD, "--json", str(tmp_path / "t.json")]) == 1
    )
    turns = turns_of(tmp_path / "t.json")
    assert [turn["name"] for turn in turns] == ["ann", "", "bob"] and turns[1]["status"] == "silent"
    assert "not named: " in capsys.readouterr().err


def test_without_a_threshold_nothing_is_named(
    store: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_conversation(tmp_path / "talk.wav", [("S0", voice(0, 40, 2.0))])
    rttm = ["--rttm", str(tmp_path / "talk.rttm"), "--audio-root", str(tmp_path)]
    assert main(["identify", *rttm, *store]) == 2
    assert "no decision threshold" in capsys.readouterr().err


def test_a_transcript_s_segments_are_turns(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "talk.flac", voice(0, 0, 3.0), RATE)
    segments = [{"start": 0.5, "end": 1.5, "text": "yes"}, {"start": 2, "end": 3, "speaker": "SPEAKER_01"}]
    path = tmp_path / "talk.json"
    path.write_text(json.dumps({"text": "yes", "segments": segments}))
    turns = read_turns(path)
    assert [(t.path, t.start_s, t.duration_s, t.speaker) for t in turns] == [
        (str(tmp_path / "talk.flac"), 0.5, 1.0, ""),
        (str(tmp_path / "talk.flac"), 2.0, 1.0, "SPEAKER_01"),
    ]
    assert read_turns(path, recording="other.wav")[0].path == "other.wav"
    (tmp_path / "talk.flac").unlink()
    with pytest.raises(InputError, match="which recording"):
        read_turns(path)


@pytest.mark.parametrize(
    "segment", [{"start": 1}, {"start": 2, "end": 1}, {"start": "x", "end": 2}, {"start": -1, "end": 2}]
)
def test_a_segment_without_times_is_named(tmp_path: Path, segment: dict[str, Any]) -> None:
    (tmp_path / "t.json").write_text(json.dumps({"segments": [{"start": 0, "end": 1}, segment]}))
    with pytest.raises(InputError, match="segment 1: expected start and end"):
        read_turns(tmp_path / "t.json", recording="a.wav")


def test_the_threshold_rises_with_the_speech_and_the_number_of_enrolled() -> None:
    """LLR = 20 x cosine here; the turn has a cosine of 0.25, an LLR of 5, with everybody enrolled."""
    fitted = Calibration(
        ("cosine",), (), (20.0,), 0.0, 0.05, "", "", "model", "cosine", speech_s=2.0, point=POINT
    )
    direction = np.array([0.25, np.sqrt(1 - 0.25**2)], np.float32)

    def name(enrolled: int, speech_s: float, enrolled_s: float, calibration: Calibration = fitted) -> str:
        scale = Scale(fit(Plan(fingerprint="model"), None, None), calibration, Path("model"))
        people = [[Sample(np.array([1, 0], np.float32), speech_s=enrolled_s)] for _ in range(enrolled)]
        table = EmbeddingTable(
            ["0"],
            direction[None],
            np.array([speech_s], np.float32),
            np.array([speech_s], np.float32),
            ["ok"],
            "model",
        )
        turns = [Utterance("0", "a.wav", "A", 0.0, speech_s)]
        who = [str(i) for i in range(enrolled)]
        named = name_embedded((who, people), turns, table, scale=scale, min_similarity=-1.0)
        assert named[0].llr is not None and named[0].llr_threshold is not None
        assert (named[0].llr >= named[0].llr_threshold) == (named[0].name == "0")
        return named[0].name

    # log 10 = 2.3, and 0.85 for each doubling: 2 x 3 of them, then 3.
    assert name(10, 2.0, 2.0) == "0" and name(10, 16.0, 16.0) == "unknown 1"
    assert name(10, 16.0, 2.0) == name(10, 2.0, 16.0) == "0"
    # Less speech lowers nothing: log 200 = 5.3.
    assert name(10, 0.5, 0.5) == "0" and name(200, 0.5, 0.5) == "unknown 1"
    # Where an amount is unknown, nothing is added for it.
    assert name(10, 16.0, float("nan")) == "0"
    assert name(10, 16.0, 16.0, dataclasses.replace(fitted, speech_s=0.0)) == "0"


@pytest.fixture(scope="module")
def embedded(shared: Path) -> tuple[EmbeddingTable, NDArray[np.str_]]:
    """Eight recordings of each of 16 speakers of speechocean762 dev, and their speakers."""
    root = shared / "corpora" / "speechocean762"
    manifest = read_manifest(root / "dev", root)
    drawn = np.random.default_rng(0).choice(manifest.speakers, 16, replace=False)
    utterances = [u for name in drawn for u in [u for u in manifest if u.speaker == name][:8]]
    table = embed(load_for_inference(None), utterances)
    speaker_of = {utterance.id: utterance.speaker for utterance in utterances}
    return table, np.array([speaker_of[i] for i in table.ids])


@pytest.mark.corpus
@pytest.mark.parametrize("labels", [True, False])
def test_conversations_of_real_speech_are_named_right(
    embedded: tuple[EmbeddingTable, NDArray[np.str_]], labels: bool
) -> None:
    table, owner = embedded
    folder = load_for_inference(None)
    scale, limits = Scale.of(folder), EnrolmentLimits.of(folder)
    assert limits is not None
    drawn = [draw(owner, np.unique(owner), 4, 4, seed) for seed in range(12)]
    right, seconds = np.array(
        [seconds_right(table, talk, scale, limits.min_sample, labels) for talk in drawn]
    ).T
    assert right.sum() / seconds.sum() >= 0.95
    assert (right / seconds).min() >= 0.88


@pytest.mark.corpus
def test_the_command_tells_five_enrolled_and_five_strangers_apart(shared: Path, tmp_path: Path) -> None:
    root = shared / "corpora" / "speechocean762"
    paths: dict[str, list[Path]] = {}
    speaker_of = dict(line.split() for line in (root / "dev" / "utt2spk").read_text().splitlines())
    for line in (root / "dev" / "wav.scp").read_text().splitlines():
        name, path = line.split(None, 1)
        paths.setdefault(speaker_of[name], []).append(root / path)
    rng = np.random.default_rng(0)
    speakers = [str(speaker) for speaker in rng.choice(sorted(paths), 10, replace=False)]
    enrolled = speakers[:5]
    for speaker in enrolled:
        files = [str(path) for path in paths[speaker][:4]]
        assert main(["enroll", speaker, *files, "--store", str(tmp_path / "store")]) == 0
    turns = [(speaker, paths[speaker][n]) for speaker in speakers for n in range(4, 8)]
    parts = [(turns[i][0], reading.read(turns[i][1])) for i in rng.permutation(len(turns))]
    truth = write_conversation(tmp_path / "talk.wav", parts)
    options = ["--rttm", str(tmp_path / "talk.rttm"), "--audio-root", str(tmp_path)]
    options += ["--store", str(tmp_path / "store"), "--json", str(tmp_path / "t.json")]
    assert main(["identify", *options]) == 0
    named = turns_of(tmp_path / "t.json")
    right = [
        turn["name"] == who if who in enrolled else turn["name"].startswith("unknown")
        for turn, who in zip(named, truth, strict=True)
    ]
    seconds = np.array([turn["duration_s"] for turn in named])
    assert (seconds * right).sum() / seconds.sum() >= 0.95
    strangers = {
        who: {t["name"] for t, w in zip(named, truth, strict=True) if w == who} for who in speakers[5:]
    }
    assert all(len(names) == 1 for names in strangers.values())
    assert len(set().union(*strangers.values())) >= 4
