"""Train SpeechBrain's ECAPA recipe and ours on the same files for the same time, and print both in one table.

    python tools/compare_speechbrain.py --data DIR --minutes 10 --seeds 0 1 2 --out DIR

Two runs at a time, each in a process of its own on half of the cores, with the same allocator settings, so that no
run has the machine to itself. Ours trains by its recipe, with as many epochs as a short measurement says fit the time
(and its schedules stretched to them); SpeechBrain then trains for exactly the seconds that ours took with that seed.
Both encoders have the same number of parameters.

SpeechBrain's side is its own classes throughout: Fbank, sentence mean normalisation, ECAPA_TDNN, cosine classifier,
AAM-softmax (0.2, 30), Adam with one cycle of the recipe's cyclic learning rate (spread over the time it has), and its
noise, reverberation, speed, frequency and chunk drops, concatenated to the clean crops. Recordings are decoded before
any clock starts. Embeddings are of whole utterances, one by one for SpeechBrain (its padding changes results), scored
with our metrics. Runs that are done are not repeated.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SYSTEMS = ("ours", "speechbrain")
LISTS = ("trials", "trials_hard")
CROP_S, CLEAN_BATCH = 3.0, 16


def train_ours(data: Path, out: Path, minutes: float, seed: int, recipe_path: Path) -> dict[str, float]:
    """Train our recipe for about `minutes`, its schedules stretched to fit; return what was measured."""
    from speakerverif.audio import reading
    from speakerverif.config import load_recipe
    from speakerverif.data.manifest import Manifest
    from speakerverif.inference.embed import embed_waveforms
    from speakerverif.models.folder import read_model_folder
    from speakerverif.models.model import SpeakerModel
    from speakerverif.training.loop import train

    manifest = Manifest.read(out.parent / "wav" / "manifest.tsv")
    config = load_recipe(recipe_path).train

    def run(folder: Path, epochs: float) -> float:
        share = epochs / config.epochs
        settings = {
            "seed": seed,
            "train.epochs": epochs,
            "train.warmup_epochs": config.warmup_epochs * share,
            "train.margin_schedule.start_epoch": config.margin_schedule.start_epoch * share,
            "train.margin_schedule.end_epoch": config.margin_schedule.end_epoch * share,
            "train.workers": 0,  # no more cores than SpeechBrain has
            "train.cache_mb": 0,
        }
        recipe = load_recipe(recipe_path, [f"{key}={value}" for key, value in settings.items()])
        started = time.monotonic()
        train(recipe, manifest, folder, data_dir=data)
        return time.monotonic() - started

    step = config.batch_size / len(manifest)  # in epochs
    short_s, long_s = run(out / "warm-up", 4 * step), run(out / "measure", 20 * step)
    epochs = 60 * minutes * 16 * step / (long_s - short_s)
    seconds = run(out / "model", epochs)
    folder = read_model_folder(out / "model")
    assert isinstance(folder.model, SpeakerModel)

    files = _dev_files(data)
    waveforms = {name: reading.read(path) for name, path in files.items()}
    started = time.monotonic()
    ids = sorted(files, key=lambda name: len(waveforms[name]))
    blocks = [ids[i : i + 16] for i in range(0, len(ids), 16)]
    vectors = np.concatenate(
        [embed_waveforms(folder.model, [waveforms[n] for n in block]) for block in blocks]
    )
    embed_s = time.monotonic() - started
    _save(out, ids, vectors)
    return {
        "seconds": seconds,
        "crops": round(epochs / step) * config.batch_size,
        "crop_s": config.crop_s,
        "parameters": sum(p.numel() for p in folder.model.encoder.parameters()),
        "embed_audio_s_per_s": sum(map(len, waveforms.values())) / 16000 / embed_s,
    }


def train_speechbrain(data: Path, out: Path, seconds: float, seed: int) -> dict[str, float]:
    """Train SpeechBrain's recipe for `seconds`; return the same figures."""
    import torch
    from speechbrain.augment.augmenter import Augmenter
    from speechbrain.augment.time_domain import AddNoise, AddReverb, DropChunk, DropFreq, SpeedPerturb
    from speechbrain.lobes.features import Fbank
    from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    from speechbrain.nnet.losses import AdditiveAngularMargin, LogSoftmaxWrapper
    from speechbrain.processing.features import InputNormalization

    from speakerverif.audio import reading

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    table = [line.split() for line in (data / "train" / "wav.scp").read_text().splitlines()]
    speaker_of = dict(line.split() for line in (data / "train" / "utt2spk").read_text().splitlines())
    speakers = sorted(set(speaker_of.values()))
    recordings = [reading.read(data / path) for _, path in table]
    labels = np.array([speakers.index(speaker_of[name]) for name, _ in table])

    features, normalise = Fbank(n_mels=80), InputNormalization(norm_type="sentence", std_norm=False)
    encoder = ECAPA_TDNN(
        80,
        channels=[256, 256, 256, 256, 768],
        kernel_sizes=[5, 3, 3, 3, 1],
        dilations=[1, 2, 3, 4, 1],
        groups=[1] * 5,
        attention_channels=128,
        lin_neurons=192,
    )
    classifier = Classifier(192, out_neurons=len(speakers))
    cost = LogSoftmaxWrapper(AdditiveAngularMargin(margin=0.2, scale=30))
    optimizer = torch.optim.Adam(
        [*encoder.parameters(), *classifier.parameters()], lr=1e-8, weight_decay=2e-6
    )
    augment = Augmenter(
        concat_original=True,
        augmentations=[
            SpeedPerturb(16000, speeds=[95, 100, 105]),
            AddNoise(_annotation(data.parent / "noise", out), snr_low=0, snr_high=15),
            AddReverb(_annotation(data.parent / "rirs", out)),
            DropFreq(drop_freq_low=0, drop_freq_count_low=1, drop_freq_count_high=3, drop_freq_width=0.05),
            DropChunk(drop_length_low=1000, drop_length_high=2000, drop_count_low=1, drop_count_high=5),
        ],
        min_augmentations=5,
        max_augmentations=5,
    )
    samples, crops, order = round(CROP_S * 16000), 0, np.empty(0, np.int64)
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        if len(order) < CLEAN_BATCH:
            order = rng.permutation(len(recordings))
        rows, order = order[:CLEAN_BATCH], order[CLEAN_BATCH:]
        clean = np.stack([_crop(recordings[row], samples, rng) for row in rows])
        wavs, lengths = augment(torch.from_numpy(clean), torch.ones(len(rows)))
        targets = torch.from_numpy(labels[rows]).repeat(len(wavs) // len(rows)).unsqueeze(1)
        done = elapsed / seconds
        for group in optimizer.param_groups:
            group["lr"] = 1e-8 + (1e-3 - 1e-8) * (1 - abs(2 * done - 1))
        loss = cost(classifier(encoder(normalise(features(wavs), lengths))), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        crops += len(wavs)
    trained_s = time.monotonic() - started

    encoder.eval()
    files = _dev_files(data)
    waveforms = {name: torch.from_numpy(reading.read(path))[None] for name, path in files.items()}
    started = time.monotonic()
    with torch.inference_mode():
        vectors = [
            encoder(normalise(features(wav), torch.ones(1)))[0, 0].numpy() for wav in waveforms.values()
        ]
    embed_s = time.monotonic() - started
    _save(out, list(files), np.stack(vectors))
    return {
        "seconds": trained_s,
        "crops": crops,
        "crop_s": CROP_S,
        "parameters": sum(p.numel() for p in encoder.parameters()),
        "embed_audio_s_per_s": sum(w.shape[1] for w in waveforms.values()) / 16000 / embed_s,
    }


def _crop(recording: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    start = int(rng.integers(max(1, len(recording) - samples + 1)))
    return np.resize(recording[start : start + samples], samples)


def _annotation(folder: Path, out: Path) -> str:
    """Write SpeechBrain's table of a folder of recordings and return its path."""
    from speakerverif.audio import reading

    path = out / f"{folder.name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ID", "duration", "wav", "wav_format", "wav_opts"])
        for recording in sorted(folder.glob("*.flac")):
            writer.writerow([recording.stem, reading.info(recording).duration_s, recording, "flac", ""])
    return str(path)


def _dev_files(data: Path) -> dict[str, Path]:
    """Return id -> path of the dev recordings; the trial lists name them by path."""
    rows = [line.split() for line in (data / "dev" / "wav.scp").read_text().splitlines()]
    return {path: data / path for _, path in rows}


def _save(out: Path, ids: list[str], vectors: np.ndarray) -> None:
    from speakerverif.data.embeddings import EmbeddingTable

    unknown = np.full(len(ids), np.nan, np.float32)
    EmbeddingTable(ids, vectors.astype(np.float32), unknown, unknown, ["ok"] * len(ids), "").save(
        out / "dev.npz"
    )


def worker(arguments: argparse.Namespace) -> None:
    """Train one system and write its figures."""
    import torch

    torch.set_num_threads(arguments.threads)
    out = arguments.out
    if arguments.system == "ours":
        figures = train_ours(arguments.data, out, arguments.minutes, arguments.seeds[0], arguments.recipe)
    else:
        figures = train_speechbrain(arguments.data, out, 60 * arguments.minutes, arguments.seeds[0])
    (out / "figures.json").write_text(json.dumps(figures, indent=2))


def _folder(arguments: argparse.Namespace, system: str, seed: int) -> Path:
    out: Path = arguments.out
    return out / f"{system}-{seed}"


def measure_all(arguments: argparse.Namespace) -> dict[tuple[str, int], dict[str, float]]:
    """Return the figures of each system and seed, after the runs that are still missing, two at a time."""
    figures: dict[tuple[str, int], dict[str, float]] = {}
    waiting = [(system, seed) for seed in arguments.seeds for system in SYSTEMS]
    running: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
    while waiting or running:
        for job in [*waiting, *running]:
            path = _folder(arguments, *job) / "figures.json"
            if job in running and running[job].poll() not in (None, 0):
                sys.exit(f"{job[0]} with seed {job[1]} failed")
            if path.is_file() and (job in waiting or running.pop(job).wait() == 0):
                figures[job] = json.loads(path.read_text())
        waiting = [job for job in waiting if job not in figures]
        ready = [job for job in waiting if job[0] == "ours" or ("ours", job[1]) in figures]
        if ready and len(running) < 2:
            system, seed = ready[0]
            minutes = arguments.minutes if system == "ours" else figures["ours", seed]["seconds"] / 60
            running[ready[0]] = _start(arguments, system, seed, minutes)
            waiting.remove(ready[0])
        time.sleep(0.5)
    return figures


def _start(
    arguments: argparse.Namespace, system: str, seed: int, minutes: float
) -> "subprocess.Popen[bytes]":
    from speakerverif._util.allocator import tunables

    out = _folder(arguments, system, seed)
    command = [sys.executable, __file__, "--system", system, "--seeds", str(seed), "--minutes", str(minutes)]
    command += ["--data", str(arguments.data), "--out", str(out), "--threads", str(arguments.threads)]
    command += ["--recipe", str(arguments.recipe)]
    return subprocess.Popen(command, env={**os.environ, "GLIBC_TUNABLES": tunables()})


def compare(arguments: argparse.Namespace) -> None:
    """Run everything and print the tables."""
    from speakerverif.corpora import speechocean762
    from speakerverif.data.embeddings import EmbeddingTable
    from speakerverif.data.manifest import Manifest
    from speakerverif.data.speakers import units_of
    from speakerverif.data.trials import TrialList
    from speakerverif.evaluation.intervals import paired_difference
    from speakerverif.evaluation.metrics import DetCurve
    from speakerverif.scoring.cosine import cosine
    from tools._decoded import decode

    prepared = speechocean762.prepare(arguments.data.absolute(), (arguments.out / "prepared").absolute())
    decode(Manifest.read(prepared.train), arguments.out / "wav")
    figures = measure_all(arguments)
    trials = {name: TrialList.read(arguments.data / "dev" / f"{name}.txt") for name in LISTS}
    scores = {
        (system, seed, name): cosine(
            trials[name], EmbeddingTable.load(_folder(arguments, system, seed) / "dev.npz")
        )
        for system, seed in figures
        for name in LISTS
    }
    print(
        "system       seed  parameters  seconds  crops/s  crop s  audio s/s  embedding s/s  EER % trials  trials_hard"
    )
    for (system, seed), found in sorted(figures.items()):
        eers = [100 * DetCurve.of(scores[system, seed, name]).eer().rate for name in LISTS]
        print(
            f"{system:12} {seed:4}  {found['parameters']:10,.0f}  {found['seconds']:7.0f}  "
            f"{found['crops'] / found['seconds']:7.1f}  {found['crop_s']:6.1f}  "
            f"{found['crops'] * found['crop_s'] / found['seconds']:9.1f}  {found['embed_audio_s_per_s']:13.0f}  "
            f"{eers[0]:12.2f}  {eers[1]:11.2f}"
        )
    print("\nEER of ours less SpeechBrain's, in percent points; 95 % interval over speakers")
    for name in LISTS:
        labels, units = trials[name].labels, units_of(trials[name])
        assert labels is not None
        for seed in arguments.seeds:
            pair = [scores[system, seed, name].scores for system in ("speechbrain", "ours")]
            change = paired_difference(pair[0], pair[1], labels, units.enroll, units.test)
            assert change.interval is not None and change.p_value is not None  # 63 speakers are enough
            low, high = change.interval
            print(
                f"{name:12} {seed:4}  {100 * change.difference:6.2f}  "
                f"[{100 * low:.2f}, {100 * high:.2f}]  p = {change.p_value:.3f}"
            )


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        help="folder of speechocean762, in the same folder as noise/ and rirs/",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="threads of each system"
    )
    parser.add_argument("--recipe", type=Path, default=ROOT / "recipes/speechocean762/ecapa.toml")
    parser.add_argument("--system", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.system:
        worker(arguments)
    else:
        compare(arguments)


if __name__ == "__main__":
    main()
