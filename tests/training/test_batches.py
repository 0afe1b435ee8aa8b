"""Batches and crops are functions of the seed and the position, and of nothing else."""

import dataclasses
import os
import signal
from pathlib import Path

import numpy as np
import pytest

from speakerverif.audio import reading
from speakerverif.config import AugmentConfig, Recipe, TrainConfig
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.training.batches import (
    BatchOrder,
    Crop,
    CropDataset,
    batches,
    collate,
    make_loader,
    rows_of_epoch,
)

INDEX = np.repeat(np.arange(5), [3, 3, 3, 3, 1])


def test_every_crop_once_an_epoch_across_epochs() -> None:
    order = BatchOrder(INDEX, TrainConfig(epochs=4, batch_size=4), seed=3)
    keys = [key for batch in order for key in batch]
    assert len(order) == 13 and len(keys) == 52
    for epoch in range(4):
        assert sorted(item for e, item in keys if e == epoch) == list(range(13))
    first, second = ([item for e, item in keys if e == epoch] for epoch in (0, 1))
    assert first != second


def test_speakers_of_few_utterances_are_visited_as_often() -> None:
    speakers = np.array([0, 0, 1, 0, 0, 0, 2, 2])  # 5, 1 and 2 utterances
    config = TrainConfig(epochs=2, batch_size=3, crops_per_speaker=4)
    rows = rows_of_epoch(speakers, config)
    assert rows.tolist() == [0, 1, 2, 2, 2, 2, 3, 4, 5, 6, 6, 7, 7]
    order = BatchOrder(speakers, config, seed=0)
    first_epoch = [item for batch in order for e, item in batch if e == 0]
    assert sorted(first_epoch) == list(range(13))
    balanced = dataclasses.replace(config, batch_size=6, speakers_per_batch=2)
    for batch in BatchOrder(speakers, balanced, seed=0):
        counts = np.unique(speakers[rows[[item for _, item in batch]]], return_counts=True)[1]
        assert counts.tolist() == [3, 3]


def test_order_resumes_anywhere() -> None:
    config = TrainConfig(epochs=3, batch_size=4, crops_per_utterance=2)
    whole = list(BatchOrder(INDEX, config, seed=1))
    for step in (1, 7, len(whole) - 1):
        assert list(BatchOrder(INDEX, config, seed=1, first_step=step)) == whole[step:]
    assert list(BatchOrder(INDEX, config, seed=2)) != whole


def test_balanced_batches_hold_different_speakers_with_equally_many_utterances() -> None:
    config = TrainConfig(epochs=8, batch_size=6, speakers_per_batch=2)
    order = BatchOrder(INDEX, config, seed=0)
    for step, batch in enumerate(order):
        speakers, counts = np.unique([INDEX[item] for _, item in batch], return_counts=True)
        assert len(speakers) == 2 and set(counts) == {3}
        rows = [item for _, item in batch if INDEX[item] != 4]  # speaker 4 has one utterance only
        assert len(set(rows)) == len(rows)
        assert {e for e, _ in batch} == {step}
    resumed = list(BatchOrder(INDEX, config, seed=0, first_step=5))
    assert resumed == list(BatchOrder(INDEX, config, seed=0))[5:]
    with pytest.raises(InputError, match="have 5 speakers"):
        BatchOrder(INDEX, TrainConfig(batch_size=6, speakers_per_batch=6), seed=0)


@pytest.fixture
def plain(tiny_recipe: Recipe) -> Recipe:
    """The tiny recipe without augmentation."""
    return dataclasses.replace(tiny_recipe, augment=AugmentConfig())


def test_a_crop_is_a_part_of_its_recording(plain: Recipe, tiny_manifest: Manifest) -> None:
    dataset = CropDataset(tiny_manifest, plain, None)
    crop, label, row, _ = dataset[(0, 7)]
    whole = reading.read(tiny_manifest[7].path)
    assert crop.shape == (9600,) and crop.dtype == np.float32
    assert (label, row) == (1, 7)
    windows = np.lib.stride_tricks.sliding_window_view(whole, len(crop))
    assert np.abs(windows - crop).max(axis=1).min() < 1e-4


def test_a_short_recording_is_repeated(plain: Recipe, tiny_manifest: Manifest) -> None:
    recipe = dataclasses.replace(plain, train=dataclasses.replace(plain.train, crop_s=2.5))
    crop, *_ = CropDataset(tiny_manifest, recipe, None)[(0, 0)]
    whole = reading.read(tiny_manifest[0].path)
    np.testing.assert_allclose(crop, np.resize(whole, 40000), atol=1e-6)


def test_the_cache_gives_parts_of_the_same_recordings(plain: Recipe, tiny_manifest: Manifest) -> None:
    recipe = dataclasses.replace(plain, train=dataclasses.replace(plain.train, cache_mb=1))
    dataset = CropDataset(tiny_manifest, recipe, None)
    cold = dataset[(0, 3)][0]
    dataset[(1, 3)]
    assert np.array_equal(cold, dataset[(0, 3)][0])
    windows = np.lib.stride_tricks.sliding_window_view(reading.read(tiny_manifest[3].path), len(cold))
    assert np.abs(windows - cold).max(axis=1).min() < 1e-4


