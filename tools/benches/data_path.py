"""Training data on one core: crop, speed, room, noise and features against SpeechBrain's; decoding and codecs."""

import atexit
import functools
import itertools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from speakerverif.audio import reading
from speakerverif.audio.augment import coloured_noise, simulated_room
from speakerverif.audio.codec import CODECS, transcode
from speakerverif.config import AugmentConfig, Recipe, TrainConfig
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.models import features
from speakerverif.training.batches import BatchOrder, CropDataset, collate
from tools.benches._case import Case, Limit, Work, left_out

RATE, CROP_S, BATCH = 16000, 2.0, 32
SPEAKERS, SPEEDS = 5_994, (0.9, 1.0, 1.1)  # 17,982 classes
RECORDINGS, RECORDING_S = 64, 8.0
EPOCHS = 2
BATCHES = 4  # of one timing, where there is a peer


@functools.cache
def _corpus() -> Path:
    """Return a folder of synthetic recordings, noises and rooms, removed at the end."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    rng = np.random.default_rng(0)
    for kind, number, seconds in (("speech", RECORDINGS, RECORDING_S), ("noise", 8, 10.0)):
        (folder / kind).mkdir()
        for i in range(number):
            sound = 0.05 * coloured_noise(rng, round(seconds * RATE), 1.0)
            soundfile.write(folder / kind / f"{i}.wav", sound, RATE)
    (folder / "rooms").mkdir()
    for i in range(8):
        room = simulated_room(rng, RATE, t60_s=0.5)
        soundfile.write(folder / "rooms" / f"{i}.wav", room / np.abs(room).max(), RATE)
    return folder


def _recording(item: int) -> str:
    return str(_corpus() / "speech" / f"{item % RECORDINGS}.wav")


def _ours(config: AugmentConfig, batches: int | None) -> Work:
    """Return a function that makes the features of a number of batches (None: of all epochs)."""
    recipe = Recipe(augment=config, train=TrainConfig(batch_size=BATCH, crop_s=CROP_S, epochs=EPOCHS))
    manifest = Manifest.from_utterances(
        Utterance(f"{s}", _recording(s), f"id{s:05}", 0.0, RECORDING_S) for s in range(SPEAKERS)
    )
    dataset = CropDataset(manifest, recipe, _corpus())
    assert dataset.num_classes == 17_982
    order = BatchOrder(manifest.speaker_index, recipe.train, recipe.seed)
    filterbank = features.build(recipe.features)

    def run() -> None:
        for keys in itertools.islice(order, batches):
            waveform = collate([dataset[key] for key in keys]).waveform
            filterbank(waveform, torch.full((len(waveform),), waveform.shape[1]))

    return run


def _speechbrain() -> dict[str, Work]:
    """Return SpeechBrain's classes at the same work: each crop perturbed in speed, in a room, with noise."""
    try:
        from speechbrain.augment.augmenter import Augmenter
        from speechbrain.augment.time_domain import AddNoise, AddReverb, SpeedPerturb
        from speechbrain.dataio.dataio import read_audio
        from speechbrain.lobes.features import Fbank
        from speechbrain.processing.features import InputNormalization
    except ImportError:
        left_out("speechbrain")
        return {}

    def table(kind: str) -> str:
        path = _corpus() / f"{kind}.csv"
        rows = [
            f"{f.stem},{soundfile.info(f).duration},{f},wav,\n" for f in sorted((_corpus() / kind).iterdir())
        ]
        path.write_text("ID,duration,wav,wav_format,wav_opts\n" + "".join(rows))
        return str(path)

    augment = Augmenter(
        augmentations=[
            SpeedPerturb(RATE, speeds=[90, 100, 110]),
            AddReverb(table("rooms")),
            AddNoise(table("noise"), snr_low=0, snr_high=15),
        ],
        min_augmentations=3,
        max_augmentations=3,
    )
    filterbank, normalise = Fbank(n_mels=80), InputNormalization(norm_type="sentence", std_norm=False)
    rng, samples = np.random.default_rng(0), round(CROP_S * RATE)

    def crop(item: int) -> torch.Tensor:
        start = int(rng.integers(round(RECORDING_S * RATE) - samples))
        part = {"file": _recording(item), "start": start, "stop": start + samples}
        waveform: torch.Tensor = read_audio(part)
        return waveform

    def run() -> None:
        for _ in range(BATCHES):
            clean = torch.stack([crop(item) for item in rng.integers(SPEAKERS, size=BATCH)])
            waveform, lengths = augment(clean, torch.ones(BATCH))
            normalise(filterbank(waveform), lengths)

    return {"speechbrain": run}


def _batches(threads: int) -> Case:
    config = AugmentConfig(
        speeds=SPEEDS, probability=1.0, kinds=("reverb+noise",), noise_dir="noise", rir_dir="rooms"
    )
    return Case(_ours(config, BATCHES), _speechbrain(), facts={"crops": BATCHES * BATCH})


def _epochs(threads: int) -> Case:
    config = AugmentConfig(
        speeds=SPEEDS,
        probability=0.6,
        kinds=("noise", "babble", "reverb"),
        noise_dir="noise",
        rir_dir="rooms",
    )
    crops = EPOCHS * SPEAKERS // BATCH * BATCH
    return Case(_ours(config, None), rounds=1, facts={"crops": crops, "classes": SPEAKERS * len(SPEEDS)})


def _decode(threads: int, suffix: str, subtype: str | None) -> Case:
    paths = [_corpus() / f"{i}.{suffix}" for i in range(8)]
    for i, path in enumerate(paths):
        samples = soundfile.read(_recording(i), dtype="float32")[0]
        soundfile.write(path, samples, RATE, format="OGG" if suffix == "opus" else None, subtype=subtype)
    start, samples = 40_000, round(CROP_S * RATE)

    def ours() -> None:
        for path in paths:
            reading.read(path, start / RATE, CROP_S)

    def libsndfile() -> None:
        for path in paths:
            soundfile.read(path, samples, start, dtype="float32")

    peers: dict[str, Work] = {}
    try:
        from speechbrain.dataio.dataio import read_audio
    except ImportError:
        left_out("speechbrain")
    else:
        asked = [{"file": str(path), "start": start, "stop": start + samples} for path in paths]
        peers["speechbrain"] = lambda: [read_audio(one) for one in asked]
    return Case(ours, peers, {"libsndfile alone": Limit(libsndfile)}, facts={"crops": len(paths)})


def _codec(threads: int, kind: str) -> Case:
    crops = [soundfile.read(_recording(i), round(CROP_S * RATE), dtype="float32")[0] for i in range(4)]
    # By the wall clock: AAC is encoded in other processes.
    return Case(
        lambda: [transcode(crop, kind, RATE, 32.0) for crop in crops],
        clock="wall",
        facts={"crops": len(crops)},
    )


def _first_batch(threads: int) -> Case:
    index = np.arange(1_092_009) % SPEAKERS
    config = TrainConfig(batch_size=256, epochs=150)
    return Case(lambda: next(iter(BatchOrder(index, config, seed=0))), facts={"utterances": len(index)})


CASES = {
    "crop, speed, room, noise, features": _batches,
    "two epochs of 17,982 classes": _epochs,
    "the sampler's first batch": _first_batch,
    **{
        f"decode 2 s of {suffix}": functools.partial(_decode, suffix=suffix, subtype=subtype)
        for suffix, subtype in (("wav", None), ("flac", None), ("opus", "OPUS"))
    },
    **{f"codec {kind}": functools.partial(_codec, kind=kind) for kind in CODECS},
}
