"""Recipes: typed tables with defaults."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from speakerverif._util import registry
from speakerverif._util.toml import from_dict, merge, override, read_toml
from speakerverif.errors import InputError


@dataclass(frozen=True)
class FeatureConfig:
    """Log mel filterbanks; the defaults are WeSpeaker's (Kaldi, 80 bands, Hamming), on samples in [-1, 1]."""

    kind: Literal["kaldi", "speechbrain", "torchaudio", "voxceleb_trainer"] = "kaldi"
    sample_rate: int = 16000
    num_mels: int = 80
    frame_length_ms: float = 25.0
    frame_shift_ms: float = 10.0
    window: Literal["hamming", "povey", "hanning"] = "hamming"
    low_hz: float = 20.0
    high_hz: float = 0.0  # 0 is the Nyquist frequency; negative counts down from it, as in Kaldi
    waveform_scale: float = 1.0  # 32768 for models trained on 16-bit integer samples
    mean_norm: bool = True  # subtract each utterance's mean over time


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks on the features, drawn anew for every utterance of a batch."""

    freq_masks: int = 0
    max_freq_bands: int = 10
    time_masks: int = 0
    max_time_frames: int = 20


@dataclass(frozen=True)
class AugmentConfig:
    """What is done to a training crop before its features are computed.

    With `probability` one of `kinds` is drawn and applied. Defaults are WeSpeaker's SNR ranges.
    """

    speeds: tuple[float, ...] = (1.0,)  # every speed other than 1 makes new speakers (pitch and tempo move)
    speed_probability: float = (
        1.0  # share of crops that draw a speed; 0 keeps the classes of `speeds` all the same
    )
    probability: float = 0.0
    kinds: tuple[Literal["noise", "music", "speech", "babble", "reverb", "reverb+noise"], ...] = (
        "noise",
        "music",
        "babble",
        "reverb",
    )
    kind_weights: tuple[float, ...] = ()  # how often each kind is drawn beside the others; empty: evenly
    # Folders of recordings or lists of them (a path a line), relative to the data folder.
    noise_dir: str = ""  # empty: coloured noise made on the spot
    music_dir: str = ""  # empty: not drawn
    speech_dir: str = ""  # one talker in the background; empty: not drawn
    rir_dir: str = ""  # empty: rooms simulated on the spot
    noise_snr_db: tuple[float, float] = (0.0, 15.0)
    music_snr_db: tuple[float, float] = (5.0, 15.0)
    speech_snr_db: tuple[float, float] = (10.0, 30.0)
    babble_snr_db: tuple[float, float] = (13.0, 20.0)
    babble_speakers: tuple[int, int] = (3, 8)
    gain_db: tuple[float, float] = (0.0, 0.0)
    codec_probability: float = 0.0  # share of crops passed through one of `codecs`, drawn evenly
    codecs: tuple[Literal["telephone", "gsm", "opus", "mp3", "aac"], ...] = ("telephone",)
    codec_kbps: tuple[float, float] = (
        12.0,
        64.0,
    )  # bit rates of opus, mp3 and aac, drawn evenly between these
    spec: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)


@dataclass(frozen=True)
class ScheduleConfig:
    """How a value grows from 0 to 1 between two points of training, counted in epochs (fractions allowed)."""

    kind: Literal["constant", "linear", "exponential"] = "constant"
    start_epoch: float = 0.0
    end_epoch: float = 0.0


@dataclass(frozen=True)
class TrainConfig:
    """One training stage. Epochs are turned into samples, so schedules don't depend on the batch or GPU count."""

    epochs: float = 10.0
    batch_size: int = 32  # over all processes
    # Batch norm over the crops of all processes, not of each: then their number changes nothing but the speed.
    shared_batch_norm: bool = False
    # 0: shuffled crops; N: N speakers with batch_size / N crops each, which metric losses need.
    speakers_per_batch: int = 0
    crop_s: float = 2.0
    crops_per_utterance: int = 1  # an epoch visits every utterance this often
    crops_per_speaker: int = 0  # at least; speakers of few utterances have theirs visited more often
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = 1e-3
    final_learning_rate: float = 1e-5
    lr_schedule: Literal["cosine", "exponential", "linear", "constant"] = "cosine"
    warmup_epochs: float = 0.0
    weight_decay: float = 1e-4
    momentum: float = 0.9  # sgd only, Nesterov
    max_grad_norm: float = 5.0  # 0 switches clipping off
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    average: Literal["none", "ema", "last_k"] = "none"
    ema_decay: float = 0.999
    last_k: int = 10  # last_k: mean of the weights at the end of the last k epochs
    margin_schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    workers: int = 1  # data-loading processes of each training process; 0 loads in the training process
    cache_mb: int = 0  # decoded audio each worker keeps in memory, for corpora that fit
    checkpoint_minutes: float = 5.0
    validate_every_epochs: float = 0.0  # 0: never


@dataclass(frozen=True)
class DataConfig:
    """The corpus (a file in `corpora/`), and what of it is used."""

    corpus: str = ""
    # Corpora whose training utterances join in; then --data is the folder that holds all by their names.
    also: tuple[str, ...] = ()
    partial: bool = False  # take a corpus that is not whole
    min_duration_s: float = 0.0
    validation_trials: str = ""  # name of a trial list that `prepare` writes


@dataclass(frozen=True)
class ScoreConfig:
    """How the prepared trial lists are scored."""

    trials: tuple[str, ...] = ()  # names of lists that `prepare` writes; empty: all
    p_target: tuple[float, ...] = (0.01, 0.05)
    # Against the mean embedding of every training speaker; raw and normalised figures are both reported.
    norm: Literal["none", "znorm", "tnorm", "snorm", "asnorm"] = "none"
    top_n: int = 300  # asnorm: nearest of the cohort


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs to know, except where the data are and where to write."""

    name: str = "speaker-model"
    seed: int = 0
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: dict[str, Any] = field(default_factory=lambda: {"name": "ecapa"})
    head: dict[str, Any] = field(default_factory=lambda: {"name": "am_softmax"})
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: dict[str, Any] = field(
        default_factory=dict
    )  # what a second stage changes: [finetune.train] ...
    backend: dict[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    score: ScoreConfig = field(default_factory=ScoreConfig)


def load_recipe(path: str | Path, assignments: list[str] | None = None) -> Recipe:
    """Read a recipe: TOML tables over the defaults, `--set` assignments over those.

    A top-level `base = "other.toml"` names a recipe, relative to this one, that this one is a delta of. Modules from
    outside that the recipe names are trusted from then on (see `_util.registry`): a recipe is the user's own.

    Raises:
        InputError: unreadable file, unknown key, wrong type or value, circular `base`.
    """
    tables, seen, current = read_toml(path), [Path(path).resolve()], Path(path)
    while "base" in tables:
        current = current.parent / str(tables.pop("base"))
        if current.resolve() in seen:
            raise InputError(f"{path}: 'base' leads back to {current}")
        seen.append(current.resolve())
        tables = merge(read_toml(current), tables)
    recipe = from_dict(Recipe, override(tables, assignments or []), str(path))
    parts = {
        "encoder": recipe.encoder,
        "head": recipe.head,
        "backend": recipe.backend,
        "later": recipe.finetune,
    }
    registry.trust([*registry.dotted_names(parts), recipe.data.corpus, *recipe.data.also])
    return recipe
