"""Recipes: typed tables with defaults."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from speakerverif._util import registry
from speakerverif._util.ranges import Decibels, Range, Rising, Share
from speakerverif._util.toml import from_dict, merge, override, read_toml
from speakerverif.errors import InputError

Epochs = Annotated[float, Range(0, 1_000_000)]
LearningRate = Annotated[float, Range(0, 1e30)]


FeatureKind = Literal[
    "kaldi",
    "speechbrain",
    "torchaudio",
    "voxceleb_trainer",
    "voxceleb_trainer_linear",
    "voxceleb_trainer_lite",
    "voxceleb_trainer_lite_linear",
    "redimnet",
    "redimnet2",
    "nemo",
    "waveform",
]


@dataclass(frozen=True)
class FeatureConfig:
    """Log mel filterbanks; the defaults are WeSpeaker's (Kaldi, 80 bands, Hamming), on samples in [-1, 1].

    Kind "waveform" is the samples themselves, of which `num_mels` is 1; bands and frames don't concern it.
    """

    kind: FeatureKind = "kaldi"
    sample_rate: Annotated[int, Range(1_000, 384_000)] = 16000
    num_mels: Annotated[int, Range(1, 1_024)] = 80
    frame_length_ms: Annotated[float, Range(0, 1_000, above=True)] = 25.0
    frame_shift_ms: Annotated[float, Range(0, 1_000, above=True)] = 10.0
    window: Literal["hamming", "povey", "hanning"] = "hamming"
    low_hz: Annotated[float, Range(0, 192_000)] = 20.0
    # 0 is the Nyquist frequency; a negative value is relative to it, as in Kaldi.
    high_hz: Annotated[float, Range(-192_000, 192_000)] = 0.0
    # 32768 for models trained on 16-bit integer samples.
    waveform_scale: Annotated[float, Range(0, 1e9, above=True)] = 1.0
    mean_norm: bool = True  # subtract each utterance's mean over time

    def described(self) -> str:
        """Return the settings as one line, for messages."""
        high_hz = self.high_hz if self.high_hz > 0 else self.sample_rate / 2 + self.high_hz
        parts = [
            f"{self.kind} filterbank of {self.num_mels} bands from {self.low_hz:g} to {high_hz:g} Hz",
            f"{self.sample_rate} Hz",
            f"{self.window} window of {self.frame_length_ms:g} ms every {self.frame_shift_ms:g} ms",
            f"samples times {self.waveform_scale:g}",
            "mean of each recording subtracted" if self.mean_norm else "no mean subtracted",
        ]
        return "; ".join(parts)

    def problems(self) -> Iterator[str]:
        """Yield contradictions between values, as `key: found ..., expected ...`."""
        if self.kind == "waveform" and self.num_mels != 1:
            yield f"num_mels: found {self.num_mels}, expected 1 with kind waveform: samples are no bands"
        nyquist = self.sample_rate / 2
        high = self.high_hz if self.high_hz > 0 else nyquist + self.high_hz
        if high > nyquist:
            yield f"high_hz: found {self.high_hz:g}, expected at most {nyquist:g}, half of sample_rate"
        if self.low_hz >= high:
            yield f"low_hz: found {self.low_hz:g}, expected less than the upper limit of {high:g} Hz"
        for name in ("frame_length_ms", "frame_shift_ms"):
            if self.sample_rate * getattr(self, name) < 1000:
                yield f"{name}: found {getattr(self, name):g}, expected a sample or more at {self.sample_rate} Hz"


@dataclass(frozen=True)
class SpecAugmentConfig:
    """Masks on the features, drawn separately for each utterance in a batch."""

    freq_masks: Annotated[int, Range(0, 100)] = 0
    max_freq_bands: Annotated[int, Range(0, 1_024)] = 10
    time_masks: Annotated[int, Range(0, 100)] = 0
    max_time_frames: Annotated[int, Range(0, 100_000)] = 20


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of training crops, before their features are computed.

    With `probability` one of `kinds` is drawn and applied. The default SNR ranges are WeSpeaker's.
    """

    # Every speed other than 1 makes new speakers (pitch and tempo change).
    speeds: Annotated[tuple[float, ...], Range(0.25, 4)] = (1.0,)
    # Share of crops that draw a speed; at 0 the number of classes is still that of `speeds`.
    speed_probability: Share = 1.0
    probability: Share = 0.0
    kinds: tuple[Literal["noise", "music", "speech", "babble", "reverb", "reverb+noise"], ...] = (
        "noise",
        "music",
        "babble",
        "reverb",
    )
    # Relative frequency of each kind; empty: all equally often.
    kind_weights: Annotated[tuple[float, ...], Range(0, 1e9, above=True)] = ()
    # Folders of recordings, or lists of them (one path per line), relative to the data folder.
    noise_dir: str = ""  # empty: synthetic coloured noise
    music_dir: str = ""  # empty: not drawn
    speech_dir: str = ""  # one talker in the background; empty: not drawn
    rir_dir: str = ""  # room impulse responses; empty: simulated
    noise_snr_db: Decibels = (0.0, 15.0)
    music_snr_db: Decibels = (5.0, 15.0)
    speech_snr_db: Decibels = (10.0, 30.0)
    babble_snr_db: Decibels = (13.0, 20.0)
    babble_speakers: Annotated[tuple[int, int], Range(1, 100), Rising()] = (3, 8)
    gain_db: Decibels = (0.0, 0.0)
    codec_probability: Share = 0.0  # share of crops passed through one of `codecs`, drawn uniformly
    codecs: tuple[Literal["telephone", "gsm", "opus", "mp3", "aac"], ...] = ("telephone",)
    # Bit rates of opus, mp3 and aac, drawn uniformly between these.
    codec_kbps: Annotated[tuple[float, float], Range(1, 1_000), Rising()] = (12.0, 64.0)
    spec: SpecAugmentConfig = field(default_factory=SpecAugmentConfig)

    def problems(self) -> Iterator[str]:
        """Yield contradictions between values, as `key: found ..., expected ...`."""
        if not self.speeds or len(set(self.speeds)) < len(self.speeds):
            yield f"speeds: found {list(self.speeds)}, expected one or more, all different"
        if self.speed_probability < 1 and 1 not in self.speeds:
            yield (
                f"speed_probability: found {self.speed_probability:g}, expected 1, as crops without a drawn speed "
                f"have speed 1, which is not among augment.speeds {list(self.speeds)}"
            )
        if self.kind_weights and len(self.kind_weights) != len(self.kinds):
            yield f"kind_weights: found {len(self.kind_weights)}, expected one for each of {len(self.kinds)} kinds"
        if self.probability > 0 and not self.kinds:
            yield f"kinds: found none, expected one or more at probability {self.probability:g}"
        if self.codec_probability > 0 and not self.codecs:
            yield f"codecs: found none, expected one or more at codec_probability {self.codec_probability:g}"


