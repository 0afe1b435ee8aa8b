"""A corpus of made-up voices, so that everything can be tried without a recording of anybody.

Each speaker has its own voice (`_voice.py`), each session a mood, a room, a microphone and a noise floor. The
same arguments give the same recordings: every utterance has its own seed, and all arithmetic except that of the
room and the noise is in double precision. With another version of NumPy or SciPy, or another kind of processor,
a few samples may differ by one 16-bit step.
"""

import functools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from scipy import fft

from speakerverif._util.files import write_json
from speakerverif._util.json_files import read_json
from speakerverif.audio import augment
from speakerverif.corpora._prepared import Prepared, balanced_trials, counts
from speakerverif.corpora._voice import SAMPLE_RATE, Array, Mood, Voice, draw_voice, utter
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

# Directly after the seed, because NumPy treats the seeds (a, b) and (a, b, 0) as equal.
_VOICE, _SESSION, _UTTERANCE, _TRIALS = range(1, 5)


@dataclass(frozen=True)
class Shape:
    """The size and the seed of a synthetic corpus."""

    num_speakers: int = 80
    sessions_per_speaker: int = 3
    utterances_per_session: int = 4
    duration_s: tuple[float, float] = (2.0, 4.0)
    seed: int = 0
    first_speaker: int = 0  # other numbers with the same seed give other speakers of the same kind


@dataclass(frozen=True)
class _Session:
    """The properties that all recordings of a session share, except the speaker."""

    mood: Mood
    channel: Array  # room and microphone, an impulse response that starts with the direct sound
    noise_exponent: float
    snr_db: float
    level_db: float  # RMS, dBFS


def make(root: Path, shape: Shape, workers: int = 0) -> None:
    """Write `root`/wav/id00001/s1/00001.wav and so on: 16-bit WAV, 16 kHz, mono.

    Args:
        root: created if missing; files with the same names are overwritten.
        shape: numbers, durations and seed.
        workers: threads; 0 means one per processor. They change only the time it takes.

    Raises:
        InputError: `root` can't be a folder.
    """
    for speaker, session, _ in _names(shape):
        folder = root / "wav" / _folder(speaker, session)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: can't write the synthetic corpus: {error.strerror}") from error

    def write(name: tuple[int, int, int]) -> None:
        path = root / "wav" / utterance_id(*name)
        soundfile.write(path, recording(shape, *name), SAMPLE_RATE, subtype="PCM_16")

    with ThreadPoolExecutor(max_workers=workers or os.cpu_count() or 1) as pool:
        list(pool.map(write, _names(shape)))
    # Written last, so that a folder with this file is complete.
    write_json(root / "corpus.json", asdict(shape))


def prepare(
    root: Path,
    out: Path,
    shape: Shape | None = None,
    held_out_speakers: int = 20,
    num_trials: int = 4000,
    workers: int = 0,
) -> Prepared:
    """Return the corpus's lists, after generating its recordings if `root` doesn't contain them.

    The last `held_out_speakers` speakers are not in the training list. The trials compare them: half are target
    trials, each between two sessions.

    Args:
        root: the corpus's folder.
        out: folder for `train.tsv`, `dev.tsv`, `trials/trials.txt` and `prepare.json`.
        shape: of the corpus to generate, or of the one in `root`.
        held_out_speakers: number of speakers in the trials, at least 2.
        num_trials: in the list; fewer if the held-out speakers have too few target pairs.
        workers: as in `make`.

    Raises:
        InputError: `root` contains a synthetic corpus of another shape; no speakers are left to train on.
    """
    shape = shape or Shape()
    num_train = shape.num_speakers - held_out_speakers
    if num_train < 1 or held_out_speakers < 2 or shape.sessions_per_speaker < 2:
        raise InputError(
            f"synthetic corpus: {shape.num_speakers} speakers with {held_out_speakers} held out and "
            f"{shape.sessions_per_speaker} sessions; expected 1 left to train on, 2 held out, 2 sessions"
        )
    _make_where_absent(root, shape, workers)

    utterances = [
        Utterance(
            utterance_id(*name), str((root / "wav" / utterance_id(*name)).resolve()), f"id{name[0] + 1:05d}"
        )
        for name in _names(shape)
    ]
    per_speaker = shape.sessions_per_speaker * shape.utterances_per_session
    train, dev = utterances[: num_train * per_speaker], utterances[num_train * per_speaker :]
    (out / "trials").mkdir(parents=True, exist_ok=True)
    Manifest.from_utterances(train).write(out / "train.tsv")
    Manifest.from_utterances(dev).write(out / "dev.tsv")

    speaker = np.arange(len(dev)) // per_speaker
    session = np.arange(len(dev)) // shape.utterances_per_session
    same_speaker = speaker[:, None] == speaker
    other_session = session[:, None] != session
    rng = np.random.default_rng((shape.seed, _TRIALS))
    ids = [utterance.id for utterance in dev]
    trials = balanced_trials(ids, same_speaker & other_session, ~same_speaker, num_trials, rng, "trials")
    trials.write(out / "trials" / "trials.txt")
    notes = [f"synthetic voices: {len(trials.enroll)} trials, target trials between different sessions only"]
    record = {
        "corpus": asdict(shape),
        "train": counts(utterance.speaker for utterance in train),
        "dev": counts(utterance.speaker for utterance in dev),
        "trials": {"trials": len(trials.enroll)},
        "notes": notes,
    }
    write_json(out / "prepare.json", record)
    return Prepared(out / "train.tsv", {"trials": out / "trials" / "trials.txt"}, root / "wav", notes)


