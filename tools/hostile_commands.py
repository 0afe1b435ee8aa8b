"""Bad configurations and command lines for `hostile.py`: values that can't be, special files, bad outputs."""

import itertools
import random
from collections.abc import Callable, Iterator

from tools.hostile_changes import VALUES, changed_toml, text
from tools.hostile_inputs import Case, Good

Arguments = tuple[str, ...]


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
            bad = changed_toml(source, rng) if rng.random() < 0.8 else text(source.encode(), rng)
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
    verify = ("verify", a, b, *good.model)
    score = ("score", trials, "--scores", scores, "--bootstrap", "10")
    calibrate = ("calibrate", trials, "--scores", scores, "--out", str(good.out / "cal.toml"))
    embed = ("embed", a, *good.model)
    identification = ("score", trials, "--embeddings", g["e.npz"], "--identify", *good.model)
    cal = ("--out", str(good.out / "cal.toml"))
    adapted = ("calibrate", trials, "--embeddings", g["e.npz"], *good.model, *cal, "--adapt")
    people = ("calibrate", *good.model, *cal)
    trained = ("--manifest", g["list.tsv"], "--out", str(good.out / "tuned"))
    fine_tuned = ("train", g["recipe.toml"], *trained, "--from", g["model"])
    options: dict[Arguments, Arguments] = {
        verify: ("--threshold", "--p-target", "--c-miss", "--threads", "--device", "--engine"),
        score: ("--p-target", "--bootstrap", "--seed", "--top-n", "--memory-mb", "--crops", "--threads"),
        calibrate: ("--far", "--p-target"),
        (*embed, "--out", str(good.out / "x.npz")): ("--crops", "--batch-size", "--threads", "--device"),
        ("identify", a, "--store", g["store"], *good.model): ("--threshold", "--top", "--threads"),
        (*identification, "--store", g["store"]): ("--galleries", "--bootstrap", "--p-target"),
        (*adapted, g["e.npz"]): ("--adapt-weight", "--adapt-by", "--far"),
        (*people, "--store", g["store"]): ("--enroll", "--far", "--seed"),
        fine_tuned: ("--set=train.epochs", "--set=train.crop_s", "--threads", "--device", "--seed"),
    }
    special = (
        "/dev/null", "/dev/zero", "/dev/stdin", str(good.folder), str(good.out / "no"), f"{a}/below", "/proc/self/mem",
        "", "a\n b", "~", "/dev/full", "\x01", "-", "x" * 300,
    )  # fmt: skip
    npz, page, other = (str(good.out / name) for name in ("y.npz", "page", "other"))
    inputs: tuple[Callable[[str], Arguments], ...] = (
        lambda p: ("verify", p, b, *good.model),
        lambda p: ("embed", p, "--out", npz, *good.model),
        lambda p: ("embed", "--manifest", p, "--out", npz, *good.model),
        lambda p: ("score", p, "--scores", scores),
        lambda p: ("score", trials, "--scores", p),
        lambda p: ("score", trials, "--embeddings", p),
        lambda p: ("verify", a, b, "--model", p),
        lambda p: ("info", p),
        lambda p: ("identify", a, "--store", p, *good.model),
        lambda p: ("verify", a, b, *good.model, "--calibration", p),
        lambda p: ("run", p),
        lambda p: ("report", p, "--out", page),
        lambda p: ("import", "wespeaker", p, "--out", other),
        lambda p: ("calibrate", p, "--out", other),
        lambda p: ("prepare", "speechocean762", "--root", p, "--out", other),
        lambda p: ("run", g["recipe.toml"], "--data", p, "--out", other, "--stages", "embed"),
        lambda p: ("train", g["recipe.toml"], *trained, "--from", p),
        lambda p: ("export", p, "--onnx", other),
        lambda p: (*people, "--folder", p),
        lambda p: (*people, "--store", p),
        lambda p: (*adapted, p),
        lambda p: (*identification, "--store", p),
        lambda p: ("enroll", p, a, "--store", other, *good.model),
    )
    outputs: tuple[Callable[[str], Arguments], ...] = (
        lambda p: (*embed, "--out", p),
        lambda p: (*score, "--json", p),
        lambda p: (*score, "--out-scores", p),
        lambda p: (*score, "--report", p),
        lambda p: (*verify, "--json", p),
        lambda p: ("enroll", "ann", a, "--store", p, *good.model),
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