@dataclass(frozen=True)
class ScheduleConfig:
    """Growth of a value from 0 to 1 between two points of training, in epochs (fractions allowed)."""

    kind: Literal["constant", "linear", "exponential"] = "constant"
    start_epoch: Epochs = 0.0
    end_epoch: Epochs = 0.0

    def problems(self) -> Iterator[str]:
        """Yield contradictions between values, as `key: found ..., expected ...`."""
        if self.start_epoch > self.end_epoch:
            yield f"start_epoch: found {self.start_epoch:g}, expected at most end_epoch {self.end_epoch:g}"


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of attention layers, whose own weights then stay; they are added to these when saved."""

    rank: Annotated[int, Range(0, 4_096)] = 0  # 0: none
    alpha: Annotated[float, Range(0, 1e6, above=True)] = 8.0  # the change is multiplied by alpha / rank
    # Last parts of the names of the linear layers that are changed.
    layers: tuple[str, ...] = ("query", "key", "value", "q_proj", "k_proj", "v_proj", "in_proj")


@dataclass(frozen=True)
class TrainConfig:
    """One training stage. Epochs are turned into samples, so schedules don't depend on the batch or GPU count."""

    epochs: Annotated[float, Range(0, 1_000_000, above=True)] = 10.0
    batch_size: Annotated[int, Range(1, 1_000_000)] = 32  # over all processes
    # Batch norm over the crops of all processes together: then their number changes only the speed.
    shared_batch_norm: bool = False
    # 0: shuffled crops; N: N speakers with batch_size / N crops each, which metric losses need.
    speakers_per_batch: Annotated[int, Range(0, 1_000_000)] = 0
    crop_s: Annotated[float, Range(0, 3_600, above=True)] = 2.0
    crops_per_utterance: Annotated[int, Range(1, 100_000)] = 1  # in one epoch
    # The least number in one epoch; each utterance of a speaker with few of them gives more crops.
    crops_per_speaker: Annotated[int, Range(0, 1_000_000)] = 0
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: LearningRate = 1e-3
    final_learning_rate: LearningRate = 1e-5
    lr_schedule: Literal["cosine", "exponential", "linear", "constant"] = "cosine"
    warmup_epochs: Epochs = 0.0
    weight_decay: Annotated[float, Range(0, 100)] = 1e-4
    momentum: Annotated[float, Range(0, 0.99999)] = 0.9  # sgd only, Nesterov
    max_grad_norm: Annotated[float, Range(0, 1e9)] = 5.0  # 0 switches clipping off
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    average: Literal["none", "ema", "last_k"] = "none"
    ema_decay: Annotated[float, Range(0, 0.9999999)] = 0.999
    # Last_k: mean of the weights at the end of the last k epochs.
    last_k: Annotated[int, Range(1, 1_000_000)] = 10
    margin_schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    # Data-loading processes per training process; 0 loads in the training process.
    workers: Annotated[int, Range(0, 1_024)] = 1
    # Decoded audio that each worker keeps in memory; helps where the corpus fits.
    cache_mb: Annotated[int, Range(0, 10_000_000)] = 0
    checkpoint_minutes: Annotated[float, Range(0, 100_000)] = 5.0
    validate_every_epochs: Epochs = 0.0  # 0: never
    # The batch is computed in this many parts, one after the other, where memory doesn't hold the whole of it.
    accumulate: Annotated[int, Range(1, 1_000_000)] = 1
    # Fine-tuning begins with the weights of this model: a folder, org/name on the hub, or "starter", the built-in one.
    # A recipe without [encoder] takes that model's, with its features.
    start_from: str = ""
    # Weights that a self-supervised front end begins with: a transformers folder, org/name on the hub, a state dict of
    # torchaudio, or WavLM's .pt. A model to start from has its own.
    pretrained: str = ""
    # What becomes of that model's classes: those of the data take their place, or join them.
    old_classes: Literal["replace", "keep"] = "replace"
    head_epochs: Epochs = 0.0  # until then only the head learns
    # Parts by the beginning of their names, such as "encoder" or "encoder.blocks.0": frozen ones, and factors of the
    # learning rate of others.
    freeze: tuple[str, ...] = ()
    rates: dict[str, Any] = field(default_factory=dict)  # numbers, checked below
    lora: LoraConfig = field(default_factory=LoraConfig)

    def problems(self) -> Iterator[str]:
        """Yield contradictions between values, as `key: found ..., expected ...`."""
        if self.speakers_per_batch and self.batch_size % self.speakers_per_batch:
            yield (
                f"batch_size: found {self.batch_size}, which is not a multiple of speakers_per_batch "
                f"{self.speakers_per_batch}"
            )
        if self.batch_size % self.accumulate:
            yield f"batch_size: found {self.batch_size}, which is not a multiple of accumulate {self.accumulate}"
        if self.head_epochs >= self.epochs:
            yield f"head_epochs: found {self.head_epochs:g}, expected less than epochs {self.epochs:g}"
        for part, factor in self.rates.items():
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor <= 1e6:
                yield f"rates.{part}: found {factor!r}, expected a factor of 0..1,000,000"
        if self.lr_schedule == "exponential" and not self.final_learning_rate > 0:
            yield "final_learning_rate: found 0, which no exponential schedule reaches; expected above 0"
        if self.lr_schedule == "exponential" and not self.learning_rate > 0:
            yield "learning_rate: found 0, where no exponential schedule starts; expected above 0"