def _make_where_absent(root: Path, shape: Shape, workers: int) -> None:
    record_path = root / "corpus.json"
    if not record_path.exists():
        make(root, shape, workers)
        return
    held = read_json(record_path, "remove the folder to make it again")
    asked = json.loads(json.dumps(asdict(shape)))
    if held != asked:
        raise InputError(
            f"{record_path}: holds the corpus {held}, expected {asked}; remove the folder or give another"
        )


def utterance_id(speaker: int, session: int, utterance: int) -> str:
    """Return the path of a recording relative to the wav folder; all arguments count from 0."""
    return f"{_folder(speaker, session)}/{utterance + 1:05d}.wav"


def _folder(speaker: int, session: int) -> str:
    return f"id{speaker + 1:05d}/s{session + 1}"


def _names(shape: Shape) -> Iterator[tuple[int, int, int]]:
    for speaker in range(shape.first_speaker, shape.first_speaker + shape.num_speakers):
        for session in range(shape.sessions_per_speaker):
            for utterance in range(shape.utterances_per_session):
                yield speaker, session, utterance


def voice_of(seed: int, speaker: int) -> Voice:
    """Return the voice of a speaker; the number counts from 0."""
    return draw_voice(np.random.default_rng((seed, _VOICE, speaker)))


def recording(shape: Shape, speaker: int, session: int, utterance: int) -> Array:
    """Return one recording: float64 (samples,) in [-1, 1]."""
    place = _session(shape.seed, speaker, session)
    rng = np.random.default_rng((shape.seed, _UTTERANCE, speaker, session, utterance))
    speech = utter(voice_of(shape.seed, speaker), place.mood, rng, rng.uniform(*shape.duration_s))
    heard = augment.convolve(speech, place.channel)
    heard = augment.mix(heard, augment.coloured_noise(rng, len(heard), place.noise_exponent), place.snr_db)
    heard *= 10 ** (place.level_db / 20) / np.sqrt(augment.power(heard))
    clipped: np.ndarray = np.clip(heard, -1, 1)
    return clipped


@functools.lru_cache(maxsize=16)
def _session(seed: int, speaker: int, session: int) -> _Session:
    rng = np.random.default_rng((seed, _SESSION, speaker, session))
    room = augment.simulated_room(
        rng, SAMPLE_RATE, t60_s=rng.uniform(0.15, 0.4), direct_to_reverberant_db=rng.uniform(3.0, 18.0)
    )
    return _Session(
        mood=Mood(
            f0=np.exp(rng.normal(0, 0.05)), tempo=np.exp(rng.normal(0, 0.06)), effort=rng.uniform(-0.6, 0.6)
        ),
        channel=augment.convolve(np.pad(room.astype(np.float64), (0, 512)), _microphone(rng)),
        noise_exponent=rng.uniform(0.3, 2.0),
        snr_db=rng.uniform(20.0, 45.0),
        level_db=rng.uniform(-32.0, -18.0),
    )


def _microphone(rng: np.random.Generator) -> Array:
    """Return a random microphone's impulse response: some peaks, low and high cut-off, minimum phase."""
    size = 1024
    hz = np.arange(size // 2 + 1) * SAMPLE_RATE / size
    nodes_hz = np.geomspace(80, 8000, 7)
    gain_db = np.interp(np.log(np.maximum(hz, 1)), np.log(nodes_hz), rng.normal(0, 2.0, 7))
    low_hz, high_hz = np.exp(rng.uniform(np.log(40), np.log(300))), rng.uniform(4500, 8000)
    gain_db -= 10 * np.log10(1 + (low_hz / np.maximum(hz, 1)) ** 4) + 10 * np.log10(1 + (hz / high_hz) ** 12)
    # Minimum phase by folding the cepstrum: the response starts at once, as a real one does.
    cepstrum = fft.irfft(gain_db * np.log(10) / 20, size)
    cepstrum[1 : size // 2] *= 2
    cepstrum[size // 2 + 1 :] = 0
    response: np.ndarray = fft.irfft(np.exp(fft.rfft(cepstrum)), size)[:512]
    return response