def test_crops_depend_on_epoch_and_item_alone(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    first, second = (CropDataset(tiny_manifest, tiny_recipe, None) for _ in range(2))
    for key in ((0, 0), (0, 1), (3, 20)):
        ours, theirs = first[key], second[key]
        assert np.array_equal(ours[0], theirs[0]) and ours[1:] == theirs[1:]
    assert not np.array_equal(first[(0, 0)][0], first[(1, 0)][0])


def test_each_speed_is_a_class_of_its_own(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    dataset = CropDataset(tiny_manifest, tiny_recipe, None)
    assert dataset.num_classes == 12 and dataset.class_names[7] == "spk1@speed0.9"
    labels = {dataset[(epoch, 4)][1] for epoch in range(12)}
    assert labels == {1, 7}


def test_without_speeds_drawn_the_classes_stay(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    augment = dataclasses.replace(tiny_recipe.augment, speeds=(0.9, 1.0, 1.1), speed_probability=0.0)
    dataset = CropDataset(tiny_manifest, dataclasses.replace(tiny_recipe, augment=augment), None)
    assert dataset.num_classes == 18 and dataset.class_names[7] == "spk1"
    assert {dataset[(epoch, 4)][1] for epoch in range(12)} == {7}
    half = dataclasses.replace(augment, speed_probability=0.5)
    dataset = CropDataset(tiny_manifest, dataclasses.replace(tiny_recipe, augment=half), None)
    labels = [dataset._draw_speed(0, 0, np.random.default_rng(n)) for n in range(600)]
    assert abs(labels.count(1) / 600 - 2 / 3) < 0.08 and set(labels) == {0, 1, 2}
    without = dataclasses.replace(half, speeds=(0.9, 1.1))
    with pytest.raises(InputError, match=r"not among augment.speeds \[0.9, 1.1\]"):
        CropDataset(tiny_manifest, dataclasses.replace(tiny_recipe, augment=without), None)


def test_in_a_balanced_batch_a_speaker_has_one_speed(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    config = dataclasses.replace(tiny_recipe.train, speakers_per_batch=2)
    dataset = CropDataset(tiny_manifest, dataclasses.replace(tiny_recipe, train=config), None)
    order = BatchOrder(tiny_manifest.speaker_index, config, tiny_recipe.seed)
    labels = [[dataset[key][1] for key in batch] for batch in order]
    assert all(len(set(batch)) == 2 and len(batch) == 6 for batch in labels)
    assert {label // 6 for batch in labels for label in batch} == {0, 1}


def test_errors_of_data_loading_processes_read_as_if_from_here(
    tiny_recipe: Recipe, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    broken = Manifest.from_utterances(
        [Utterance(name, str(tmp_path / "no.wav"), "s", 0.0, 1.0) for name in "ab"]
    )
    dataset = CropDataset(broken, dataclasses.replace(tiny_recipe, augment=AugmentConfig()), None)
    order = BatchOrder(np.zeros(2, int), TrainConfig(batch_size=2), seed=0)
    with pytest.raises(InputError) as here:
        next(batches(make_loader(dataset, order, workers=0)))
    with pytest.raises(InputError) as there:
        next(batches(make_loader(dataset, order, workers=1)))
    expected = f"{tmp_path / 'no.wav'}: no such file, or none that may be read"
    assert str(there.value) == str(here.value) == expected


def test_a_killed_data_loading_process_is_named(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    class Killed(CropDataset):
        def __getitem__(self, key: tuple[int, int]) -> Crop:
            os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(key)

    dataset = Killed(tiny_manifest, tiny_recipe, None)
    order = BatchOrder(tiny_manifest.speaker_index, tiny_recipe.train, tiny_recipe.seed)
    with pytest.raises(RuntimeError, match=r"DataLoader worker(.|\n)*lower train.workers"):
        next(batches(make_loader(dataset, order, workers=1)))


def test_loader_gives_batches_in_order(tiny_recipe: Recipe, tiny_manifest: Manifest) -> None:
    dataset = CropDataset(tiny_manifest, tiny_recipe, None)
    order = BatchOrder(tiny_manifest.speaker_index, tiny_recipe.train, tiny_recipe.seed)
    for batch, keys in zip(make_loader(dataset, order, workers=0), order, strict=True):
        assert batch.waveform.shape == (6, 9600)
        assert batch.utterances.tolist() == [item for _, item in keys]
    assert collate([dataset[(0, 0)]]).labels.dtype.is_signed


def test_absent_noise_is_named_at_once(tiny_recipe: Recipe, tiny_manifest: Manifest, tmp_path: Path) -> None:
    augment = dataclasses.replace(tiny_recipe.augment, noise_dir="no-such-folder")
    with pytest.raises(InputError, match="no-such-folder"):
        CropDataset(tiny_manifest, dataclasses.replace(tiny_recipe, augment=augment), tmp_path)