@dataclass(frozen=True)
class DataConfig:
    """The corpus (a file in `corpora/`) and the parts of it that are used."""

    corpus: str = ""
    # Corpora whose training utterances are added; --data is then a folder with a subfolder per corpus, by name.
    also: tuple[str, ...] = ()
    partial: bool = False  # accept an incomplete corpus
    min_duration_s: Annotated[float, Range(0, 100_000)] = 0.0
    validation_trials: str = ""  # name of a trial list that `prepare` writes


@dataclass(frozen=True)
class ScoreConfig:
    """The scoring of the prepared trial lists."""

    trials: tuple[str, ...] = ()  # names of lists that `prepare` writes; empty: all
    p_target: Annotated[tuple[float, ...], Range(1e-9, 0.999999)] = (0.01, 0.05)
    # The cohort is the mean embedding of every training speaker; raw and normalised figures are both reported.
    norm: Literal["none", "znorm", "tnorm", "snorm", "asnorm"] = "none"
    top_n: Annotated[int, Range(1, 10_000_000)] = 300  # asnorm: number of nearest cohort embeddings


@dataclass(frozen=True)
class CalibrationConfig:
    """A calibration of the scores with quality measures (QMF), on trials between training speakers.

    Each recording that is drawn counts twice: whole, and as a cut of random length. A third of the trials compares two
    cuts, a third a cut with a whole recording, a third two whole recordings, half of each between the same speaker.
    """

    trials: Annotated[int, Range(0, 10_000_000)] = 0  # 0: no calibration
    quality: tuple[Literal["duration", "speech", "magnitude", "cohort"], ...] = (
        "duration",
        "magnitude",
        "cohort",
    )
    p_target: Annotated[float, Range(1e-9, 0.999999)] = 0.5  # prior that matters most
    short_s: Annotated[tuple[float, float], Range(0.1, 3_600), Rising()] = (2.0, 6.0)  # length of the cuts
    speakers: Annotated[int, Range(2, 10_000_000)] = 1_000  # drawn from the training speakers, at most
    recordings: Annotated[int, Range(2, 10_000)] = 4  # of each of these speakers, at most


