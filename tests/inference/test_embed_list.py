"""A list that is embedded in several runs gives the table of one run, and nothing is embedded twice."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.cli.entry import main
from speakerverif.data._manifest_files import Listed
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.tables import read_table
from speakerverif.data.manifest import Manifest, Utterance
from speakerverif.errors import InputError
from speakerverif.inference import embed_list as module
from speakerverif.inference._spooled_list import SpooledList
from speakerverif.inference.embed import embed
from speakerverif.inference.embed_list import embed_list
from speakerverif.models.folder import ModelFolder, read_model_folder


class Killed(BaseException):
    """Ends a run as a signal does: nothing catches it."""


@pytest.fixture(scope="module")
def folder(tiny_model: Path) -> ModelFolder:
    return read_model_folder(tiny_model)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BATCHES", 1)


@pytest.fixture
def listed(tiny_corpus: Path) -> Manifest:
    """Seventeen recordings, of which some can't be embedded, and a part of nothing but such."""
    files = sorted(tiny_corpus.rglob("*.wav"))
    rows = [Utterance(f"ü{i}", str(files[i % len(files)]), "", 0.0, 0.5 + 0.05 * i) for i in range(14)]
    rows.insert(2, Utterance("missing", str(tiny_corpus / "none.wav"), ""))
    rows += [Utterance(f"gone{i}", str(tiny_corpus / "none.wav"), "") for i in range(2)]
    return Manifest.from_utterances(rows)


def test_the_table_is_that_of_embed(folder: ModelFolder, listed: Manifest, tmp_path: Path) -> None:
    done = embed_list(folder, listed, tmp_path / "e.npz", batch_size=3)
    whole = embed(folder, listed)
    table = EmbeddingTable.load(tmp_path / "e.npz")
    assert list(table.ids) == list(whole.ids) and table.fingerprint == folder.fingerprint
    np.testing.assert_allclose(table.embeddings, whole.embeddings, atol=1e-4)
    np.testing.assert_array_equal(table.durations, whole.durations)
    assert (done.embedded, done.resumed, done.failed) == (len(whole), 0, whole.failed)
    assert [path.name for path in tmp_path.iterdir()] == ["e.npz"]


