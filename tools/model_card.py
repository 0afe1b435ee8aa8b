#!/usr/bin/env python3
"""Write the card of the shipped model: a template, facts of its folder, and tables of measured records.

    python tools/model_card.py speakerverif/default_model --results results

Nothing is measured here. Where a record is missing from `--results`, or is another model's, the card and standard error
show the command that makes it in place of the number, and the exit status is 1. Commands are run in the folder that
holds the corpora (speechocean762, noise, rirs).
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.files import write_atomically
from speakerverif.errors import InputError
from speakerverif.evaluation.breakdown import describe_breakdown
from speakerverif.evaluation.records import ScoringRecord
from speakerverif.models.folder import CARD, read_model_folder
from speakerverif.models.model import SpeakerModel

TEMPLATE = Path(__file__).with_name("model_card.md")
DEV = "speechocean762/dev"
LISTS = {  # record -> its title, the list
    "report-trials": ("part report, trials", "parts/report/trials.txt"),
    "report-trials_hard": ("part report, trials_hard", "parts/report/trials_hard.txt"),
    "dev-trials": ("all of dev, trials (selected on)", f"{DEV}/trials.txt"),
    "dev-trials_hard": ("all of dev, trials_hard (selected on)", f"{DEV}/trials_hard.txt"),
}
BROKEN_DOWN = "dev-trials"  # a third of the speakers is too few for groups
COMMANDS = {
    name: f"python tools/score.py {path} --audio-root speechocean762 --json results/{name}.json"
    for name, (_, path) in LISTS.items()
}
COMMANDS[BROKEN_DOWN] += (
    f" --p-target 0.05 --breakdown-by {DEV}/spk2gender {DEV}/spk2age duration=utt2dur"
    "  # utt2dur: file and seconds, of the prepared dev.tsv: tail -n +2 dev.tsv | cut -f 1,5"
)
COMMANDS["pack"] = "python tools/pack_model.py MODEL ... --json results/pack.json"
COMMANDS["robustness"] = (
    "python tools/robustness.py parts/report/trials.txt --audio-root speechocean762 --noise noise --rooms rirs"
    " --model speakerverif/default_model --model out/speechocean762-ecapa/model --resemblyzer"
    " --json results/robustness.json"
)


class Records:
    """Records of measurements of one model, in a folder."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        self.lacking: list[str] = []

    def get(self, name: str) -> dict[str, Any] | None:
        """Return a record, or None where it is missing, which is noted."""
        path = self.folder / f"{name}.json"
        record: dict[str, Any] | None = json.loads(path.read_text("utf-8")) if path.is_file() else None
        if record is not None and self.fingerprint in _models(record):
            return record
        self.lacking.append(name)
        return None


def _models(record: dict[str, Any]) -> list[str]:
    """Return the fingerprints of a record's models, wherever its program writes them."""
    systems = record.get("systems", [record.get("model", record)])
    return [system.get("fingerprint") for system in systems]


def percent(rate: float, ci95: Sequence[float] | None) -> str:
    """Return a rate and its interval as text for the card."""
    return f"{100 * rate:.2f}" + (f" [{100 * ci95[0]:.2f}, {100 * ci95[1]:.2f}]" if ci95 else "")


def lines_of(rows: list[tuple[str, ...]]) -> str:
    """Return a markdown table, its header first."""
    text = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([text[0], "|" + "---|" * len(rows[0]), *text[1:]])


def missing(name: str) -> str:
    """Return the text in place of a missing figure."""
    return f"*not measured:* `{COMMANDS[name]}`"


def eer(records: Records) -> str:
    """Return the table of the lists."""
    rows: list[tuple[str, ...]] = [("trials", "number", "EER, plain cosine", "EER, as it scores")]
    lacking = []
    for name, (title, _) in LISTS.items():
        record = records.get(name)
        if record is None:
            lacking.append(f"- {title}: {missing(name)}")
            continue
        scored = ScoringRecord.from_json(record, name)
        own = percent(scored.figures.eer, scored.figures.eer_ci95)
        plain = percent(scored.raw.eer, scored.raw.eer_ci95) if scored.raw else own
        rows.append((title, f"{scored.trials:,}", plain, own))
    return "\n\n".join(
        ([lines_of(rows)] if len(rows) > 1 else []) + (["\n".join(lacking)] if lacking else [])
    )


