"""Embedding tables are checked whole: types, shapes, numbers and ids, before a table is made of them."""

import io
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speakerverif.data.embeddings import EmbeddingTable, save_parts
from speakerverif.data.formats.tables import read_table, write_table, write_tables
from speakerverif.errors import InputError

IDS, VECTORS = np.array(["a", "b"]), np.eye(2, 3, dtype=np.float32)


def npz(path: Path, **arrays: Any) -> Path:
    contents: dict[str, Any] = {"ids": IDS, "embeddings": VECTORS, **arrays}
    np.savez(path, **contents)
    return path


def forged(
    path: Path, name: str, header: dict[str, Any], data: bytes = b"", compressed: bool = False
) -> Path:
    """Write an archive in which one array has a header of its own."""
    npz(path)
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"fortran_order": False} | header)
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    whole = zipfile.ZipFile(path)
    others = {info: whole.read(info) for info in whole.namelist() if info != f"{name}.npy"}
    with zipfile.ZipFile(path, "w", kind) as archive:
        for info, content in others.items():
            archive.writestr(info, content)
        archive.writestr(f"{name}.npy", file.getvalue() + data)
    return path


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"ids": np.array(["a", None], object)}, "of type object"),
        ({"embeddings": np.array([[1, "x"], [2, 3]], object)}, "of type object"),
        ({"embeddings": np.zeros(2, [("x", "f4"), ("y", "f4")])}, "expected plain arrays"),
        ({"embeddings": np.zeros((2, 3), complex)}, "of type complex128"),
        ({"embeddings": np.array([["1", "2"], ["3", "4"]])}, "of type <U1"),
        ({"embeddings": np.zeros((2, 3), "M8[s]")}, r"of type datetime64"),
        ({"embeddings": np.array([[0, 1], [np.nan, 1]], "f4")}, "embedding of 'b' holds nan"),
        ({"embeddings": np.array([[np.inf, 1], [0, 1]])}, "embedding of 'a' holds nan, infinity"),
        ({"embeddings": np.array([[1e300, 1], [0, 1]])}, "beyond float32"),
        ({"embeddings": np.zeros(2)}, r"expected embeddings \(N, dim\)"),
        ({"embeddings": np.zeros((2, 3, 4))}, r"expected embeddings \(N, dim\)"),
        ({"embeddings": np.zeros((3, 2))}, r"expected embeddings \(N, dim\)"),
        ({"embeddings": np.zeros((2, 0))}, "one dimension or more"),
        ({"ids": np.array([]), "embeddings": np.zeros((0, 3))}, "one row"),
        ({"ids": np.array([["a", "b"]])}, r"found ids \(1, 2\)"),
        ({"ids": np.array("a")}, r"found ids \(\)"),
        ({"ids": np.array(["a", "a"])}, "'a' is repeated: rows 0 and 1"),
        ({"ids": np.array(["a", ""])}, "id of row 1: ''"),
        ({"ids": np.array(["a", "b\n"])}, r"id of row 1: 'b\\n'"),
        ({"ids": np.array([b"a", b"\xff"])}, "not UTF-8"),
        ({"ids": np.array([1.5, 2.5])}, "ids of type float64"),
        ({"ids": np.array([97, 0x110000], "<u4").view("<U1")}, "not Unicode"),
        ({"ids": np.array([97, 0xD800], "<u4").view("<U1")}, "not Unicode"),
        ({"durations": np.array([-1.0, 1])}, "durations of 'a': -1.0"),
        ({"speech": np.array([1, np.inf])}, "speech of 'b': inf"),
        ({"durations": np.ones((2, 2))}, "durations"),
        ({"durations": np.array(["1", "2"])}, "expected seconds"),
        ({"status": np.array([1, 2])}, "expected texts"),
        ({"fingerprint": np.array(["a", "b"])}, "expected one text"),
        ({"fingerprint": np.array(3.5)}, "expected one text"),
    ],
)
def test_what_no_table_holds(tmp_path: Path, arrays: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        EmbeddingTable.load(npz(tmp_path / "e.npz", **arrays))


def test_what_a_table_may_hold(tmp_path: Path) -> None:
    arrays = {
        "ids": np.array([7, 8]),
        "embeddings": np.asfortranarray(np.eye(2, 3, dtype=">f8")),
        "durations": np.array([np.nan, 2]),
        "fingerprint": np.array(["f00d"]),
        "notes": np.array([{"not": "read"}], object),
    }
    table = EmbeddingTable.load(npz(tmp_path / "e.npz", **arrays))
    assert list(table.ids) == ["7", "8"] and table.fingerprint == "f00d"
    assert table.embeddings.tolist() == np.eye(2, 3).tolist() and table.embeddings.dtype == np.float32
    assert np.isnan(table.durations[0]) and table.durations[1] == 2
    table.embeddings[0] = 1  # a table's arrays can be written to
    np.savez_compressed(tmp_path / "z.npz", ids=np.array([b"a", "ü".encode()]), embeddings=VECTORS)
    assert list(EmbeddingTable.load(tmp_path / "z.npz").ids) == ["a", "ü"]


@pytest.mark.parametrize(
    ("shape", "descr", "data"),
    [
        ((2, 1 << 62), "<f4", b""),
        ((1 << 40, 1 << 40), "<f4", b""),
        ((2, -3), "<f4", b""),
        ((2, 3), "<f4", bytes(20)),
        ((2, 3), "<f4", bytes(28)),
        ((2, 3), "|V4", bytes(24)),
        ((2, 3), "<f4000", bytes(24)),
        ((2.5, 3), "<f4", bytes(24)),
    ],
)
def test_shapes_that_overflow_or_lie(tmp_path: Path, shape: tuple[int, ...], descr: str, data: bytes) -> None:
    path = forged(tmp_path / "e.npz", "embeddings", {"descr": descr, "shape": shape}, data)
    with pytest.raises(InputError, match=r"e\.npz"):
        EmbeddingTable.load(path)


def test_an_array_that_is_there_twice(tmp_path: Path) -> None:
    path = npz(tmp_path / "e.npz")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("ids.npy", b"")
    with pytest.raises(InputError, match="several arrays are named 'ids'"):
        EmbeddingTable.load(path)


def test_every_cut_and_flipped_byte_is_answered(tmp_path: Path) -> None:
    whole = npz(tmp_path / "e.npz").read_bytes()
    rng = np.random.default_rng(0)
    for i in range(300):
        if i % 2:
            changed = whole[: rng.integers(len(whole))]
        else:
            flipped = bytearray(whole)
            flipped[rng.integers(len(whole))] ^= 1 << rng.integers(8)
            changed = bytes(flipped)
        (tmp_path / "e.npz").write_bytes(changed)
        try:
            EmbeddingTable.load(tmp_path / "e.npz")
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", ["e.npz", "e.parquet"])
def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.endswith("npz"):
        # 1.2 GB of zeros, announced and there.
        header = {"descr": "<f4", "shape": (3, 100_000_000)}
        forged(path, "embeddings", header)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            with archive.open("embeddings.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(member, {"fortran_order": False} | header)
                for _ in range(300):
                    member.write(bytes(4_000_000))
            with archive.open("ids.npy", "w") as member:
                np.lib.format.write_array(member, np.array(["a", "b", "c"]))
    else:
        import pyarrow
        import pyarrow.parquet

        vectors = pyarrow.FixedSizeListArray.from_arrays(
            pyarrow.array(np.zeros(1 << 22, np.float32)), 1 << 12
        )
        ids = pyarrow.array(["a"] * (1 << 10))
        some = pyarrow.table({"id": ids, "embedding": vectors})
        with pyarrow.parquet.ParquetWriter(path, some.schema, compression="zstd") as writer:
            for _ in range(20):
                writer.write_table(some)
    assert path.stat().st_size < 6_000_000
    # In a process that may take 900 MB more than the interpreter has: the limit is met before the memory is.
    code = (
        "import resource, sys; from speakerverif.data.formats.tables import read_table; import pyarrow.parquet\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 900_000_000,) * 2)\n"
        "try: read_table(sys.argv[1])\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)
    assert "unpacks to" in done.stdout and "SPEAKERVERIF_MAX_UNPACKED_MB" in done.stdout, done


def test_the_limit_can_be_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez_compressed(tmp_path / "e.npz", ids=IDS, embeddings=np.zeros((2, 500_000), np.float32))
    monkeypatch.setenv("SPEAKERVERIF_MAX_UNPACKED_MB", "1")
    with pytest.raises(InputError, match="unpacks to 3 MB, expected at most 1 MB"):
        read_table(tmp_path / "e.npz")
    monkeypatch.setenv("SPEAKERVERIF_MAX_UNPACKED_MB", "4")
    assert read_table(tmp_path / "e.npz").embeddings.shape == (2, 500_000)
    for wrong in ("-1", "0", "1.5", "many", "9" * 5000):
        monkeypatch.setenv("SPEAKERVERIF_MAX_UNPACKED_MB", wrong)
        with pytest.raises(InputError, match="whole number of megabytes"):
            read_table(tmp_path / "e.npz")


@pytest.mark.parametrize("ending", [".npz", ".ark", ".parquet"])
def test_parts_are_written_as_the_whole(tmp_path: Path, ending: str) -> None:
    rng = np.random.default_rng(0)
    ids = [f"utterance-{i}" * (1 + i % 3) for i in range(10)]
    vectors, (durations, speech) = rng.random((10, 4), np.float32), rng.random((2, 10), np.float32)
    table = EmbeddingTable(ids, vectors, durations, speech, ["ok"] * 10, "f00d")
    parts = [
        EmbeddingTable(
            ids[s], table.embeddings[s], table.durations[s], table.speech[s], ["ok"] * len(ids[s]), "f00d"
        )
        for s in (slice(0, 3), slice(3, 4), slice(4, 10))
    ]
    write_table(table, tmp_path / f"whole{ending}")
    write_tables(parts, tmp_path / f"parts{ending}")
    found = read_table(tmp_path / f"parts{ending}")
    assert list(found.ids) == ids and found.embeddings.tolist() == table.embeddings.tolist()
    if ending == ".npz":
        assert (tmp_path / "whole.npz").read_bytes() == (tmp_path / "parts.npz").read_bytes()
        np.savez(
            tmp_path / "numpy.npz",
            ids=np.array(ids),
            embeddings=table.embeddings,
            durations=table.durations,
            speech=table.speech,
            status=np.array(["ok"] * 10),
            fingerprint=np.array("f00d"),
        )
        save_parts([table], tmp_path / "ours.npz")
        assert (tmp_path / "numpy.npz").read_bytes() == (tmp_path / "ours.npz").read_bytes()


@pytest.mark.parametrize("name", ["e.csv", "e", "e.npy", "e.NPZ", "e.npz.gz"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    table = EmbeddingTable(["a"], VECTORS[:1], np.ones(1, np.float32), np.ones(1, np.float32), ["ok"], "")
    with pytest.raises(InputError, match=r"ends in \.npz, \.ark, \.parquet"):
        write_table(table, tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"a \0BFV \4\xff\xff\xff\x7f", "a vector of length 2147483647"),
        (b"a \0BFV \4\xff\xff\xff\xff", "a vector of length -1"),
        (b"a \0BFM \4\1\0\0\0", "not a vector of floats"),
        (b"a  [ 1 nan ]\n", "not a decimal number"),
        (b"a  [ 1 1e99 ]\n", "'a' holds nan, infinity"),
        (b"a  [ 1 2 ]\na  [ 1 2 ]\n", "'a' is repeated: rows 1 and 2"),
        (b"a  [ 1 2 ]\nb  [ 1 ]\n", "vectors of different lengths: 2 .'a'. and 1 .'b'."),
        (b"\xe9 [ 1 2 ]\n", "not UTF-8"),
        (b"a" * 5000, "no id where one was expected"),
    ],
)
def test_archives_that_are_refused(tmp_path: Path, content: bytes, why: str) -> None:
    (tmp_path / "e.ark").write_bytes(content)
    with pytest.raises(InputError, match=why):
        read_table(tmp_path / "e.ark")


def test_ranges_in_an_index(tmp_path: Path) -> None:
    table = EmbeddingTable(
        ["a"],
        np.arange(5, dtype=np.float32)[None],
        np.ones(1, np.float32),
        np.ones(1, np.float32),
        ["ok"],
        "",
    )
    write_table(table, tmp_path / "e.ark")
    line = (tmp_path / "e.scp").read_text().strip()
    (tmp_path / "r.scp").write_text(f"{line}[1:3]\n")
    assert read_table(tmp_path / "r.scp").embeddings.tolist() == [[1, 2, 3]]
    for wrong in ("[3:5]", "[2:1]", "[a:b]", "[1]"):
        (tmp_path / "r.scp").write_text(f"{line}{wrong}\n")
        with pytest.raises(InputError, match=r"r\.scp:1: "):
            read_table(tmp_path / "r.scp")


@pytest.mark.parametrize("what", ["null", "text", "lists", "double", "nested"])
def test_parquet_columns_of_other_types(tmp_path: Path, what: str) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "null": {"id": ["a", None], "embedding": [[1.0], [2.0]]},
        "text": {"id": ["a", "b"], "embedding": ["1", "2"]},
        "lists": {"id": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]},
        "double": {"id": ["a", "a"], "embedding": [[1.0], [2.0]]},
        "nested": {"id": [["a"], ["b"]], "embedding": [[1.0], [2.0]]},
    }[what]
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "e.parquet")
    with pytest.raises(InputError, match=r"e\.parquet: "):
        read_table(tmp_path / "e.parquet")


