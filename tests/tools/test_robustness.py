"""The robustness table: what is done to a recording follows from its name, and a row stands for itself."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile

from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.trials import TrialList
from speakerverif.errors import InputError
from speakerverif.scoring.cosine import cosine
from tests.conftest import RATE, voice
from tools import robustness
from tools.robustness import Change


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noise")
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(folder / f"{i}.wav", 0.1 * rng.standard_normal(3 * RATE), RATE)
    return folder


@pytest.fixture(scope="module")
def changes(noise: Path) -> dict[str, Change]:
    return robustness.changes(noise, noise)


def test_every_change_gives_finite_sound_and_leaves_its_input(changes: dict[str, Change]) -> None:
    clean = voice(1, 0, 1.5)
    before = clean.copy()
    for name, change in changes.items():
        heard = change(clean, np.random.default_rng(0))
        assert np.isfinite(heard).all(), name
        assert len(heard) >= RATE, name
        assert np.array_equal(clean, before), name
        assert np.array_equal(heard, clean) == (name in (robustness.CLEAN, "middle 3 s", "middle 2 s")), name


def test_snr_is_as_named_and_the_noise_the_same_at_every_one(changes: dict[str, Change]) -> None:
    clean = voice(1, 0, 1.5)
    added = {snr: changes[f"noise {snr} dB"](clean, np.random.default_rng(7)) - clean for snr in (20, 0)}
    for snr, noise in added.items():
        assert 10 * np.log10(np.mean(clean**2) / np.mean(noise**2)) == pytest.approx(snr, abs=0.01)
    assert np.allclose(added[0], 10 * added[20], atol=1e-4)


def test_cuts_are_from_the_middle(changes: dict[str, Change]) -> None:
    ramp = np.arange(4 * RATE, dtype=np.float32)
    assert np.array_equal(changes["middle 2 s"](ramp, np.random.default_rng(0)), ramp[RATE : 3 * RATE])
    assert np.array_equal(changes["backwards"](ramp, np.random.default_rng(0)), ramp[::-1])


def test_what_is_heard_follows_from_seed_and_name(changes: dict[str, Change], tiny_corpus: Path) -> None:
    def hear(name: str, seed: int) -> np.ndarray:
        source = robustness.Changed(tiny_corpus, changes["noise 0 dB"], seed)
        return source.read(name, 0, None, RATE)

    assert np.array_equal(hear("spk0/0.wav", 1), hear("spk0/0.wav", 1))
    assert not np.array_equal(hear("spk0/0.wav", 1), hear("spk0/0.wav", 2))
    other = robustness.Changed(tiny_corpus.parent, changes["noise 0 dB"], 1)
    assert not np.array_equal(
        hear("spk0/0.wav", 1), other.read(f"{tiny_corpus.name}/spk0/0.wav", 0, None, RATE)
    )


@pytest.mark.parametrize("block_s", [0.3, 0.5, 100.0])
def test_a_long_recording_is_changed_as_a_whole(
    changes: dict[str, Change], tiny_corpus: Path, block_s: float
) -> None:
    source = robustness.Changed(tiny_corpus, changes["noise 10 dB"], 1)
    blocks = list(source.blocks("spk0/0.wav", block_s, RATE))
    assert np.array_equal(np.concatenate(blocks), source.read("spk0/0.wav", 0, None, RATE))
    assert {len(block) for block in blocks[:-1]} <= {round(block_s * RATE)}


def test_the_test_side_alone_is_the_changed_one() -> None:
    def table(vectors: dict[str, list[float]], failed: dict[str, str]) -> EmbeddingTable:
        rows = np.array(list(vectors.values()), np.float32)
        nothing = np.full(len(rows), np.nan, np.float32)
        return EmbeddingTable(list(vectors), rows, nothing, nothing, ["ok"] * len(rows), "x", failed)

    trials = TrialList(
        ("a", "b", "c"),
        np.array([0, 1, 0], np.int32),
        np.array([1, 2, 2], np.int32),
        np.array([1, 0, 1], bool),
    )
    clean = table({"a": [1, 0], "b": [0, 1], "c": [1, 1]}, {})
    changed = table({"a": [3, 0], "b": [4, 0]}, {"c": "silent"})
    pairs, both, kept = robustness.joined(trials, clean, changed)
    assert pairs.labels is not None
    assert kept.tolist() == [0] and pairs.labels.tolist() == [True]
    assert cosine(pairs, both).scores.tolist() == [1.0]  # clean a, changed b


def test_the_table_of_two_models(
    noise: Path,
    tiny_model: Path,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = [f"spk{s}/{n}.wav" for s in (0, 1, 3, 5) for n in (0, 3)]
    rows = [f"{int(a[:4] == b[:4])} {a} {b}" for a, b in combinations(names, 2)]
    (tmp_path / "trials.txt").write_text("".join(f"{row}\n" for row in rows))
    models = ["--model", str(tiny_model), "--model", str(tiny_model)]
    common = [str(tmp_path / "trials.txt"), "--audio-root", str(tiny_corpus), "--noise", str(noise), *models]

    def run(*only: str) -> list[str]:
        arguments = [word for name in only for word in ("--only", name)]
        monkeypatch.setattr(sys, "argv", ["robustness.py", *common, *arguments])
        assert robustness.main() == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]

    both = run(robustness.CLEAN, "noise 5 dB")
    assert len(both) == 3 and run("noise 5 dB")[1] == both[2]
    cells = both[2].strip("| ").split(" | ")
    assert cells[0] == "noise 5 dB" and cells[1] == cells[2]
    monkeypatch.setattr(sys, "argv", ["robustness.py", *common, "--only", "noise 7 dB"])
    assert robustness.main() == 2
    assert "noise 5 dB" in capsys.readouterr().err


def test_models_of_another_rate_are_refused(tiny_corpus: Path) -> None:
    with pytest.raises(InputError, match="16000 Hz"):
        robustness.Changed(tiny_corpus, lambda w, rng: w, 0).read("spk0/0.wav", 0, None, 8000)
