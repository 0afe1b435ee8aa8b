"""Calibration on a folder, a list or a store of people: figures by another way, refusals, and where it is kept."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speakerverif import calibrate_people
from speakerverif.cli.entry import main
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.generated_trials import generate_trials
from speakerverif.data.manifest import Manifest
from speakerverif.errors import InputError
from speakerverif.inference import stored_calibration
from speakerverif.inference.calibrate_people import CalibratedPeople, PeopleRequest, calibrated
from speakerverif.inference.embedded_people import EmbeddedPeople, PeopleFolder
from speakerverif.inference.enrollment import Store
from speakerverif.inference.samples import Sample
from speakerverif.models.folder import DEFAULT, read_model_folder
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.scorer import Scoring
from tests.conftest import RATE, voice


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """A model folder of the test's own."""
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


@pytest.fixture
def people(tiny_corpus: Path, tmp_path: Path) -> Path:
    """A folder with a folder of recordings for each of six people."""
    return Path(shutil.copytree(tiny_corpus, tmp_path / "people", ignore=shutil.ignore_patterns("*.txt")))


def drawn_people(speakers: int, recordings: int, noise: float = 0.6, seed: int = 0) -> EmbeddedPeople:
    """Return embeddings drawn around a vector per speaker."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(speakers), recordings)
    rows = (rng.normal(size=(speakers, 8))[owner] + noise * rng.normal(size=(len(owner), 8))).astype(
        np.float32
    )
    seconds = rng.uniform(2, 9, len(owner)).astype(np.float32)
    ids = [f"s{k}/{i}" for i, k in enumerate(owner)]
    table = EmbeddingTable(ids, rows, seconds, seconds, ["ok"] * len(ids), "f")
    return EmbeddedPeople(table, [f"s{k}" for k in owner], ())


def fit_on(
    people: EmbeddedPeople, far: float | None, enrolled: int = 1, most: int = 2500
) -> CalibratedPeople:
    request = PeopleRequest(people=PeopleFolder(Path("x")), far=far, enrolled=enrolled)
    table = people.table
    generated = generate_trials(table.ids, people.speakers, table.durations, enrolled, most, 0, "x")
    return calibrated(request, Scoring.plain("f"), people, generated, Path("x"))


def test_figures_are_those_of_speakers_that_were_not_fitted_on() -> None:
    fitted = fit_on(drawn_people(30, 6), far=0.05)
    point = fitted.calibration.point
    assert point is not None and point.p_fa_ci95 is not None and point.speakers == fitted.speakers == 30
    fresh = drawn_people(120, 6, seed=1)
    table = fresh.table
    others = generate_trials(table.ids, fresh.speakers, table.durations, max_trials=9_000).trials
    scores, _ = Scoring.plain("f").score(others, table)
    llrs = fitted.calibration.apply([scores]).scores
    assert others.labels is not None
    accepted = llrs >= point.threshold
    assert point.p_fa_ci95[0] <= accepted[~others.labels].mean() <= point.p_fa_ci95[1]
    assert point.p_miss == pytest.approx(1 - accepted[others.labels].mean(), abs=0.08)
    # Cross-fitted thresholds are not the one fitted on these trials, whose share of false alarms is just below 5 %.
    own = fitted.generated.trials
    scores, _ = Scoring.plain("f").score(own, drawn_people(30, 6).table)
    assert own.labels is not None
    in_sample = np.mean(fitted.calibration.apply([scores]).scores[~own.labels] >= point.threshold)
    assert 0.045 < in_sample <= 0.05 and point.p_fa != in_sample


def test_a_threshold_of_the_prior_where_no_rate_is_asked_for() -> None:
    point = fit_on(drawn_people(12, 4), far=None).calibration.point
    assert point is not None and point.threshold == pytest.approx(np.log(0.95 / 0.05))


def test_several_enrolled_recordings_miss_fewer() -> None:
    drawn = drawn_people(25, 7, noise=1.0)
    single, several = (fit_on(drawn, 0.05, n).calibration.point for n in (1, 3))
    assert single is not None and several is not None and several.p_miss < single.p_miss - 0.05


@pytest.mark.parametrize(
    ("speakers", "recordings", "far", "needed"),
    [(5, 8, 0.01, "15 speakers or more"), (8, 8, 0.02, "11 speakers or more"), (6, 4, 0.05, "7 speakers")],
)
def test_a_rate_that_so_few_people_cannot_show_is_refused(
    speakers: int, recordings: int, far: float, needed: str
) -> None:
    with pytest.raises(InputError, match=needed) as refused:
        fit_on(drawn_people(speakers, recordings), far)
    least = float(str(refused.value).rpartition("a rate of ")[2].split()[0])
    assert "\n" not in str(refused.value) and fit_on(drawn_people(speakers, recordings), least)


@pytest.mark.parametrize("source", ["folder", "manifest", "store"])
def test_the_three_sources_calibrate_alike(
    source: str, people: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, options = tmp_path / "store", ["--model", str(model)]
    given, place = people, model / "calibration.toml"
    if source == "manifest":
        rows = [
            f"{path.relative_to(people)}\t{path}\t{path.parent.name}"
            for path in sorted(people.rglob("*.wav"))
        ]
        given = tmp_path / "people.tsv"
        given.write_text("\n".join(["id\tpath\tspeaker", *rows]) + "\n")
        assert len(Manifest.read(given)) == 24
    if source == "store":
        assert main(["enroll", "--folder", str(people), "--store", str(store), *options]) == 0
        given, place = store, store / "calibration.toml"
    record = tmp_path / "r.json"
    capsys.readouterr()
    assert main(["calibrate", f"--{source}", str(given), "--json", str(record), *options]) == 0
    out = capsys.readouterr().out
    assert "24 recordings of 6 speakers: 36 target trials" in out and "of 15 pairs of speakers" in out
    assert str(place) in out and "no intervals: 6 speakers are too few" in out and "cosine similarity" in out
    written = json.loads(record.read_text())
    fitted = Calibration.load(place)
    assert fitted.point is not None and written["calibration"]["weights"] == list(fitted.weights)
    assert (written["targets"], written["speaker_pairs"], written["repeated"]) == (36, 15, [])
    if source == "store":
        assert place.stat().st_mode & 0o777 == 0o600
    pair = [str(people / "spk0" / f"{n}.wav") for n in (0, 1)]
    query = ["verify", "spk0", pair[1], "--store", str(store)] if source == "store" else ["verify", *pair]
    assert main([*query, *options]) == 0
    out = capsys.readouterr().out
    assert f"calibrated on {given.name}, 6 speakers" in out and "false alarms" in out
    assert ("calibration: " in out) == (source == "store")
    assert main(["calibrate", "--remove", *(["--store", str(store)] if source == "store" else options)]) == 0
    assert not place.exists() and main([*query, *options]) == 0
    assert "calibrated on" not in capsys.readouterr().out


def test_a_recording_counts_once_and_only_for_one_person(
    people: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, rate = soundfile.read(people / "spk0" / "0.wav")
    soundfile.write(people / "spk0" / "again.flac", sound, rate)
    (people / "spk3" / "deeper").mkdir()
    shutil.copy(people / "spk3" / "1.wav", people / "spk3" / "deeper" / "copy.wav")
    fitted = calibrate_people(PeopleRequest(people=PeopleFolder(people), model=model))
    assert sorted(fitted.repeated) == ["spk0/again.flac", "spk3/deeper/copy.wav"] and fitted.recordings == 24
    shutil.copy(people / "spk3" / "1.wav", people / "spk4" / "mine.wav")
    assert main(["calibrate", "--folder", str(people), "--model", str(model)]) == 2
    assert "the same recording, given for 'spk3' and 'spk4'" in capsys.readouterr().err
    assert not (model / "calibration.toml").exists()


def four_people(people: Path) -> None:
    for name in ("spk4", "spk5"):
        shutil.rmtree(people / name)


def one_recording_each(people: Path) -> None:
    for path in people.rglob("[123].wav"):
        path.unlink()


def silence(people: Path) -> None:
    soundfile.write(people / "spk0" / "silent.wav", np.zeros(RATE), RATE)


@pytest.mark.parametrize(
    ("change", "options", "status", "expected"),
    [
        (four_people, [], 2, "can't be known from 4 speakers with 2 recordings"),
        (one_recording_each, [], 2, "from 0 speakers with 2 recordings or more (of 6 speakers)"),
        (lambda _: None, ["--enroll", "4"], 2, "from 0 speakers with 5 recordings"),
        (lambda _: None, ["--far", "0.001"], 2, "46 speakers or more"),
        (lambda _: None, ["--far", "nan"], 2, "far nan"),
        (lambda _: None, ["--scores", "s.txt"], 2, "--scores does nothing with --folder"),
        (lambda _: None, ["--set", "a=1"], 2, "--set does nothing with --folder"),
        (lambda _: None, ["--store", "x"], 2, "give TRIALS, or --folder DIR"),
        (silence, [], 1, "silent.wav: silent"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_in_a_line(
    change: Callable[[Path], None],
    options: list[str],
    status: int,
    expected: str,
    people: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    change(people)
    assert main(["calibrate", "--folder", str(people), "--model", str(model), *options]) == status
    assert expected in capsys.readouterr().err and not (model / "calibration.toml").exists()


def test_a_store_of_another_model_is_embedded_again(
    people: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    with_paths = Store(store, "another", create=True)
    for name in sorted(path.name for path in people.iterdir()):
        files = sorted((people / name).glob("*.wav"))
        with_paths.enroll(name, [Sample(np.ones(3, np.float32), str(path)) for path in files])
    options = ["calibrate", "--store", str(store)]
    assert main([*options, "--model", str(model)]) == 0
    assert (
        str(model / "calibration.toml") in capsys.readouterr().out
        and not (store / "calibration.toml").exists()
    )
    assert main(options) == 2
    assert "holds embeddings of model another: name it with --model" in capsys.readouterr().err


def test_the_built_in_model_has_a_calibration_of_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for n in range(2):
        soundfile.write(tmp_path / f"{n}.wav", voice(1, n, 1.5), RATE)
    pair = [str(tmp_path / f"{n}.wav") for n in range(2)]
    before = {path: path.read_bytes() for path in DEFAULT.iterdir() if path.is_file()}
    folder = read_model_folder()
    scoring = folder.scoring()
    shipped = folder.calibration
    assert shipped is not None
    place = stored_calibration.place_of(DEFAULT, folder.fingerprint)
    mine = Calibration(("normalized",), (), (1.0,), 5.0, 0.05, "mine", "", folder.fingerprint, scoring.name)
    stored_calibration.keep(mine, place, scoring)
    assert place == tmp_path / "config" / "speakerverif" / "calibrations" / f"{folder.fingerprint}.toml"
    assert place.stat().st_mode & 0o777 == 0o600
    assert main(["verify", *pair, "--json", str(tmp_path / "v.json")]) == 0
    assert f"calibration: {place}, not the model's own" in capsys.readouterr().out
    result = json.loads((tmp_path / "v.json").read_text())
    assert result["llr"] == pytest.approx(result["score"] + 5) and result["calibration"] == str(place)
    shipped.save(tmp_path / "c.toml")
    assert main(["verify", *pair, "--calibration", str(tmp_path / "c.toml")]) == 0
    assert f"calibration: {tmp_path / 'c.toml'}" in capsys.readouterr().out
    assert main(["calibrate", "--remove"]) == 0 and not place.exists()
    assert main(["calibrate", "--remove"]) == 2
    assert main(["verify", *pair, "--json", str(tmp_path / "v.json")]) == 0
    assert json.loads((tmp_path / "v.json").read_text())["calibration"] is None
    assert before == {path: path.read_bytes() for path in DEFAULT.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fingerprint": "0" * 16}, "was fitted on model 0000"),
        ({"scoring": "cosine, asnorm top 5 00000000"}, "the model now scores by cosine"),
        ({"kinds": ("plda",)}, "of kind plda, but the model's scores are of kind cosine"),
    ],
)
def test_what_the_next_command_would_refuse_is_not_kept(
    changes: dict[str, Any], expected: str, model: Path
) -> None:
    folder = read_model_folder(model)
    right = Calibration(("cosine",), (), (1.0,), 0.0, 0.05, "", "", folder.fingerprint, "cosine")
    wrong = dataclasses.replace(right, **changes)
    with pytest.raises(InputError, match=expected):
        stored_calibration.keep(wrong, model / "calibration.toml", folder.scoring())
    assert not (model / "calibration.toml").exists()