def test_the_reason_of_another_library_is_one_line(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "e.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]]}), path
    )
    path.write_bytes(path.read_bytes()[1:])  # found by fuzzing: every offset in it is wrong by one
    with pytest.raises(InputError, match="damaged or not a Parquet file") as caught:
        read_table(path)
    assert "\n" not in str(caught.value)


def test_an_array_header_that_no_parser_ends(tmp_path: Path) -> None:
    """Found by tools/fuzz.py: NumPy's second parser of headers raised a TokenError."""
    array = io.BytesIO()
    np.save(array, np.eye(2))
    whole = array.getvalue()
    for damaged in (b"{'descr': '<f8', 'shape': (2, 2", b"'" * 3, b"((((("):
        with zipfile.ZipFile(tmp_path / "e.npz", "w") as archive:
            archive.writestr("ids.npy", whole[:10] + damaged.ljust(118) + whole[128:])
            archive.writestr("embeddings.npy", whole)
        with pytest.raises(InputError, match=r"e\.npz: expected an \.npz file of plain arrays"):
            read_table(tmp_path / "e.npz")


@pytest.mark.parametrize("name", [b"a\nb", b"\x1b[2J", b"PAR1\x15"])
def test_an_archive_whose_ids_are_no_text(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "e.ark").write_bytes(name + b" [ 1 2 ]\n")
    with pytest.raises(InputError, match=r"e\.ark: damaged or not a Kaldi archive") as caught:
        read_table(tmp_path / "e.ark")
    assert str(caught.value).isprintable()


def test_facts_about_a_parquet_column_that_contradict_each_other(tmp_path: Path) -> None:
    """Found by tools/fuzz.py: pyarrow ended the process where such a column was asked for its size."""
    import pyarrow
    import pyarrow.parquet

    path = tmp_path / "e.parquet"
    table = pyarrow.table({"id": ["a", "b"], "embedding": [[1.0, 0.0], [0.0, 1.0]]})
    pyarrow.parquet.write_table(table, path)
    content = path.read_bytes()
    # A histogram of repetition levels, a list of two numbers, becomes one of three; the footer, a byte longer.
    place = content.rindex(b"\x26\x04\x04\x19\x46")
    content = content[:place] + b"\x36\x00" + content[place + 1 :]
    size = struct.unpack("<i", content[-8:-4])[0] + 1
    path.write_bytes(content[:-8] + struct.pack("<i", size) + content[-4:])
    with pytest.raises(InputError, match="damaged or not a Parquet file"):
        read_table(path)
