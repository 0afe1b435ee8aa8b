"""Scoring and calibrating a trial list from Python."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from speakerverif import InputError, calibrate_list, score_list
from speakerverif.evaluation.evaluate import Settings
from speakerverif.inference.calibrate_list import CalibrationRequest
from speakerverif.inference.score_list import ScoreRequest
from speakerverif.inference.score_sources import ScoreFiles

SCORES = [2.0, 1.0, 0.2, 0.5, -1.0, -2.0]
ROWS = ["a/1 a/2", "b/1 b/2", "c/1 c/2", "a/1 b/1", "b/1 c/1", "c/1 a/1"]


@pytest.fixture
def source(tmp_path: Path) -> ScoreFiles:
    """Three targets and three non-targets of three speakers."""
    (tmp_path / "t").write_text("".join(f"{int(i < 3)} {row}\n" for i, row in enumerate(ROWS)))
    scored = zip(ROWS, SCORES, strict=True)
    (tmp_path / "s").write_text("".join(f"{row} {score}\n" for row, score in scored))
    return ScoreFiles([tmp_path / "s"])


def test_scores_and_record_of_a_list(source: ScoreFiles, tmp_path: Path) -> None:
    scored = score_list(
        ScoreRequest(trials=tmp_path / "t", source=source, settings=Settings((0.5,), intervals=False))
    )
    assert scored.scores.scores.tolist() == SCORES and scored.raw is None
    assert scored.record is not None and scored.units is not None
    # One target of three lies below one non-target of three.
    assert scored.record.figures.eer == pytest.approx(1 / 3)
    assert [cost.key for cost in scored.record.figures.costs] == ["0.5"]
    assert scored.units.names == ("a", "b", "c")


def test_a_fitted_calibration_scores_the_list(source: ScoreFiles, tmp_path: Path) -> None:
    fitted = calibrate_list(CalibrationRequest(trials=tmp_path / "t", source=source, p_target=0.5))
    fitted.calibration.save(tmp_path / "c.toml")
    request = ScoreRequest(
        trials=tmp_path / "t",
        source=source,
        calibration=tmp_path / "c.toml",
        settings=Settings((0.5,), intervals=False),
    )
    scored = score_list(request)
    weight, bias = fitted.calibration.weights[0], fitted.calibration.bias
    np.testing.assert_allclose(scored.scores.scores, weight * np.array(SCORES) + bias)
    assert scored.record is not None and scored.record.figures.costs[0].actual == fitted.act_dcf
    assert scored.record.calibration is not None
    assert scored.record.calibration.calibrated_on == str(tmp_path / "t")


def test_a_list_without_labels_has_scores_and_no_record(source: ScoreFiles, tmp_path: Path) -> None:
    (tmp_path / "t").write_text("".join(f"{row}\n" for row in ROWS))
    scored = score_list(ScoreRequest(trials=tmp_path / "t", source=source))
    assert scored.scores.scores.tolist() == SCORES and scored.record is None
    with pytest.raises(InputError, match="no labels"):
        calibrate_list(CalibrationRequest(trials=tmp_path / "t", source=source))


def test_everything_wrong_is_reported_together(source: ScoreFiles, tmp_path: Path) -> None:
    with open(tmp_path / "t", "a") as file:
        file.write("7 a/1 a/2\n1 d/1 d/2\n")
    with pytest.raises(InputError) as error:
        score_list(ScoreRequest(trials=tmp_path / "t", source=source))
    assert "1 wrong row" in str(error.value) and "no score for 1 trials" in str(error.value)


def test_ready_scores_need_no_torch() -> None:
    code = "import sys; from speakerverif import calibrate_list, score_list; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
