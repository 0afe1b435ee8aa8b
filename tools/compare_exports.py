"""Compare a model with its exports on a trial list: size, EER and speed of smaller weights.

    python tools/compare_exports.py --model MODEL --trials TRIALS --audio-root DIR --threads 1

One row each for torch and for the ONNX files in float32, float16 and int8: size in MB; EER with its 95 % interval over
speakers; the difference of the EER to torch's, with its interval; the least and the
mean cosine of an embedding with torch's; milliseconds for one recording at a time, features included, reading left
out. Each recording goes through all engines in turn, so that other load on the machine affects all of them alike;
times are CPU time, the median over the recordings, and their ratio to torch's.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif._util.progress import Progress
from speakerverif.audio import reading
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.speakers import Units, read_speakers, units_of
from speakerverif.data.trials import TrialList
from speakerverif.evaluation.intervals import PairedDifference, estimate
from speakerverif.exchange.to_onnx import LEAST_COSINE, export_onnx
from speakerverif.models.folder import read_model_folder
from speakerverif.models.model import SpeakerModel
from speakerverif.models.onnx_model import OnnxModel
from speakerverif.scoring.scorer import Plan, fit
from speakerverif.scoring.speaker_intervals import Figure


def embed(
    models: dict[str, SpeakerModel | OnnxModel], paths: dict[str, Path]
) -> tuple[dict[str, np.ndarray], dict[str, list[float]]]:
    """Return each model's embeddings of the recordings, in order, and the CPU seconds per recording."""
    vectors: dict[str, list[np.ndarray]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    rate = next(iter(models.values())).sample_rate
    with torch.inference_mode(), Progress(len(paths), "embed", "recording") as progress:
        for path in paths.values():
            waveform = torch.from_numpy(reading.read(path, sample_rate=rate))[None]
            for name, model in models.items():
                begin = time.process_time()
                vector = model(waveform)
                seconds[name].append(time.process_time() - begin)
                vectors[name].append(vector[0].numpy())
            progress.update(1)
    return {name: np.stack(rows) for name, rows in vectors.items()}, seconds


def eer_of(trials: TrialList, units: Units, ids: list[str], embeddings: np.ndarray) -> Figure:
    """Return the EER by cosine."""
    ones = np.ones(len(ids), np.float32)
    table = EmbeddingTable(ids, embeddings, ones, ones, ["ok"] * len(ids), "")
    scores = fit(Plan(), None, None).score(trials, table)[0].scores
    labels = np.asarray(trials.labels)
    return estimate(scores, labels, units.enroll, units.test).eer


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="a model folder")
    parser.add_argument("--trials", type=Path, nargs="+", required=True, help="labelled lists")
    parser.add_argument(
        "--audio-root", type=Path, required=True, help="folder that the lists' paths are relative to"
    )
    parser.add_argument("--speakers", type=Path, help="utt2spk, where the paths don't show the speakers")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    folder = read_model_folder(args.model)
    models: dict[str, SpeakerModel | OnnxModel] = {"torch": folder.model}
    sizes = {"torch": (args.model / "model.safetensors").stat().st_size}
    with tempfile.TemporaryDirectory() as scratch:
        for precision in LEAST_COSINE:
            path = Path(scratch) / f"{precision}.onnx"
            export_onnx(folder, path, precision)
            models[f"onnx {precision}"], sizes[f"onnx {precision}"] = OnnxModel(path), path.stat().st_size
    lists = [TrialList.read(path) for path in args.trials]
    ids = sorted({name for trials in lists for name in trials.ids})
    vectors, seconds = embed(models, {name: args.audio_root / name for name in ids})
    record: dict[str, Any] = {"fingerprint": folder.fingerprint, "recordings": len(ids), "rows": {}}
    for name, found in vectors.items():
        norms = np.linalg.norm(found, axis=1) * np.linalg.norm(vectors["torch"], axis=1)
        cosines = (found * vectors["torch"]).sum(1) / norms
        median = statistics.median(seconds[name])
        record["rows"][name] = {
            "mb": sizes[name] / 1e6,
            "least_cosine": float(cosines.min()),
            "mean_cosine": float(cosines.mean()),
            "ms": 1000 * median,
            "times_torch": median / statistics.median(seconds["torch"]),
        }
    for trials in lists:
        units = units_of(trials, read_speakers(args.speakers, list(trials.ids)) if args.speakers else None)
        first = None
        for name, found in vectors.items():
            eer = eer_of(trials, units, ids, found)
            first = first or eer
            change = PairedDifference.of(eer - first)
            record["rows"][name][trials.name] = {
                "eer": eer.value,
                "eer_ci95": eer.interval(),
                "difference": change.difference,
                "difference_ci95": change.interval,
            }
    show(record, [trials.name for trials in lists])
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


def show(record: dict[str, Any], lists: list[str]) -> None:
    print(f"\nmodel {record['fingerprint']}, {record['recordings']} recordings\n")
    heads = [f"{name}: EER % | less torch's" for name in lists]
    print("| | MB | " + " | ".join(heads) + " | cosine, least and mean | ms | times torch's |")
    print("|---" * (6 + 2 * len(lists) - 1) + "|")
    for name, row in record["rows"].items():
        cells = [f"{row['mb']:.1f}"]
        for one in lists:
            low, high = (100 * x for x in row[one]["eer_ci95"])
            cells.append(f"{100 * row[one]['eer']:.2f} [{low:.2f}, {high:.2f}]")
            low, high = (100 * x for x in row[one]["difference_ci95"])
            cells.append(f"{100 * row[one]['difference']:+.2f} [{low:+.2f}, {high:+.2f}]")
        cells += [f"{row['least_cosine']:.5f}, {row['mean_cosine']:.6f}"]
        cells += [f"{row['ms']:.1f}", f"{row['times_torch']:.2f}"]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
