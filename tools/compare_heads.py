"""Train the same small encoder under each head, with the same crops, and print one table.

    python tools/compare_heads.py --data DIR --out DIR --seeds 0 1 2
    python tools/compare_heads.py --data DIR --out DIR --only am_softmax --crops 1 5
    python tools/compare_heads.py --data DIR --out NOISY --only normface --set augment.probability=1.0

`--data` is the speechocean762 folder. Each recipe in `recipes/heads/` is a head and a row of the table. Each run
(head, seed) trains in its own process on one thread, `--jobs` at a time, all heads with one seed before the next
seed. Runs that are done are not repeated. Recordings are decoded before any clock starts.

Columns: EER of both dev lists and minDCF(0.01) of the first, means over the seeds; the interval is that of the mean,
over speakers; the difference to the row of the head `--beside`, with its interval; angles on dev, in degrees: of an
utterance to the mean of its speaker, and of a speaker's mean to that of the nearest other; crops per second of
processor time, reading included.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    from speakerverif.scoring.speaker_intervals import Figure

RECIPES = ROOT / "recipes" / "heads"
BASES = ("small", "pairs")
UNTRAINED = "untrained"
LISTS = ("trials", "trials_hard")


@dataclass(frozen=True)
class Run:
    """One head trained with one seed, in one folder."""

    variant: str
    seed: int
    folder: Path

    @property
    def figures(self) -> Path:
        """What was measured while it trained; written last."""
        return self.folder / "figures.json"

    def table(self, crops: int) -> Path:
        """The embeddings of dev: of whole utterances (0), or means of that many crops."""
        return self.folder / f"dev-{crops}.npz"


def work(run: Run, arguments: argparse.Namespace) -> None:
    """Train where that was not done, and embed dev in every way asked for."""
    import torch

    from speakerverif.config import load_recipe
    from speakerverif.data.manifest import Manifest
    from speakerverif.inference.embed import embed
    from speakerverif.models.folder import ModelFolder, read_model_folder
    from speakerverif.models.model import SpeakerModel
    from speakerverif.models.weights import fingerprint
    from speakerverif.training.loop import train
    from tools._decoded import decode

    torch.set_num_threads(1)
    name = "small" if run.variant == UNTRAINED else run.variant
    settings = [f"seed={run.seed}", "train.workers=0", "train.cache_mb=1000", *arguments.set]
    recipe = load_recipe(RECIPES / f"{name}.toml", settings)
    data = arguments.out / "data"
    if run.variant == UNTRAINED:
        torch.manual_seed(run.seed)
        model = SpeakerModel(recipe.features, recipe.encoder).eval()
        folder = ModelFolder(run.folder, model, recipe, {}, [], fingerprint(model))
        figures = {"crops": 0, "cpu_s": 0.0}
    else:
        manifest = decode(Manifest.read(data / "train.tsv"), data / "train")
        started = time.process_time()
        train(recipe, manifest, run.folder / "model", data_dir=arguments.data)
        figures = {"crops": recipe.train.epochs * len(manifest), "cpu_s": time.process_time() - started}
        folder = read_model_folder(run.folder / "model")
    dev = list(decode(Manifest.read(data / "dev.tsv"), data / "dev"))
    for crops in (0, *arguments.crops):
        if not run.table(crops).is_file():
            embed(folder, dev, crops=crops).save(run.table(crops))
    if not run.figures.is_file():
        run.figures.write_text(json.dumps(figures))


def run_all(runs: list[Run], arguments: argparse.Namespace) -> None:
    """Run what was not run yet, `--jobs` at a time."""
    from speakerverif._util.allocator import tunables

    env = {**os.environ, "GLIBC_TUNABLES": tunables(), "OMP_NUM_THREADS": "1"}
    crops = (0, *arguments.crops)
    waiting = [r for r in runs if not (r.figures.is_file() and all(r.table(c).is_file() for c in crops))]
    running: dict[Run, subprocess.Popen[bytes]] = {}
    while waiting or running:
        for run in [run for run, process in running.items() if process.poll() is not None]:
            if running.pop(run).returncode:
                sys.exit(f"{run.variant} with seed {run.seed} failed; see {run.folder / 'log.txt'}")
        if waiting and len(running) < arguments.jobs:
            run = waiting.pop(0)
            run.folder.mkdir(parents=True, exist_ok=True)
            print(f"{run.variant}, seed {run.seed}: {len(waiting)} to come", file=sys.stderr, flush=True)
            command = [sys.executable, *sys.argv, "--worker", run.variant, str(run.seed)]
            with (run.folder / "log.txt").open("w") as log:
                running[run] = subprocess.Popen(command, env=env, stderr=log, stdout=log)
        time.sleep(0.2)


@dataclass(frozen=True)
class Row:
    """What a head comes to, over its seeds."""

    eers: np.ndarray  # (seeds, lists)
    min_dcfs: np.ndarray  # (seeds,), of the first list
    eer: "Figure"  # EER of the first list, mean over the seeds
    within_deg: float
    nearest_deg: float
    crops_per_s: float


def row_of(runs: list[Run], crops: int, arguments: argparse.Namespace) -> Row:
    """Return the figures of one head, from the embeddings of its runs."""
    from speakerverif.data.embeddings import EmbeddingTable
    from speakerverif.data.manifest import Manifest
    from speakerverif.data.speakers import units_of
    from speakerverif.data.trials import TrialList
    from speakerverif.evaluation.intervals import estimate
    from speakerverif.evaluation.metrics import DetCurve
    from speakerverif.scoring.cosine import cosine
    from speakerverif.scoring.speaker_intervals import Figure

    speaker_of = {u.id: u.speaker for u in Manifest.read(arguments.out / "data" / "dev.tsv")}
    lists = [TrialList.read(arguments.data / "dev" / f"{name}.txt") for name in LISTS]
    labels, units = lists[0].labels, units_of(lists[0])
    assert labels is not None
    eers, min_dcfs, first, angles, speeds = [], [], [], [], []
    for run in runs:
        table = EmbeddingTable.load(run.table(crops))
        scores = [cosine(trials, table) for trials in lists]
        curves = [DetCurve.of(scored) for scored in scores]
        eers.append([curve.eer().rate for curve in curves])
        min_dcfs.append(curves[0].min_dcf(0.01).cost)
        first.append(estimate(scores[0].scores, labels, units.enroll, units.test).eer)
        angles.append(spread(table.embeddings, np.array([speaker_of[name] for name in table.ids])))
        figures = json.loads(run.figures.read_text())
        speeds.append(figures["crops"] / figures["cpu_s"] if figures["cpu_s"] else np.nan)
    within, nearest = np.mean(angles, axis=0)
    return Row(
        np.array(eers), np.array(min_dcfs), Figure.mean(first), within, nearest, float(np.median(speeds))
    )


def spread(embeddings: np.ndarray, speakers: np.ndarray) -> tuple[float, float]:
    """Return mean angles in degrees: utterance to its speaker's mean direction, and that to the nearest other's."""
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    names, index = np.unique(speakers, return_inverse=True)
    means = np.stack([units[index == i].mean(axis=0) for i in range(len(names))])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    within = np.degrees(np.arccos(np.clip(np.sum(units * means[index], axis=1), -1, 1)))
    between = np.degrees(np.arccos(np.clip(means @ means.T, -1, 1)))
    np.fill_diagonal(between, np.inf)
    return float(within.mean()), float(between.min(axis=1).mean())


def print_table(rows: dict[str, Row], beside: str) -> None:
    """Print the rows as a Markdown table, best first."""
    print(
        f"| head | EER % | by seed | less {beside} | hard EER % | minDCF(0.01) | within ° | nearest ° | crops/s |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, row in sorted(rows.items(), key=lambda item: item[1].eers[:, 0].mean()):
        mean, hard = 100 * row.eers.mean(axis=0)
        low, high = _percents(row.eer)
        by_seed = " ".join(f"{100 * eer:.2f}" for eer in row.eers[:, 0])
        less = "–"
        if beside in rows and name != beside:
            ends = _percents(row.eer - rows[beside].eer)
            difference = mean - 100 * rows[beside].eers[:, 0].mean()
            less = f"{difference:+.2f} [{ends[0]:+.2f}, {ends[1]:+.2f}]"
        speed = "–" if np.isnan(row.crops_per_s) else f"{row.crops_per_s:.0f}"
        print(
            f"| {name} | {mean:.2f} [{low:.2f}, {high:.2f}] | {by_seed} | {less} | {hard:.2f} "
            f"| {row.min_dcfs.mean():.3f} | {row.within_deg:.1f} | {row.nearest_deg:.1f} | {speed} |"
        )


def _percents(figure: "Figure") -> tuple[float, float]:
    """Return both ends of an interval, in percent; equal ones where nothing differs."""
    low, high = figure.interval() or (figure.value, figure.value)
    return 100 * low, 100 * high


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="the speechocean762 folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", metavar="HEAD", help="these of recipes/heads/")
    parser.add_argument(
        "--crops", type=int, nargs="+", default=[], metavar="N", help="also as means of N crops"
    )
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="for every recipe")
    parser.add_argument(
        "--beside",
        default="softmax",
        metavar="HEAD",
        help="head that the differences are taken to (default: softmax)",
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()

    def run_of(variant: str, seed: int) -> Run:
        return Run(variant, seed, arguments.out / f"{variant}-{seed}")

    if arguments.worker:
        work(run_of(arguments.worker[0], int(arguments.worker[1])), arguments)
        return
    known = sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem not in BASES)
    variants = arguments.only or [UNTRAINED, *known]
    for variant in variants:
        if variant not in (UNTRAINED, *known):
            parser.error(f"{variant}: not one of {UNTRAINED}, {', '.join(known)}")
    if not (arguments.out / "data" / "dev" / "manifest.tsv").is_file():
        from _decoded import decode

        from speakerverif.corpora import speechocean762
        from speakerverif.data.manifest import Manifest

        prepared = speechocean762.prepare(arguments.data.absolute(), (arguments.out / "data").absolute())
        for part in (prepared.train, prepared.train.with_name("dev.tsv")):
            decode(Manifest.read(part), arguments.out / "data" / part.stem)
    run_all([run_of(variant, seed) for seed in arguments.seeds for variant in variants], arguments)
    for crops in (0, *arguments.crops):
        print(f"\n{f'mean of {crops} crops' if crops else 'whole utterances'}:\n")
        rows = {v: row_of([run_of(v, s) for s in arguments.seeds], crops, arguments) for v in variants}
        print_table(rows, arguments.beside)


if __name__ == "__main__":
    main()
