"""Bad inputs for `hostile.py`: each kind changes good files, or good command lines, in ways drawn by a seed."""

import io
import itertools
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile


@dataclass(frozen=True)
class Case:
    """One bad input: its kind, a name that tells what is wrong with it, and the command line to run."""

    kind: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Good:
    """Good inputs that the bad ones are made of."""

    folder: Path  # holds a.wav, b.wav, model/, e.npz, trials.txt, scores.txt, utt2spk, list.tsv, recipe.toml, c.toml
    out: Path  # where bad files are written

    def write(self, name: str, data: bytes | str) -> str:
        """Write a bad file and return its path."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)


def recordings(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged recordings of several containers, embedded and compared."""
    samples = soundfile.read(good.folder / "a.wav", dtype="int16")[0]
    sources: dict[str, bytes] = {}
    for ending, options in {
        "wav": {}, "flac": {}, "ogg": {}, "mp3": {}, "aiff": {}, "au": {}, "w64": {}, "caf": {},
        "opus.ogg": {"format": "OGG", "subtype": "OPUS"}, "rf64.wav": {"format": "RF64"},
        "float.wav": {"subtype": "FLOAT"},
    }.items():  # fmt: skip
        buffer = io.BytesIO()
        kind = options.get("format", ending.rpartition(".")[2].upper())
        soundfile.write(buffer, samples, 16000, format=kind, subtype=options.get("subtype"))
        sources[ending] = buffer.getvalue()
    for i in range(count):
        ending = rng.choice(sorted(sources))
        change = rng.choice(BYTES)
        path = good.write(f"recording{i}.{ending}", change(sources[ending], rng))
        commands = (
            ("embed", path, str(good.folder / "b.wav"), "--out", str(good.out / f"r{i}.npz")),
            ("verify", path, str(good.folder / "b.wav")),
            ("enroll", "ann", path, "--store", str(good.out / f"store{i}")),
        )
        yield Case("recordings", f"{change.__name__} {ending}", rng.choice(commands))


def truncated(data: bytes, rng: random.Random) -> bytes:
    """Return the beginning."""
    return data[: rng.randrange(len(data))] if data else data


def flipped(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a few bits flipped."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def forged_header(data: bytes, rng: random.Random) -> bytes:
    """Return the data with an integer near its beginning replaced by an extreme one."""
    changed = bytearray(data)
    value = rng.choice((0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2_000_000_000, rng.getrandbits(32)))
    at = rng.randrange(min(len(changed) - 4, 128))
    changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", value)
    return bytes(changed)


def zeroed(data: bytes, rng: random.Random) -> bytes:
    """Return the data with a run of zeros."""
    at, length = rng.randrange(len(data)), rng.randrange(1, 4096)
    return data[:at] + bytes(min(length, len(data) - at)) + data[at + length :]


def doubled(data: bytes, rng: random.Random) -> bytes:
    """Return the data twice, one after the other, or a part of it twice."""
    at = rng.choice((0, rng.randrange(len(data))))
    return data[:at] + data[at:] * 2


def prefixed(data: bytes, rng: random.Random) -> bytes:
    """Return the data behind something else."""
    return rng.choice((b"\xef\xbb\xbf", b"<html><body>", b"\0" * 512, b"ID3\x04\0\0\x7f\x7f\x7f\x7f")) + data


def noise(data: bytes, rng: random.Random) -> bytes:
    """Return random bytes behind the first few of the data."""
    return data[: rng.choice((0, 4, 44))] + rng.randbytes(rng.choice((0, 1, 10, 1000)))


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    truncated, flipped, forged_header, zeroed, doubled, prefixed, noise
)  # fmt: skip
WORDS = (
    "", "nan", "inf", "-inf", "1e400", "-1", "0", "0x10", "1_000", "٣", "--", "NaN", "9" * 400, "\x00", "\ufeff",
    "a" * 5000, "../../etc/passwd", "%s%s%n", "é", "\u202e", "\x1b[31m", "'; DROP TABLE", "C:\\x", " ", "\t", "null",
)  # fmt: skip


def text(data: bytes, rng: random.Random) -> bytes:
    """Return a text with one thing wrong: a field, a line, or the encoding."""
    lines = data.split(b"\n")
    row = rng.randrange(len(lines))
    fields = lines[row].replace(b"\t", b" ").split(b" ")
    word = rng.choice(WORDS).encode("utf-8", "surrogatepass")
    change = rng.randrange(12)
    if change < 4:
        fields[rng.randrange(len(fields))] = word
    elif change == 4:
        fields.insert(rng.randrange(len(fields) + 1), word)
    elif change == 5:
        del fields[rng.randrange(len(fields))]
    elif change == 6:
        lines.insert(rng.randrange(len(lines)), lines[row])
    elif change == 7:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-8-sig")))
    elif change == 8:
        fields[0] += b"\xe9\xff"
    elif change == 9:
        return data.replace(b"\n", rng.choice((b"\r", b"\r\n", b"\n\n", b"\x0b", b"\xe2\x80\xa8")))
    elif change == 10:
        return rng.choice(BYTES)(data or b"x", rng)
    else:
        return word * rng.choice((1, 100))
    lines[row] = (b"\t" if b"\t" in lines[row] else b" ").join(fields)
    return b"\n".join(lines)


