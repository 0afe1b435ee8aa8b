"""The enrolment store: identification by hand and by brute force, crashes, concurrent writers, the index."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from speakerverif.errors import InputError
from speakerverif.inference.enrollment import Store
from speakerverif.scoring import normalization

ENROLL_FOREVER = """
import sys, numpy as np
from speakerverif.inference.enrollment import Store
folder, who = sys.argv[1:]
store = Store(folder, "model", create=True)
rng = np.random.default_rng(0)
for i in range(int(1e9)):
    store.enroll(f"{who}{i}", rng.standard_normal((3, 8)))
    print(i, flush=True)
"""


def writer(folder: Path, who: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", ENROLL_FOREVER, str(folder), who]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def clusters(
    rng: np.random.Generator, speakers: int, dim: int, utterances: int = 1, cosine: float = 0.7
) -> tuple[np.ndarray, np.ndarray]:
    """Return models and queries whose expected similarity to their model is `cosine`."""
    centres = normalization.unit(rng.standard_normal((speakers, dim), dtype=np.float32))
    noise = normalization.unit(rng.standard_normal((speakers * utterances, dim), dtype=np.float32))
    own = np.repeat(centres, utterances, axis=0)
    return centres, cosine * own + np.sqrt(1 - cosine**2, dtype=np.float32) * noise


def test_identification_by_hand(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    assert store.enroll("anna", np.array([[10.0, 0.0], [0.0, 0.1]])) == 2  # model (1, 1) / √2
    assert store.enroll("bert", np.array([-1.0, 0.0])) == 1
    found = store.search(np.array([2.0, 0.0]))
    assert [name for name, _ in found] == ["anna", "bert"]
    assert_allclose([similarity for _, similarity in found], [np.sqrt(0.5), -1], rtol=1e-6)
    assert store.names() == ["anna", "bert"]


def test_identification_agrees_with_brute_force_and_follows_changes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    centres, utterances = clusters(rng, 50, 16, 3)
    store, other = Store(tmp_path, "model", create=True), Store(tmp_path, "model")
    for i in range(50):
        store.enroll(f"s{i:02}", utterances[3 * i : 3 * i + 3])
    models = normalization.unit_means(utterances.astype(np.float64), np.repeat(np.arange(50), 3), 50)
    names, found = store.models()
    assert names == [f"s{i:02}" for i in range(50)]
    assert_allclose(found, models, atol=1e-6)
    for query in centres[:5]:
        order = np.argsort(models @ query)[::-1][:7]
        candidates = other.search(query, top=7)
        assert [name for name, _ in candidates] == [f"s{i:02}" for i in order]
        assert_allclose([similarity for _, similarity in candidates], (models @ query)[order], atol=1e-6)

    store.enroll("new", centres[0])
    assert other.search(centres[0])[0][0] == "new"
    assert store.remove("new") == 1
    assert other.search(centres[0])[0][0] == "s00"
    assert "new" not in other.names()


def test_of_equal_speakers_the_first_enrolled_comes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    for name in ("zoe", "anna", "bert"):
        store.enroll(name, np.array([1.0, 2.0]))
    assert [name for name, _ in store.search(np.array([1.0, 2.0]), top=2)] == ["zoe", "anna"]


def test_a_killed_process_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    process = writer(tmp_path, "a")
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(30)]
    process.kill()
    acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()
    store = Store(tmp_path, "model")
    names = set(store.names())
    assert {f"a{i}" for i in acknowledged} <= names
    assert len(names) <= len(acknowledged) + 1  # at most one was written and not yet acknowledged
    assert store.enroll("a0", np.ones(8)) == 4  # and whole: three utterances and this one


def test_two_processes_create_and_write_at_once(tmp_path: Path) -> None:
    processes = {who: writer(tmp_path, who) for who in "ab"}
    for process in processes.values():
        assert process.stdout is not None
        for i in range(20):
            assert int(process.stdout.readline()) == i
    for process in processes.values():
        process.kill()
        process.communicate()
    names = Store(tmp_path, "model").names()
    assert {f"{who}{i}" for who in "ab" for i in range(20)} <= set(names)


def test_a_failed_enrolment_leaves_nothing_behind(tmp_path: Path) -> None:
    store = Store(tmp_path, "model", create=True)
    with pytest.raises(InputError, match=r"rows \[1\]: expected embeddings that are finite"):
        store.enroll("anna", np.array([[1.0, 2.0], [np.nan, 0.0]]))
    store.enroll("bert", np.ones(2))
    with pytest.raises(InputError, match="holds embeddings of 2 dimensions, found 3"):
        store.enroll("anna", np.ones(3))
    assert store.names() == ["bert"]


def test_another_model_s_embeddings_are_refused(tmp_path: Path) -> None:
    Store(tmp_path, "first", create=True).enroll("anna", np.ones(4))
    with pytest.raises(InputError, match="of model first, not of second"):
        Store(tmp_path, "second", create=True)


def test_errors_name_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no enrolment store"):
        Store(tmp_path / "none", "model")
    (tmp_path / "store.db").write_text("not a database, but long enough to be taken for one" * 20)
    with pytest.raises(InputError, match=r"store\.db: file is not a database"):
        Store(tmp_path, "model")
    store = Store(tmp_path / "empty", "model", create=True)
    with pytest.raises(InputError, match="nobody is enrolled"):
        store.search(np.ones(4))
    with pytest.raises(InputError, match="nobody named 'anna'"):
        store.remove("anna")
    with pytest.raises(InputError, match="found an empty one"):
        store.enroll(" ", np.ones(4))
    store.enroll("anna", np.ones(4))
    with pytest.raises(InputError, match="holds embeddings of 4 dimensions, found 5"):
        store.search(np.ones(5))


def test_without_faiss_the_index_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    store = Store(tmp_path, "model", create=True)
    store.enroll("anna", np.ones(4))
    with pytest.raises(InputError, match="pip install faiss-cpu"):
        store.build_index()


@pytest.mark.parametrize("coarse_from", [100, 10_000])
def test_the_index_agrees_with_exact_search_and_knows_who_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coarse_from: int
) -> None:
    pytest.importorskip("faiss").omp_set_num_threads(
        1
    )  # threads that wait for each other stall on a busy machine
    monkeypatch.setattr("speakerverif.inference._store_index.COARSE_FROM", coarse_from)
    rng = np.random.default_rng(1)
    models, queries = clusters(rng, 700, 32)
    store = Store(tmp_path, "model", create=True)
    store.enroll_all((f"s{i}", models[i]) for i in range(690))
    store.build_index()
    for query in queries[:20]:
        exact, indexed = store.search(query), store.search(query, use_index=True)
        assert indexed[0][0] == exact[0][0]
        assert_allclose(indexed[0][1], exact[0][1], atol=1e-6)

    for i in range(690, 700):
        store.enroll(f"s{i}", models[i])
    store.enroll("s0", models[1])  # whose model in the index is out of date
    for query in (models[695], models[0], models[1]):
        exact, indexed = store.search(query, top=3), store.search(query, top=3, use_index=True)
        assert [name for name, _ in indexed] == [name for name, _ in exact]
        assert_allclose([v for _, v in indexed], [v for _, v in exact], atol=1e-6)

    store.remove("s5")  # whose embeddings must not stay in the index
    assert not (tmp_path / "index.faiss").exists()
    with pytest.raises(InputError, match="build it first"):
        store.search(models[5], use_index=True)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta WHERE key = 'dim'",
        "UPDATE meta SET value = 'x' WHERE key = 'dim'",
        "UPDATE speakers SET name = CAST(X'ff41' AS TEXT) WHERE name = 'anna'",
        "UPDATE utterances SET embedding = X'00'",
    ],
)
def test_a_damaged_store_is_an_input_error(tmp_path: Path, damage: str) -> None:
    """Found by tools/fuzz.py: these were a TypeError, a UnicodeDecodeError and a ValueError."""
    Store(tmp_path, "model", create=True).enroll("anna", np.array([[3.0, 4.0]]))
    with sqlite3.connect(tmp_path / "store.db") as db:
        db.execute(damage)
    with pytest.raises(InputError, match=r"store\.db: (damaged|Could not decode)|holds embeddings of x"):
        store = Store(tmp_path)
        store.names()
        store.models()
        store.search(np.array([1.0, 0.0]))