@pytest.mark.parametrize("ending", [".npz", ".ark", ".parquet"])
def test_stopped_runs_end_in_the_same_bytes(
    folder: ModelFolder, listed: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    (tmp_path / "whole").mkdir()
    embed_list(folder, listed, tmp_path / "whole" / f"e{ending}", batch_size=3)
    rng = random.Random(ending)
    done: list[str] = []

    def embed_and_die(model: ModelFolder, some: Manifest, **options: Any) -> EmbeddingTable:
        table = embed(model, some, **options)
        if rng.random() < 0.5:
            raise Killed
        done.extend(u.id for u in some)
        return table

    monkeypatch.setattr(module, "embed", embed_and_die)
    out = tmp_path / f"e{ending}"
    for run in range(100):  # noqa: B007
        try:
            last = embed_list(folder, listed, out, batch_size=3)
            break
        except Killed:
            assert not out.exists()
            (tmp_path / f"e{ending}.999999.part").write_text("left by a killed process")
    assert run and last.resumed
    assert done == [u.id for u in listed]  # each once, in order
    whole = tmp_path / "whole" / out.name
    if ending == ".ark":  # the index of an archive names the archive
        assert whole.with_suffix(".scp").read_text() == out.with_suffix(".scp").read_text().replace(
            str(tmp_path), str(whole.parent)
        )
    assert out.read_bytes() == whole.read_bytes()
    assert not [path for path in tmp_path.iterdir() if "part" in path.name]


def test_parts_of_another_run_are_not_mixed_in(
    folder: ModelFolder, listed: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "e.npz"

    def stop(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "write_tables", stop)
        embed_list(folder, listed, out, batch_size=3)
    before = sorted((path.name, path.read_bytes()) for path in Path(f"{out}.parts").iterdir())
    shorter = listed.select(np.arange(5))
    changed_runs: list[tuple[Manifest, dict[str, Any], str]] = [
        (shorter, {"batch_size": 3}, "another list"),
        (listed, {"batch_size": 4}, "another batch_size"),
        (listed, {"batch_size": 3, "crops": 2}, "another crops"),
    ]
    for other, options, what in changed_runs:
        with pytest.raises(InputError, match=f"holds the parts of a run with {what}"):
            embed_list(folder, other, out, **options)
    assert sorted((path.name, path.read_bytes()) for path in Path(f"{out}.parts").iterdir()) == before
    assert embed_list(folder, listed, out, batch_size=3).resumed == len(listed)


def test_two_processes_don_t_write_one_table(folder: ModelFolder, listed: Manifest, tmp_path: Path) -> None:
    with (
        module._locked(tmp_path / "e.npz.parts"),
        pytest.raises(InputError, match="another process is writing"),
    ):
        embed_list(folder, listed, tmp_path / "e.npz")


def test_parts_end_by_the_size_of_their_audio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PART_BATCHES", 16)
    (tmp_path / "a.wav").write_bytes(bytes(9 << 20))
    rows = [Utterance(str(i), str(tmp_path / "a.wav"), "", 0.0, 100.0 if i < 10 else None) for i in range(20)]
    spooled = SpooledList(tmp_path / "list.db", enumerate(rows, 1))
    sizes = [len(module._next_part(spooled, start, 2).utterances) for start in (0, 3, 10, 19)]
    assert sizes == [3, 3, 1, 1]  # 8 MB: three of 3.2 MB each, then one of 9 MB


def test_a_recording_that_changed_between_two_runs_is_embedded_again(
    folder: ModelFolder,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    files = sorted(tiny_corpus.rglob("*.wav"))[:6]
    rows = [
        Utterance(f"u{i}", str(shutil.copy(path, tmp_path / f"{i}.wav")), "") for i, path in enumerate(files)
    ]
    manifest, out = Manifest.from_utterances(rows), tmp_path / "e.npz"
    monkeypatch.setattr(module, "PART_BYTES", 1 << 30)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(module, "write_tables", _die)
        embed_list(folder, manifest, out, batch_size=2)
    # Another recording of the same size, one that is gone, and one whose time alone is another.
    shutil.copy(files[0], tmp_path / "1.wav")
    (tmp_path / "5.wav").unlink()
    embedded: list[str] = []

    def watched(model: ModelFolder, some: Manifest, **options: Any) -> EmbeddingTable:
        embedded.extend(u.id for u in some)
        return embed(model, some, **options)

    monkeypatch.setattr(module, "embed", watched)
    done = embed_list(folder, manifest, out, batch_size=2)
    assert embedded == ["u0", "u1", "u4", "u5"] and done.resumed == 2
    assert "1 recordings changed since they were embedded, and are embedded again: u1" in caplog.text
    assert list(done.failed) == ["u5"]
    whole = embed_list(folder, manifest, tmp_path / "whole.npz", batch_size=2)
    assert whole.embedded == 5
    assert out.read_bytes() == (tmp_path / "whole.npz").read_bytes()


def _die(*_: object, **__: object) -> None:
    raise Killed


def test_a_repeated_id_leaves_nothing_behind(folder: ModelFolder, tmp_path: Path) -> None:
    rows = [
        Listed(line, Utterance(name, "a.wav", "")) for line, name in ((2, "a"), (3, "b"), (7, "a"), (9, "b"))
    ]
    with pytest.raises(InputError, match="id 'a' is repeated: lines 2 and 7"):
        embed_list(folder, rows, tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


def test_a_damaged_plan_of_a_former_run(folder: ModelFolder, listed: Manifest, tmp_path: Path) -> None:
    parts = tmp_path / "e.npz.parts"
    parts.mkdir()
    for content in ("{", "[]", "\0"):
        (parts / "plan.json").write_text(content)
        with pytest.raises(InputError, match=r"damaged .*; remove the folder"):
            embed_list(folder, listed, tmp_path / "e.npz")


# A list of as many rows as it is told, each embedded as a constant; prints the peak of resident memory in MB.
LONG_LIST = r"""
import re, sys
import numpy as np
from speakerverif.data._manifest_files import Listed
from speakerverif.data.embeddings import EmbeddingTable
from speakerverif.data.formats.manifests import iter_manifest
from speakerverif.inference import embed_list as module
from speakerverif.inference._spooled_list import SpooledList
from speakerverif.models.folder import read_model_folder

model, table, out = sys.argv[1:]
def embed(folder, some, **_):
    ids = [name.decode() for name in some.ids.tolist()]
    ones = np.ones(len(ids), np.float32)
    return EmbeddingTable(ids, np.ones((len(ids), 16), np.float32), ones, ones, ["ok"] * len(ids), "f")
module.embed = embed
done = module.embed_list(read_model_folder(model), iter_manifest(table), module.Path(out))
# Not ru_maxrss, which begins with the memory of the process that started this one.
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]
print(done.embedded, int(peak) / 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_a_list_of_a_million(tiny_model: Path, tmp_path: Path) -> None:
    peaks = {}
    # The reader's blocks of 8 MB are full in both lists.
    for size in (500_000, 1_000_000):
        with open(tmp_path / "m.tsv", "w") as file:
            file.write("id\tpath\tspeaker\tstart_s\tduration_s\n")
            for i in range(size):
                file.write(
                    f"id{i:07d}/of/a/recording/{i:05d}.wav\tpath/of/{i:07d}.wav\ts{i % 7000}\t0\t4.0\n"
                )
        command = [sys.executable, "-c", LONG_LIST, str(tiny_model), str(tmp_path / "m.tsv")]
        done = subprocess.run([*command, str(tmp_path / "e.npz")], capture_output=True, text=True, check=True)
        embedded, peaks[size] = map(float, done.stdout.split())
        assert embedded == size
    print(peaks)
    # A list of utterances takes over 500 bytes a row, that is 250 MB more; 14 MB were measured.
    assert peaks[1_000_000] < peaks[500_000] + 50


def test_nothing_can_be_embedded(folder: ModelFolder, tmp_path: Path) -> None:
    manifest = Manifest.from_utterances([Utterance("a", str(tmp_path / "none.wav"), "")])
    with pytest.raises(InputError, match="nothing could be embedded; no file was written; a: "):
        embed_list(folder, manifest, tmp_path / "e.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_killed_processes(tiny_model: Path, tiny_corpus: Path, tmp_path: Path) -> None:
    files = sorted(tiny_corpus.rglob("*.wav"))
    rows = [Utterance(f"u{i}", str(files[i % len(files)]), "", 0.0, 0.5 + i % 6 / 10) for i in range(3000)]
    Manifest.from_utterances(rows).write(tmp_path / "m.tsv")
    line = ["embed", "--manifest", str(tmp_path / "m.tsv"), "--model", str(tiny_model), "--threads", "1"]
    line += ["--engine", "torch", "--batch-size", "8"]
    assert main([*line, "--out", str(tmp_path / "whole.npz")]) == 0
    rng, kills = random.Random(0), 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "speakerverif", *line, "--out", str(tmp_path / "e.npz")],
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (tmp_path / "e.npz.parts").exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 1.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        if process.wait() == 0:
            break
    else:
        assert main([*line, "--out", str(tmp_path / "e.npz")]) == 0
    assert kills
    assert (tmp_path / "e.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.npz", "m.tsv", "whole.npz"]
    assert len(read_table(tmp_path / "e.npz")) == 3000
    shutil.rmtree(tmp_path)
