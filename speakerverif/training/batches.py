"""Training data: the order of crops in batches, and the reading of crops.

Both are pure functions of (seed, position), so a resumed run gets exactly the batches of an uninterrupted one, for any
number of workers, and no state of a sampler or worker has to be saved.
"""

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from speakerverif._util.messages import named
from speakerverif.audio.augment import Augment, speed
from speakerverif.audio.reading import Files
from speakerverif.audio.speech_check import MAX_PEAK, REASONS
from speakerverif.config import Recipe, TrainConfig
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError

CropKey = tuple[int, int]  # (epoch, item); an item is an index into `rows_of_epoch`


def rows_of_epoch(speaker_index: np.ndarray, config: TrainConfig) -> np.ndarray:
    """Return the utterance index of each crop of an epoch, int64 (items,), in the manifest's order.

    Args:
        speaker_index: int (N,), the speaker of every utterance.
        config: `crops_per_utterance`, and `crops_per_speaker`: a speaker with fewer crops than that gets more of each
            utterance, equally many, rounded up.
    """
    utterances = np.bincount(speaker_index)[speaker_index]  # of the speaker of each utterance
    visits = np.maximum(config.crops_per_utterance, -(-config.crops_per_speaker // utterances))
    return np.repeat(np.arange(len(speaker_index)), visits)


class BatchOrder(Sampler[list[CropKey]]):
    """The batches of a training from `first_step` on.

    Shuffled crops continue across epochs, so that no crop is dropped at the end of an epoch and a position in
    training is a number of samples. With `speakers_per_batch`, each batch has that many different speakers with
    equally many utterances each, and repeats an utterance only if its speaker has too few.

    Args:
        speaker_index: int (N,), the speaker of every utterance.
        config: batch size, epochs, balance.
        seed: of the recipe.
        first_step: the step to begin with.
        part: (k, n): yield only the k-th of n equal parts of every batch, for the k-th of n processes.

    Raises:
        InputError: the batch size is not divisible by the number of speakers or parts; fewer speakers than
            `speakers_per_batch`.
    """

    def __init__(
        self,
        speaker_index: np.ndarray,
        config: TrainConfig,
        seed: int,
        first_step: int = 0,
        part: tuple[int, int] = (0, 1),
    ):
        self.config, self.seed, self.first_step = config, seed, first_step
        k, n = part
        if config.batch_size % n:
            raise InputError(f"train.batch_size {config.batch_size} is not a multiple of the {n} processes")
        self._part = slice(k * config.batch_size // n, (k + 1) * config.batch_size // n)
        rows = rows_of_epoch(speaker_index, config)
        self.epoch_size = len(rows)
        self._first_item = np.searchsorted(rows, np.arange(len(speaker_index) + 1))  # of every utterance
        self.steps_per_epoch = self.epoch_size / config.batch_size
        self.num_steps = max(1, round(config.epochs * self.epoch_size / config.batch_size))
        self._utterances_of: list[np.ndarray] = []
        if config.speakers_per_batch:
            self._utterances_of = self._check_balance(speaker_index)

    def __len__(self) -> int:
        return self.num_steps - self.first_step

    def __iter__(self) -> Iterator[list[CropKey]]:
        draw = self._balanced if self.config.speakers_per_batch else self._shuffled
        return (batch[self._part] for batch in draw())

    def _shuffled(self) -> Iterator[list[CropKey]]:
        size, permuted, order = self.config.batch_size, -1, np.empty(0, np.int64)
        for step in range(self.first_step, self.num_steps):
            batch: list[CropKey] = []
            for sample in range(step * size, (step + 1) * size):
                epoch, position = divmod(sample, self.epoch_size)
                if epoch != permuted:
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.epoch_size)
                    permuted = epoch
                batch.append((epoch, int(order[position])))
            yield batch

    def _balanced(self) -> Iterator[list[CropKey]]:
        num_speakers = self.config.speakers_per_batch
        each = self.config.batch_size // num_speakers
        first, repeats = self._first_item[:-1].tolist(), np.diff(self._first_item).tolist()
        for step in range(self.first_step, self.num_steps):
            rng = np.random.default_rng([self.seed, step])
            # A crop's randomness is seeded by (epoch, item), so the step takes the place of the epoch: no crop repeats.
            batch: list[CropKey] = []
            for speaker in rng.choice(len(self._utterances_of), num_speakers, replace=False):
                utterances = self._utterances_of[speaker]
                chosen = rng.choice(utterances, each, replace=len(utterances) < each)
                batch += [(step, first[u] + k % repeats[u]) for k, u in enumerate(chosen.tolist())]
            yield batch

    def _check_balance(self, speaker_index: np.ndarray) -> list[np.ndarray]:
        config, num_speakers = self.config, int(speaker_index.max()) + 1
        if config.batch_size % config.speakers_per_batch:
            raise InputError(
                f"train.batch_size {config.batch_size} is not a multiple of "
                f"train.speakers_per_batch {config.speakers_per_batch}"
            )
        if config.speakers_per_batch > num_speakers:
            raise InputError(
                f"train.speakers_per_batch {config.speakers_per_batch}: the data have {num_speakers} speakers"
            )
        order = np.argsort(speaker_index, kind="stable")
        return np.split(order, np.cumsum(np.bincount(speaker_index, minlength=num_speakers))[:-1])


@dataclass(frozen=True)
class Batch:
    """One training batch."""

    waveform: Tensor  # float32 (batch, samples)
    labels: Tensor  # int64 (batch,)
    utterances: Tensor  # int64 (batch,): rows of the manifest, for errors
    unreadable: dict[str, str]  # id -> reason, of utterances replaced by others

    def pin_memory(self) -> "Batch":
        """Return the batch in pinned memory; the DataLoader calls this."""
        waveform, labels = self.waveform.pin_memory(), self.labels.pin_memory()
        return Batch(waveform, labels, self.utterances.pin_memory(), self.unreadable)


class Crop(NamedTuple):
    """One training crop."""

    samples: np.ndarray  # float32 (crop_samples,)
    label: int
    row: int  # of the manifest
    unreadable: dict[str, str]  # as in `Batch`


class CropDataset(Dataset[Crop]):
    """Random crops of equal length from a manifest's utterances, with random speed and augmentation.

    An utterance shorter than the crop is repeated to fill it. Each speed other than 1 makes a new speaker: the label
    is `speed * num_speakers + speaker`, where `speed` is an index into the recipe's speeds.

    Args:
        manifest: the utterances.
        recipe: crop length, speeds, augmentation, seed.
        data_dir: the folder that the recipe's relative noise and response folders start from.
        source: reads the recordings; None: `Files` without a default channel.
        speakers: class index -> speaker, from an earlier run; None: those of the manifest.
        skip_bad: replace an utterance that can't be read by another of the same speaker.

    Raises:
        InputError: no recordings in the recipe's noise or response folders; an utterance whose speaker is not among
            `speakers`.
    """

    def __init__(
        self,
        manifest: Manifest,
        recipe: Recipe,
        data_dir: Path | None,
        source: Files | None = None,
        speakers: list[str] | None = None,
        skip_bad: bool = False,
    ) -> None:
        self.source = source or Files()
        self.manifest, self.config, self.seed = manifest, recipe.train, recipe.seed
        self.sample_rate = recipe.features.sample_rate
        self.augment = Augment(recipe.augment, self.sample_rate, data_dir or Path(), self._other_speech)
        self.speeds, self.speed_probability = recipe.augment.speeds, recipe.augment.speed_probability
        if self.speed_probability < 1 and 1 not in self.speeds:
            raise InputError(
                f"augment.speed_probability {self.speed_probability:g}: crops without a drawn speed have speed 1, "
                f"which is not among augment.speeds {list(self.speeds)}"
            )
        self.crop_samples = round(self.config.crop_s * self.sample_rate)
        self.skip_bad = skip_bad
        self.speakers = manifest.speakers if speakers is None else speakers
        classes = {speaker: index for index, speaker in enumerate(self.speakers)}
        if new := [speaker for speaker in manifest.speakers if speaker not in classes]:
            raise InputError(
                f"{len(new)} speakers of the data have no class in the training that is to be continued: {named(new)}"
            )
        self._speaker_index = np.array([classes[speaker] for speaker in manifest.speakers])[
            manifest.speaker_index
        ]
        self._rows = rows_of_epoch(manifest.speaker_index, self.config)
        self._cache: dict[int, np.ndarray] = {}
        self._cache_room = self.config.cache_mb * 1_000_000

    @property
    def num_classes(self) -> int:
        """Speakers times speeds."""
        return len(self.speakers) * len(self.speeds)

    @property
    def class_names(self) -> list[str]:
        """Class index -> speaker; names at speeds other than 1 end with the speed."""
        return [
            speaker if factor == 1 else f"{speaker}@speed{factor:g}"
            for factor in self.speeds
            for speaker in self.speakers
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, key: CropKey) -> Crop:
        """Return the crop of an epoch and item, identical in every run and process."""
        epoch, item = key
        row = int(self._rows[item])
        rng = np.random.default_rng([self.seed, epoch, item])
        choice = self._draw_speed(epoch, row, rng)
        factor = self.speeds[choice]
        length, unreadable = math.ceil(self.crop_samples * factor), {}
        for candidate in self._candidates(row):
            try:
                crop = self._read_crop(candidate, length, rng)
                break
            except InputError as error:
                if not self.skip_bad:
                    raise
                unreadable[self.manifest[candidate].id] = str(error)
        else:
            raise InputError(f"no utterance of a speaker can be read: {'; '.join(unreadable.values())}")
        if factor != 1:
            crop = np.resize(speed(crop, factor), self.crop_samples)
        label = choice * len(self.speakers) + int(self._speaker_index[row])
        return Crop(self.augment(crop, rng), label, candidate, unreadable)

    def _candidates(self, row: int) -> Iterator[int]:
        """Yield an utterance, then the others of its speaker, beginning with those after it."""
        same = np.flatnonzero(self._speaker_index == self._speaker_index[row])
        yield from np.roll(same, -int(np.searchsorted(same, row))).tolist()

    def _draw_speed(self, epoch: int, row: int, rng: np.random.Generator) -> int:
        """Return the index of a random speed."""
        if self.config.speakers_per_batch:
            # One speed for all crops of a speaker in a batch: at different speeds they would be different classes.
            rng = np.random.default_rng([self.seed, epoch, int(self._speaker_index[row]), 1])
        if self.speed_probability < 1 and rng.random() >= self.speed_probability:
            return self.speeds.index(1)
        return int(rng.integers(len(self.speeds)))

    def _other_speech(self, rng: np.random.Generator, num_samples: int) -> np.ndarray:
        """Return an excerpt of a random utterance, for babble."""
        row = int(rng.integers(len(self.manifest)))
        try:
            return self._read_crop(row, num_samples, rng)
        except InputError:
            if not self.skip_bad:
                raise
            return self._other_speech(rng, num_samples)

    def _read_crop(self, row: int, length: int, rng: np.random.Generator) -> np.ndarray:
        utterance = self.manifest[row]
        whole = self._cache.get(row)
        if whole is None and self._cache_room > 0:
            whole = self._read(utterance, utterance.start_s, utterance.duration_s)
            if self._cache_room >= 2 * len(whole):
                self._cache_room -= 2 * len(whole)
                self._cache[row] = np.round(np.clip(whole, -1, 1) * 32767).astype(np.int16)
                # Use the cached version as later epochs do, so that a resumed run with an empty cache is identical.
                whole = self._cache[row]
        if whole is not None:
            start = int(rng.integers(max(1, len(whole) - length + 1)))
            crop = whole[start : start + length]
            if crop.dtype == np.int16:
                crop = crop.astype(np.float32) / 32767
        else:
            available = utterance.duration_s
            if available is None:
                available = self.source.info(utterance.path).duration_s - utterance.start_s
            room = max(0.0, available - length / self.sample_rate)
            start_s = utterance.start_s + float(rng.random()) * room
            crop = self._read(utterance, start_s, min(available, length / self.sample_rate))
        if len(crop) < length:
            crop = np.resize(crop, length)  # np.resize repeats; ndarray.resize would pad
        return crop[:length]

    def _read(self, utterance: Utterance, start_s: float, duration_s: float | None) -> np.ndarray:
        path = utterance.path
        samples = self.source.read(path, start_s, duration_s, self.sample_rate, utterance.channel)
        if not np.isfinite(samples).all():
            raise InputError(f"{path}: samples that are not finite in a training crop")
        if np.abs(samples).max() > MAX_PEAK:
            raise InputError(f"{path}: {REASONS['not_scaled']}")
        return samples


def collate(crops: list[Crop]) -> Batch:
    """Return the crops of one batch as tensors."""
    samples, labels, rows, unreadable = zip(*crops, strict=True)
    return Batch(
        torch.from_numpy(np.stack(samples)),
        torch.tensor(labels),
        torch.tensor(rows),
        {name: reason for reasons in unreadable for name, reason in reasons.items()},
    )


def make_loader(
    dataset: CropDataset, order: BatchOrder, workers: int, pin_memory: bool = False
) -> DataLoader[Any]:
    """Return a loader of `Batch`es that reads ahead in `workers` processes (0: in this one); see `batches`."""
    return DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        # A separate generator: the loader would otherwise draw from the global one, which dropout uses too.
        generator=torch.Generator().manual_seed(0),
        worker_init_fn=_start_worker,
    )


def batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """Yield a loader's batches; errors in a data-loading process are raised as if they had occurred here.

    Raises:
        InputError: a recording can't be read.
        RuntimeError: a data-loading process died.
    """
    try:
        yield from loader
    except InputError as error:
        # An error from another process begins with that process's traceback.
        raise InputError(str(error).rpartition("InputError: ")[2].strip()) from None
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise RuntimeError(
            f"{error}\nA data-loading process died. Where memory ran out (signal 9), lower train.workers, "
            "train.cache_mb or train.batch_size."
        ) from error


def _start_worker(worker: int) -> None:
    """Limit a worker to one thread, since the training step needs the cores, and let it ignore Ctrl-C."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