def breakdown(records: Records) -> str:
    """Return the tables by gender, age and duration."""
    record = records.get(BROKEN_DOWN)
    columns = None if record is None else ScoringRecord.from_json(record, BROKEN_DOWN).breakdown
    if columns is None:
        return missing(BROKEN_DOWN)
    parts = []
    for column in columns:
        what = column.left_out or column.by
        parts.append(f"By {column.column} ({what}), all of dev, trials:\n")
        parts.append(lines_of(describe_breakdown(column)) + "\n")
    return "\n".join(parts).rstrip()


def rounding(records: Records) -> str:
    """Return the table of the cost of float16."""
    record = records.get("pack")
    if record is None:
        return missing("pack")
    before, after = (100 * record["eer_cosine"][kind] for kind in ("float32", "float16"))
    return (
        f"EER by plain cosine on {record['calibrated_on']['list']} {before:.2f} before, {after:.2f} after; embeddings "
        f"have a cosine of {record['least_cosine_to_float32']:.6f} or more with those before."
    )


def robustness(records: Records) -> str:
    """Return the table of worse conditions."""
    record = records.get("robustness")
    if record is None:
        return missing("robustness")
    heads = [f"{one['name']}, {one['scoring']}" for one in record["systems"]]
    rows = [("test recordings", *heads)]
    for name, found in record["rows"].items():
        lost = [f"; {one['not_embedded']} not embedded" if one["not_embedded"] else "" for one in found]
        cells = [percent(one["eer"], one["eer_ci95"]) + less for one, less in zip(found, lost, strict=True)]
        rows.append((name, *cells))
    of = (
        f"{record['trials']['count']:,} trials of {record['trials']['units']} speakers, seed {record['seed']}"
    )
    return f"{lines_of(rows)}\n\n{of}; a row alone: `{COMMANDS['robustness']} --only ROW`"


def card(folder: Path, results: Path) -> tuple[str, list[str]]:
    """Return the card's text and the records that it lacks."""
    model = read_model_folder(folder)
    if not isinstance(model.model, SpeakerModel):
        raise InputError(f"{folder}: is an ONNX file; expected a model folder")
    records = Records(results, model.fingerprint)
    options = ", ".join(
        f"{key} {' + '.join(value) if isinstance(value, dict) else value}"
        for key, value in model.recipe.encoder.items()
        if key != "name"
    )
    facts = {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "encoder": f"{model.recipe.encoder['name']} ({options})" if options else model.recipe.encoder["name"],
        "parameters": f"{sum(p.numel() for p in model.model.parameters()):,}",
        "sample_rate": str(model.model.sample_rate),
        "dim": str(model.model.embedding_dim),
        # Voices at another speed are classes of their own, but no more people.
        "speakers": f"{len({name.partition('@')[0] for name in model.speakers}):,}",
        "eer": eer(records),
        "breakdown": breakdown(records),
        "rounding": rounding(records),
        "robustness": robustness(records),
    }
    text = re.sub(r"\{\{(\w+)\}\}", lambda found: facts[found[1]], TEMPLATE.read_text("utf-8"))
    return text, list(dict.fromkeys(records.lacking))


def main() -> int:
    """Return the exit status: 0 done, 1 where figures are lacking, 2 wrong input."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--results", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    try:
        text, lacking = card(args.model, args.results)
    except InputError as error:
        print(f"model_card.py: {error}", file=sys.stderr)
        return 2
    write_atomically(args.model / CARD, text)
    for name in lacking:
        print(f"not in {args.results}, or of another model: {name}.json; {COMMANDS[name]}", file=sys.stderr)
    return 1 if lacking else 0


if __name__ == "__main__":
    sys.exit(main())
