"""One scale: identify and verify score, calibrate and decide alike; open-set rates by hand."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.cli.entry import main
from speakerverif.errors import InputError
from speakerverif.evaluation.open_set import rates_at, threshold_at_fpir
from speakerverif.inference.identify import log_odds
from speakerverif.models.folder import read_model_folder
from speakerverif.scoring.calibration import Calibration
from speakerverif.scoring.decision import DecisionPoint


@pytest.fixture
def calibrated(tiny_model: Path, tiny_corpus: Path, tmp_path: Path) -> tuple[list[str], Path, Path]:
    """Options of a store with two people, a calibration's file, and a recording of the first."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    point = DecisionPoint(1.5, 0.1, 0.01, 100, 1000, 10, (0.0, 0.2), (0.0, 0.02))
    calibration = Calibration(
        ("cosine",),
        (),
        (20.0,),
        -10.0,
        0.05,
        "made up",
        "",
        read_model_folder(model).fingerprint,
        "cosine",
        point,
    )
    calibration.save(tmp_path / "c.toml")
    options = ["--store", str(tmp_path / "store"), "--model", str(model)]
    for name, speaker in (("ann", 0), ("bob", 5)):
        assert (
            main(
                ["enroll", name, *(str(tiny_corpus / f"spk{speaker}" / f"{n}.wav") for n in (0, 1)), *options]
            )
            == 0
        )
    return options, tmp_path / "c.toml", tiny_corpus / "spk0" / "2.wav"


def outcome(command: list[str], options: list[str], tmp_path: Path) -> dict[str, Any]:
    """Return what a command wrote."""
    assert main([*command, *options, "--json", str(tmp_path / "r.json")]) == 0
    record: dict[str, Any] = json.loads((tmp_path / "r.json").read_text())
    return record


@pytest.mark.parametrize(
    "decision",
    [["--threshold", "0.9"], ["--llr-threshold", "9"], ["--p-target", "0.3"], [], ["--p-target", "1e-9"]],
)
@pytest.mark.parametrize("place", ["option", "store", "model"])
def test_identify_and_verify_agree(
    calibrated: tuple[list[str], Path, Path], tmp_path: Path, decision: list[str], place: str
) -> None:
    options, calibration, query = calibrated
    if place == "option":
        options = [*options, "--calibration", str(calibration)]
    else:
        shutil.copy(calibration, tmp_path / place / "calibration.toml")
    found = outcome(["identify", str(query), *decision], options, tmp_path)
    for i, (name, score) in enumerate(found["candidates"]):
        pair = outcome(["verify", name, str(query), *decision], options, tmp_path)
        assert score == pytest.approx(pair["score"], abs=1e-6)
        assert found["llrs"][i] == pytest.approx(pair["llr"], abs=1e-4) == 20 * score - 10
        assert (found["threshold"], found["llr_threshold"]) == (pair["threshold"], pair["llr_threshold"])
        if i == 0:
            assert found["name"] == (name if pair["same_speaker"] else None) and found["decided"]