@dataclass(frozen=True)
class Recipe:
    """All settings of a run, except where the data are and where to write."""

    name: str = "speaker-model"
    seed: Annotated[int, Range(0, 2**31 - 1)] = 0
    data: DataConfig = field(default_factory=DataConfig)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    encoder: dict[str, Any] = field(default_factory=lambda: {"name": "ecapa"})
    head: dict[str, Any] = field(default_factory=lambda: {"name": "am_softmax"})
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    finetune: dict[str, Any] = field(default_factory=dict)  # changes for a second stage: [finetune.train] ...
    backend: dict[str, Any] = field(default_factory=lambda: {"name": "cosine"})
    score: ScoreConfig = field(default_factory=ScoreConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)


def load_recipe(path: str | Path, assignments: list[str] | None = None) -> Recipe:
    """Return a recipe: its TOML tables override the defaults, `--set` assignments override both.

    A top-level `base = "other.toml"` names a recipe, relative to this one, whose tables this one changes; an empty one,
    such as `finetune = {}`, clears it. External
    modules that the recipe names are trusted from then on (see `_util.registry`): recipes come from the user.

    Raises:
        InputError: unreadable file, unknown key, wrong type or value, circular `base`.
    """
    tables, seen, current = read_toml(path), [Path(path).resolve()], Path(path)
    while "base" in tables:
        current = current.parent / str(tables.pop("base"))
        if current.resolve() in seen:
            raise InputError(f"{path}: 'base' leads back to {current}")
        seen.append(current.resolve())
        cleared: dict[str, Any] = {key: {} for key, value in tables.items() if value == {}}
        tables = merge(read_toml(current), tables) | cleared
    tables = override(tables, assignments or [])
    if "encoder" not in tables and tables.get("train", {}).get("start_from"):
        if "features" in tables:
            raise InputError(
                f"{path}: [features] without [encoder]: both come with the model of train.start_from"
            )
        tables["encoder"] = {}
    recipe = from_dict(Recipe, tables, str(path))
    if recipe.name in ("", ".", "..") or any(c in "/\\" or not c.isprintable() for c in recipe.name):
        raise InputError(
            f"{path}.name: found {recipe.name!r}, expected a plain name: it becomes that of a folder"
        )
    parts = {
        "encoder": recipe.encoder,
        "head": recipe.head,
        "backend": recipe.backend,
        "later": recipe.finetune,
    }
    registry.trust([*registry.dotted_names(parts), recipe.data.corpus, *recipe.data.also])
    return recipe


def defaults_in_force(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Return the default values that a recipe doesn't set for encoder, head and back end, by table.

    They are recorded separately from the recipe's tables, since a model's fingerprint covers the tables as written.

    Raises:
        InputError: an unknown name, key or value in one of these tables.
    """
    tables: dict[registry.Kind, dict[str, Any]] = {
        "encoder": recipe.encoder,
        "head": recipe.head,
        "backend": recipe.backend,
    }
    return {kind: registry.defaults(kind, table) for kind, table in tables.items() if "name" in table}