def lists(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged trial lists, score files and tables of speakers."""
    folder, out = good.folder, good.out
    for i in range(count):
        name = rng.choice(("trials.txt", "scores.txt", "utt2spk", "c.toml"))
        bad = good.write(f"{i}-{name}", text((folder / name).read_bytes(), rng))
        files = {file: str(folder / file) for file in ("trials.txt", "scores.txt", "utt2spk", "c.toml")}
        files[name] = bad
        base = ("score", files["trials.txt"], "--scores", files["scores.txt"], "--bootstrap", "10")
        commands = {
            "trials.txt": base,
            "scores.txt": rng.choice((base, ("report", bad, "--trials", files["trials.txt"], "--out", str(out / "p")))),
            "utt2spk": (*base, "--speakers", bad),
            "c.toml": (*base, "--calibration", bad),
        }  # fmt: skip
        yield Case("calibrations" if name == "c.toml" else "trial and score lists", name, commands[name])


def manifests(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged lists of recordings in every format that is read."""
    a, b = good.folder / "a.wav", good.folder / "b.wav"
    formats = {
        "list.tsv": (good.folder / "list.tsv").read_bytes(),
        "list.csv": f"ID,duration,wav,start,stop,spk_id\nu,1.0,{a},0,16000,s\nv,1.0,{b},0,16000,t\n".encode(),
        "raw.list": "".join(
            json.dumps({"key": k, "wav": str(p), "spk": k}) + "\n" for k, p in (("u", a), ("v", b))
        ).encode(),
        "cuts.jsonl": json.dumps(
            {
                "id": "u", "start": 0.0, "duration": 1.0, "channel": 0, "type": "MonoCut",
                "recording": {
                    "id": "r", "sampling_rate": 16000, "num_samples": 32000, "duration": 2.0, "channel_ids": [0],
                    "sources": [{"type": "file", "channels": [0], "source": str(a)}],
                },
                "supervisions": [{"id": "u", "recording_id": "r", "start": 0, "duration": 1, "speaker": "s"}],
            }
        ).encode() + b"\n",
        "turns.rttm": b"SPEAKER a 1 0.0 1.0 <NA> <NA> ann <NA> <NA>\nSPEAKER b 1 0.2 0.8 <NA> <NA> bob <NA> <NA>\n",
    }  # fmt: skip
    for i in range(count):
        if rng.random() < 0.2:
            folder = good.out / f"kaldi{i}"
            files = {
                "wav.scp": f"u {a}\nv {b}\n".encode(),
                "segments": b"x u 0.0 1.0\ny v 0.0 1.0\n",
                "utt2spk": b"x s\ny t\n",
            }
            bad = rng.choice(sorted(files))
            for name, data in files.items():
                good.write(f"kaldi{i}/{name}", text(data, rng) if name == bad else data)
            path, name = str(folder), f"Kaldi {bad}"
        else:
            name = rng.choice(sorted(formats))
            path = good.write(f"{i}-{name}", text(formats[name], rng))
        root = ("--audio-root", str(good.folder))
        yield Case(
            "lists of recordings",
            name,
            ("embed", "--manifest", path, *root, "--out", str(good.out / f"m{i}.npz")),
        )


def tables(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield damaged embedding tables."""
    whole = (good.folder / "e.npz").read_bytes()
    with np.load(good.folder / "e.npz") as loaded:
        arrays = dict(loaded)
    for i in range(count):
        choice = rng.randrange(3)
        if choice == 0:
            change = rng.choice(BYTES)
            data, name = change(whole, rng), change.__name__
        else:
            data, name = (_odd_arrays if choice == 1 else _forged_shapes)(arrays, rng)
        path = good.write(f"{i}.npz", data)
        trials = str(good.folder / "trials.txt")
        commands = (
            ("score", trials, "--embeddings", path, "--bootstrap", "10"),
            (
                "score",
                trials,
                "--embeddings",
                str(good.folder / "e.npz"),
                "--norm",
                "asnorm",
                "--cohort",
                path,
            ),
        )
        yield Case("embedding tables", name, rng.choice(commands))


def _odd_arrays(arrays: dict[str, np.ndarray], rng: random.Random) -> tuple[bytes, str]:
    """Return a table with one array of another type, shape or value."""
    key = rng.choice(sorted(arrays))
    array = arrays[key]
    changes: dict[str, Callable[[], np.ndarray]] = {
        "object": lambda: np.array([{"a": 1}] * len(np.atleast_1d(array)), object),
        "structured": lambda: np.zeros(len(np.atleast_1d(array)), [("x", "f4"), ("y", "U3")]),
        "complex": lambda: np.ones(array.shape, complex),
        "two dimensions": lambda: np.stack([np.atleast_1d(array)] * 2),
        "scalar": lambda: np.array(3.5),
        "empty": lambda: np.atleast_1d(array)[:0],
        "shorter": lambda: np.atleast_1d(array)[:-1],
        "text": lambda: np.full(array.shape, "x"),
        "dates": lambda: np.zeros(array.shape, "M8[s]"),
        "nan": lambda: np.full(array.shape, np.nan),
        "infinite": lambda: np.full(array.shape, np.inf),
        "zero": lambda: np.zeros(array.shape),
        "huge": lambda: np.full(array.shape, 1e38, np.float32),
        "repeated": lambda: np.full(array.shape, array.flat[0]) if array.size else array,
        "bytes": lambda: np.full(array.shape, b"\xff\xfe"),
        "wide": lambda: np.zeros((*array.shape, 0)),
    }
    name = rng.choice([*sorted(changes), "missing"])
    changed = {k: v for k, v in arrays.items() if k != key}
    if name != "missing":
        changed[key] = changes[name]()
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **changed)
    return buffer.getvalue(), f"{key}: {name}"


def _forged_shapes(arrays: dict[str, np.ndarray], rng: random.Random) -> tuple[bytes, str]:
    """Return a table whose array announces a shape that its bytes don't hold."""
    key = rng.choice(("ids", "embeddings", "durations"))
    shape = rng.choice(
        ("(1000000000, 192)", "(4611686018427387904, 4)", "(-1, 4)", "(2, 2, 2, 2)", "(1e9,)", "()")
    )
    kind = rng.choice(("<f4", "|O", "<U1000000", "|V8", "<f16", "|S0", "int"))
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
    header += " " * (64 - (10 + len(header) + 1) % 64) + "\n"
    forged = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode("latin1") + bytes(64)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", forged if name == key else member.getvalue())
    return buffer.getvalue(), f"{key}: {kind} {shape}"


def models(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield model folders with one damaged file."""
    endings = (".toml", ".npz", ".safetensors", ".txt")
    names = [p.name for p in sorted((good.folder / "model").iterdir()) if p.suffix in endings]
    for i in range(count):
        bad = rng.choice(names)
        folder = good.out / f"model{i}"
        for path in (good.folder / "model").iterdir():
            if path.is_file() and path.name != bad:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / path.name).symlink_to(path)
        data = (good.folder / "model" / bad).read_bytes()
        if bad.endswith(".toml") and rng.random() < 0.7:
            good.write(f"model{i}/{bad}", _changed_toml(data.decode(), rng))
        elif rng.random() < 0.9:
            change = text if bad.endswith((".toml", ".txt")) else rng.choice(BYTES)
            good.write(f"model{i}/{bad}", change(data, rng))
        a, b = str(good.folder / "a.wav"), str(good.folder / "b.wav")
        yield Case(
            "model folders",
            bad,
            rng.choice((("info", str(folder)), ("verify", a, b, "--model", str(folder)))),
        )


VALUES = (
    "0", "-1", "nan", "inf", "-inf", "1e300", "1000000000", "9223372036854775808", '""', '"x"', "[]", "[1, 2, 3]", "{}",
    "true", '"../../x"', "1e-300", "[nan]", "[[[[[[1]]]]]]", '"\\u0000"', "2.5", "-0.5", "1979-05-27", "[5.0, 1.0]",
)  # fmt: skip


def _changed_toml(source: str, rng: random.Random) -> str:
    """Return a TOML text with another value for one of its keys."""
    lines = source.split("\n")
    rows = [i for i, line in enumerate(lines) if " = " in line]
    row = rng.choice(rows)
    lines[row] = lines[row].split(" = ")[0] + " = " + rng.choice(VALUES)
    return "\n".join(lines)


def configurations(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield recipes with one impossible value, in the file or by `--set`."""
    source = (good.folder / "recipe.toml").read_text("utf-8")
    table = ""
    keys = []
    for line in source.split("\n"):
        table = line.strip("[]") if line.startswith("[") else table
        if " = " in line:
            keys.append(f"{table}.{line.split(' = ')[0]}".strip("."))
    for i in range(count):
        data = ("--data", str(good.folder / "corpus"), "--out", str(good.out / f"run{i}"))
        run = ("--stages", "embed")  # of nothing prepared: a good recipe gets as far as that error
        if rng.random() < 0.5:
            bad = _changed_toml(source, rng) if rng.random() < 0.8 else text(source.encode(), rng)
            path = good.write(f"recipe{i}.toml", bad)
            yield Case("configurations", "file", ("run", path, *data, *run))
        else:
            key, value = rng.choice(keys), rng.choice(VALUES)
            deep = "{a=" * rng.choice((1, 50, 2000)) + "1" + "}"
            value = rng.choice((value, value, value, deep))
            recipe = str(good.folder / "recipe.toml")
            yield Case(
                "configurations",
                f"{key}={value[:30]}",
                ("run", recipe, *data, *run, "--set", f"{key}={value}"),
            )


NUMBERS = ("nan", "inf", "-1", "0", "99999999999999999999", "1e400", "x", "", "0x10", "1,5", "-0.0", "2.5")


def command_lines(good: Good, rng: random.Random, count: int) -> Iterator[Case]:
    """Yield commands with values that can't be: numbers, names, inputs and outputs."""
    g = {p.name: str(p) for p in good.folder.iterdir()}
    a, b, trials, scores = g["a.wav"], g["b.wav"], g["trials.txt"], g["scores.txt"]
    verify = ("verify", a, b)
    score = ("score", trials, "--scores", scores, "--bootstrap", "10")
    calibrate = ("calibrate", trials, "--scores", scores, "--out", str(good.out / "cal.toml"))
    embed = ("embed", a)
    options = {
        verify: ("--threshold", "--p-target", "--c-miss", "--threads", "--device", "--engine"),
        score: ("--p-target", "--bootstrap", "--seed", "--top-n", "--memory-mb", "--crops", "--threads"),
        calibrate: ("--far", "--p-target"),
        (*embed, "--out", str(good.out / "x.npz")): ("--crops", "--batch-size", "--threads", "--device"),
        ("identify", a, "--store", g["store"]): ("--threshold", "--top", "--threads"),
    }
    special = (
        "/dev/null", "/dev/zero", "/dev/stdin", str(good.folder), str(good.out / "no"), f"{a}/below", "/proc/self/mem",
        "", "a\n b", "~", "/dev/full", "\x01", "-", "..", "x" * 300,
    )  # fmt: skip
    npz, page, other = (str(good.out / name) for name in ("y.npz", "page", "other"))
    inputs = (
        lambda p: ("verify", p, b),
        lambda p: ("embed", p, "--out", npz),
        lambda p: ("embed", "--manifest", p, "--out", npz),
        lambda p: ("score", p, "--scores", scores),
        lambda p: ("score", trials, "--scores", p),
        lambda p: ("score", trials, "--embeddings", p),
        lambda p: ("verify", a, b, "--model", p),
        lambda p: ("info", p),
        lambda p: ("identify", a, "--store", p),
        lambda p: ("run", p),
        lambda p: ("report", p, "--out", page),
        lambda p: ("import", "wespeaker", p, "--out", other),
        lambda p: ("calibrate", p, "--out", other),
        lambda p: ("prepare", "speechocean762", "--root", p, "--out", other),
    )
    outputs = (
        lambda p: (*embed, "--out", p),
        lambda p: (*score, "--json", p),
        lambda p: (*score, "--out-scores", p),
        lambda p: (*score, "--report", p),
        lambda p: (*verify, "--json", p),
        lambda p: ("enroll", "ann", a, "--store", p),
        lambda p: ("export", g["model"], "--torchscript", p),
        lambda p: ("calibrate", trials, "--scores", scores, "--out", p),
    )
    bad_outputs = (f"{a}/below", str(good.folder), "/proc/x/y", "/dev/full", "", "\x00", "x" * 300, "/sys/x")
    numbers = [(c, o, v) for c, names in options.items() for o in names for v in NUMBERS]
    pairs = list(itertools.product(inputs, special)), list(itertools.product(outputs, bad_outputs))
    for _ in range(count):
        choice = rng.randrange(3)
        if choice == 0:
            command, option, value = rng.choice(numbers)
            yield Case(
                "command-line values", f"{command[0]} {option} {value!r}", (*command, f"{option}={value}")
            )
        else:
            make, path = rng.choice(pairs[choice - 1])
            arguments = make(path)
            kind = "special files" if choice == 1 else "outputs"
            yield Case(kind, f"{arguments[0]} {path[:40]!r}", arguments)


KINDS: dict[Callable[[Good, random.Random, int], Iterator[Case]], float] = {
    recordings: 0.2, lists: 0.14, manifests: 0.12, tables: 0.16, models: 0.12, configurations: 0.12, command_lines: 0.14
}  # fmt: skip


def cases(good: Good, seed: int, count: int) -> list[Case]:
    """Return about `count` bad inputs of all kinds; the same seed gives the same ones."""
    rng = random.Random(seed)
    return [case for kind, share in KINDS.items() for case in kind(good, rng, round(share * count))]
