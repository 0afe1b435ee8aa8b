"""Your own recordings as a corpus: speakers held out, and their trials."""

from pathlib import Path

import pytest

from speakerverif.corpora import own, prepare
from speakerverif.corpora._prepared import Prepared
from speakerverif.data.manifest import Manifest
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError


def lists(root: Path, out: Path, **options: int) -> tuple[Prepared, Manifest, TrialList]:
    prepared = prepare("own", root, out, **options)
    assert isinstance(prepared, Prepared)
    return prepared, Manifest.read(prepared.train), TrialList.read(prepared.trials["validation"])


def test_a_folder_per_speaker(tiny_corpus: Path, tmp_path: Path) -> None:
    prepared, train, trials = lists(tiny_corpus, tmp_path)
    held_out = {name.partition("/")[0] for name in trials.ids}
    assert len(held_out) == 2 and not held_out & set(train.speakers)
    assert len(train) == 16 and train[0].duration_s == 1.0
    # 2 speakers of 4 recordings have 12 target pairs, and as many of the 16 others are drawn.
    assert len(trials) == 24 and trials.labels is not None and trials.labels.sum() == 12
    same = [a.partition("/")[0] == b.partition("/")[0] for a, b in zip(*sides(trials), strict=True)]
    assert same == trials.labels.tolist()
    assert "24 trials" in prepared.notes[-1] and "train: 4 speakers, 16 recordings" in prepared.notes
    assert all(Path(u.path).is_file() for u in prepared.utterances(trials.ids))


def sides(trials: TrialList) -> tuple[list[str], list[str]]:
    return trials.enroll_ids(), trials.test_ids()


def test_the_seed_decides_who_is_held_out(tiny_corpus: Path, tmp_path: Path) -> None:
    drawn = [
        lists(tiny_corpus, tmp_path / str(i), seed=seed)[1].speakers for i, seed in enumerate((1, 1, 2, 3))
    ]
    assert drawn[0] == drawn[1] and len({tuple(speakers) for speakers in drawn}) > 1


def test_a_list_gives_the_same_as_its_folder(
    tiny_corpus: Path, tiny_manifest: Manifest, tmp_path: Path
) -> None:
    tiny_manifest.write(tmp_path / "own.tsv")
    _, train, trials = lists(tmp_path / "own.tsv", tmp_path / "a")
    _, of_folder, trials_of_folder = lists(tiny_corpus, tmp_path / "b")
    assert train.speakers == of_folder.speakers and sides(trials) == sides(trials_of_folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a/1.wav", "b/1.wav", "b/2.wav", "c/1.wav", "c/2.wav"], "3 speakers, 2 of them with two"),
        (["a/1.wav", "b/1.wav", "c/1.wav", "d/1.wav", "d/2.wav"], "4 speakers, 1 of them with two"),
        (["a/1.wav", "b.wav"], "1 recordings are in no speaker's folder, first: b.wav"),
        (["a/1.txt", "b/.hidden.wav"], "no recordings; expected one folder of recordings per speaker"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    files: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "durations", lambda paths: [1.0] * len(paths))
    for name in files:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).touch()
    with pytest.raises(InputError, match=message):
        prepare("own", tmp_path / "data", tmp_path / "out")
