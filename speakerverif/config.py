"""Recipes as typed data: dataclasses with defaults, and a strict TOML reader.

A recipe is a small TOML delta over the defaults below. Unknown keys and wrong types are errors that name the
place and the nearest known key. `encoder`, `head` and `backend` are tables whose `name` picks a file in
`encoders/`, `heads/` or `backends/`; their other keys belong to that file's own `Config` and are checked by `build.py`.
"""

import dataclasses
import difflib
import functools
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from speakerverif.errors import InputError

T = TypeVar("T")


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


def nearest(name: str, known: list[str]) -> str:
    """Return the end of an error about an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def from_dict(cls: type[T], table: dict[str, Any], where: str) -> T:
    """Build the dataclass `cls` from a plain table, checking every key and type.

    Args:
        cls: a dataclass with defaults.
        table: keys and values as TOML gives them.
        where: what to call the table in errors, such as `ecapa.toml: [encoder]`.

    Raises:
        InputError: unknown key (names the nearest), wrong type, value that is not one of the choices.
    """
    if not isinstance(table, dict):
        raise InputError(f"{where}: expected a table, found {table!r}")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; {nearest(key, known)}")
    return cls(**{key: _convert(hints[key], value, f"{where}.{key}") for key, value in table.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Return `value` as the type `hint`, or raise `InputError`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, where)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{where}: {value!r} is not one of {', '.join(map(repr, args))}")
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin in (tuple, list):
        if not isinstance(value, list | tuple):
            raise InputError(f"{where}: expected a list, found {value!r}")
        if origin is list or args[1:] == (Ellipsis,):
            return origin(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
        if len(value) != len(args):
            raise InputError(f"{where}: expected {len(args)} values, found {len(value)}")
        return tuple(
            _convert(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, value, strict=True))
        )
    if origin is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where}: expected a table, found {value!r}")
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where}: expected {hint.__name__}, found {value!r}")
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested plain tables, tuples as lists: what `write_toml` and JSON take."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def read_toml(path: str | Path) -> dict[str, Any]:
    """Return the tables of a TOML file.

    Raises:
        InputError: no such file, or not TOML (names line and column).
    """
    try:
        return tomllib.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file: {error}") from error


def format_toml(tables: dict[str, Any]) -> str:
    """Return nested tables of plain values as TOML text (`tomllib` can read but not write)."""
    lines: list[str] = []

    def literal(value: Any) -> str:
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, str):
            escaped = "".join(f"\\u{ord(c):04x}" if c < " " or c in '"\\\x7f' else c for c in value)
            return f'"{escaped}"'
        if isinstance(value, list | tuple):
            return "[" + ", ".join(map(literal, value)) + "]"
        return repr(value)

    def emit(table: dict[str, Any], prefix: str) -> None:
        lines.extend(
            f"{k} = {literal(v)}" for k, v in table.items() if not isinstance(v, dict) and v is not None
        )
        for key, sub in table.items():
            if isinstance(sub, dict):
                lines.append(f"\n[{prefix}{key}]")
                emit(sub, f"{prefix}{key}.")

    emit(tables, "")
    return "\n".join(lines).lstrip("\n") + "\n"


def merge(base: dict[str, Any], delta: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `delta` laid over it, table by table.

    A table with another `name` (another encoder, another head) replaces the former one whole.
    """
    merged = dict(base)
    for key, value in delta.items():
        old = merged.get(key)
        same_kind = (
            isinstance(old, dict)
            and isinstance(value, dict)
            and value.get("name", old.get("name")) == old.get("name")
        )
        merged[key] = merge(old, value) if same_kind else value  # type: ignore[arg-type]
    return merged


def override(tables: dict[str, Any], assignments: list[str]) -> dict[str, Any]:
    """Lay `--set key.sub=value` assignments over a recipe's tables; values are TOML, bare words are strings.

    An empty table, `{}`, empties the one that is there: `finetune={}` leaves that stage out.
    """
    for text in assignments:
        key, sep, raw = text.partition("=")
        if not sep or not key.strip():
            raise InputError(f"--set {text}: expected key=value, such as train.epochs=5")
        try:
            value = tomllib.loads(f"v = {raw}")["v"]
        except tomllib.TOMLDecodeError:
            value = raw
        delta: Any = value
        for part in reversed(key.strip().split(".")):
            delta = {part: delta}
        tables = merge(tables, delta)
        if value == {}:
            *path, last = key.strip().split(".")
            functools.reduce(dict.__getitem__, path, tables)[last] = {}
    return tables


def load_recipe(path: str | Path, assignments: list[str] | None = None) -> Recipe:
    """Read a recipe: TOML tables over the defaults, `--set` assignments over those.

    A top-level `base = "other.toml"` names a recipe, relative to this one, that this one is a delta of.

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
    return from_dict(Recipe, override(tables, assignments or []), str(path))