def test_thresholds_that_decide_nothing_are_refused(
    calibrated: tuple[list[str], Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options, calibration, query = calibrated
    for command in (["identify", str(query)], ["verify", "ann", str(query)]):
        for wrong in ("nan", "inf", "x"):
            with pytest.raises(SystemExit) as refused:
                main([*command, *options, "--threshold", wrong])
            assert refused.value.code == 2 and "expected a finite number" in capsys.readouterr().err
        assert main([*command, *options, "--llr-threshold", "1"]) == 2
        assert "is not calibrated" in capsys.readouterr().err
        both = ["--threshold", "1", "--llr-threshold", "1", "--calibration", str(calibration)]
        assert main([*command, *options, *both]) == 2
        assert "give one" in capsys.readouterr().err


def test_every_score_says_its_kind_and_probability(
    calibrated: tuple[list[str], Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    options, calibration, query = calibrated
    capsys.readouterr()
    assert main(["verify", "ann", str(query), *options, "--calibration", str(calibration)]) == 0
    out = capsys.readouterr().out
    assert "cosine similarity" in out and "P(same speaker) = 1.00 at a 50 % prior" in out
    assert "false alarms 1.00 %" in out
    assert main(["identify", str(query), *options, "--calibration", str(calibration)]) == 0
    out = capsys.readouterr().out
    assert "cosine similarity" in out and re.search(r"P\(ann\) = 0\.8\d", out) and "misses 10.00 %" in out
    assert "among 2 enrolled, a stranger is named in up to 1.99 % of searches" in out


def test_a_calibration_of_other_scores_is_refused(
    calibrated: tuple[list[str], Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options, calibration, query = calibrated
    text = calibration.read_text()
    for old, new, expected in (
        (
            'scoring = "cosine"',
            'scoring = "cosine, asnorm top 5 00000000"',
            "calibrated on scores of cosine, asnorm",
        ),
        ('fingerprint = "', 'fingerprint = "0', "was fitted on model 0"),
    ):
        (tmp_path / "wrong.toml").write_text(text.replace(old, new))
        wrong = ["--calibration", str(tmp_path / "wrong.toml")]
        assert main(["identify", str(query), *options, *wrong]) == 2
        assert expected in capsys.readouterr().err
        assert main(["verify", "ann", str(query), *options, *wrong]) == 2
        assert expected in capsys.readouterr().err


def test_durations_of_the_enrolled_are_known_to_a_calibration(
    calibrated: tuple[list[str], Path, Path], tmp_path: Path
) -> None:
    options, calibration, query = calibrated
    fitted = Calibration.load(calibration)
    with_duration = Calibration(
        fitted.kinds, ("duration_low", "duration_high"), (20.0, 1.0, 0.0), -10.0, 0.05, "x", "",
        fitted.fingerprint, "cosine", fitted.point,
    )  # fmt: skip
    with_duration.save(tmp_path / "d.toml")
    pair = outcome(
        ["verify", "ann", str(query), "--calibration", str(tmp_path / "d.toml")], options, tmp_path
    )
    assert pair["llr"] == pytest.approx(20 * pair["score"] - 10 + np.log(1.6), abs=1e-3)  # of 2.3 s and 1.6 s


def test_odds_by_hand() -> None:
    # Two enrolled, P(enrolled) = 0.5: 0.25 x 8 against 0.25 x 2 and 0.5 x 1.
    assert np.exp(log_odds(np.log([2.0, 8.0]), 2)) == pytest.approx(2.0)
    assert np.exp(log_odds([np.log(8.0)], 1)) == pytest.approx(8.0)
    assert log_odds([1000.0, 999.0], 2) == pytest.approx(1.0) and log_odds([-1000.0], 5) < -900
    assert log_odds([5.0, 1.0], 2) > log_odds([5.0, 4.0], 2) and log_odds([5.0], 2) > log_odds([5.0], 50)


def test_open_set_rates_by_hand() -> None:
    values = np.array([5.0, 4.0, 3.0, 2.0, 6.0, 1.0])
    enrolled = np.array([True, True, True, False, False, False])
    right = np.array([True, False, True, False, False, False])
    at = rates_at(values, right, enrolled, 3.5)
    assert (at.fpir, at.fnir, at.strangers, at.enrolled) == (
        1 / 3,
        2 / 3,
        3,
        3,
    )  # 4.0 is somebody else's name
    threshold = threshold_at_fpir(values, enrolled, 0.34)
    assert 2.0 < threshold < 2.001 and rates_at(values, right, enrolled, threshold).fpir == 1 / 3
    with pytest.raises(InputError, match="that 3 searches can show"):
        threshold_at_fpir(values, enrolled, 0.1)
    with pytest.raises(InputError, match="expected both"):
        rates_at(values, right, ~np.zeros(6, bool), 0.0)
