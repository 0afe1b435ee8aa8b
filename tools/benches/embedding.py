"""Embedding files of 2 to 20 s in batches, one at a time, and by the encoder alone on ready features."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path

import numpy as np
import soundfile
import torch

from speakerverif._util.allocator import keep_freed_memory
from speakerverif.audio.augment import coloured_noise
from speakerverif.config import Recipe
from speakerverif.data.manifest import Utterance
from speakerverif.inference.embed import embed
from speakerverif.models._cpu.swap import accelerate
from speakerverif.models.folder import ModelFolder
from speakerverif.models.model import SpeakerModel
from tools.benches._case import Case, Limit, Work, left_out

RATE = 16000
SHORTEST_S, LONGEST_S = 2.0, 20.0
ENCODER_BATCH, ENCODER_S = 16, 3.0  # of the suite encoder_inference


def model(channels: int) -> ModelFolder:
    """Return an untrained ECAPA-TDNN as `load_model` returns one."""
    recipe = Recipe(encoder={"name": "ecapa", "channels": channels, "mfa_channels": 3 * channels})
    encoder = SpeakerModel(recipe.features, recipe.encoder).eval()
    accelerate(encoder, kernels=True)
    return ModelFolder(Path(), encoder, recipe, {}, [], "made up")


def recordings(number: int, shortest_s: float, longest_s: float) -> list[Utterance]:
    """Return synthetic recordings, evenly spread in length; their files are removed at the end."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    sound = 0.05 * coloured_noise(np.random.default_rng(0), round(60 * RATE), 1.0)
    sound *= 0.5 + 0.5 * np.sin(2 * np.pi * 3 * np.arange(len(sound)) / RATE)  # syllables
    found = []
    for i, seconds in enumerate(np.linspace(shortest_s, longest_s, number)):
        path, left = folder / f"{i}.wav", round(seconds * RATE)
        with soundfile.SoundFile(
            path, "w", RATE, 1
        ) as file:  # in parts: an hour at once would be the peak of memory
            for part in range(0, left, len(sound)):
                file.write(sound[: left - part])
        found.append(Utterance(str(i), str(path), ""))
    return found


def resemblyzer(utterances: list[Utterance]) -> dict[str, Work]:
    try:
        from resemblyzer import VoiceEncoder, preprocess_wav
    except ImportError:
        left_out("resemblyzer")
        return {}
    encoder = VoiceEncoder("cpu", verbose=False)
    return {
        "resemblyzer": lambda: [encoder.embed_utterance(preprocess_wav(Path(u.path))) for u in utterances]
    }


def mixed(number: int, channels: int, threads: int) -> Case:
    """Return the case of `count` recordings of mixed lengths; hundreds run once, without peers."""
    few = number <= 100
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder, utterances = model(channels), recordings(number, SHORTEST_S, LONGEST_S)
    seconds = number * (SHORTEST_S + LONGEST_S) / 2
    features = torch.randn(ENCODER_BATCH, round(100 * ENCODER_S), folder.recipe.features.num_mels)
    assert isinstance(folder.model, SpeakerModel)
    encoder = torch.inference_mode()(functools.partial(folder.model.encoder, features, None))
    return Case(
        lambda: embed(folder, utterances),
        {
            "one at a time": lambda: embed(folder, utterances, batch_size=1),
            **(resemblyzer(utterances) if few else {}),
        },
        {"the encoder alone, 16 x 3 s": Limit(encoder, seconds / (ENCODER_BATCH * ENCODER_S))},
        rounds=3 if few else 1,
        memory=True,
        facts={"seconds of audio": seconds},
    )


CASES = {
    "60 recordings, ecapa C=256": functools.partial(mixed, 60, 256),
    "30 recordings, ecapa C=512": functools.partial(mixed, 30, 512),
    "15 recordings, ecapa C=1024": functools.partial(mixed, 15, 1024),
}
