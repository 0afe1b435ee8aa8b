"""The card of the shipped model: figures from records of that model, commands where there are none."""

import json
from pathlib import Path
from typing import Any

from speakerverif.evaluation.figures import Figures, Interval
from speakerverif.evaluation.records import ListFacts, ModelFacts, ScoringRecord
from speakerverif.models.folder import read_model_folder
from tools import model_card


def records(fingerprint: str) -> dict[str, dict[str, Any]]:
    raw = Figures("cosine", 0.0523, 0.5, (), 0.2, eer_ci95=Interval(0.04, 0.06))
    figures = Figures("normalized", 0.0412, 1.5, (), 0.2, eer_ci95=Interval(0.03, 0.05))
    trials, model = ListFacts("t", "0" * 64, None, 0, 0, 0), ModelFacts("m", fingerprint)
    scored = ScoringRecord(398, 4000, figures, trials, raw=raw, model=model, breakdown=()).to_json()
    one = {"eer": 0.2, "eer_ci95": [0.1, 0.3], "not_embedded": 2, "trials_left_out": 9}
    return {
        **dict.fromkeys(("report-trials", "report-trials_hard", "dev-trials", "dev-trials_hard"), scored),
        "pack": {
            "fingerprint": fingerprint,
            "calibrated_on": {"list": "calibrate/trials.txt"},
            "eer_cosine": {"float32": 0.05, "float16": 0.0501},
            "least_cosine_to_float32": 0.99999,
        },
        "robustness": {
            "trials": {"count": 4398, "units": 21},
            "seed": 0,
            "systems": [{"name": "m", "fingerprint": fingerprint, "scoring": "cosine"}],
            "rows": {"noise 0 dB": [one]},
        },
    }


def test_figures_stand_where_they_were_measured(tiny_model: Path, tmp_path: Path) -> None:
    for name, record in records(read_model_folder(tiny_model).fingerprint).items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    text, lacking = model_card.card(tiny_model, tmp_path)
    assert lacking == [] and "{{" not in text
    assert "| part report, trials | 4,398 | 5.23 [4.00, 6.00] | 4.12 [3.00, 5.00] |" in text
    assert "| noise 0 dB | 20.00 [10.00, 30.00]; 2 not embedded |" in text
    assert "5.00 before, 5.01 after" in text


def test_another_models_figures_are_none(tiny_model: Path, tmp_path: Path) -> None:
    for name, record in records("of another model").items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    text, lacking = model_card.card(tiny_model, tmp_path)
    assert sorted(lacking) == sorted(model_card.COMMANDS)
    assert all(f"`{command}`" in text for command in model_card.COMMANDS.values())
    assert "[" not in text.split("## How good it is")[1].split("## How it was made")[0]
