"""Compare speed with other software: medians of interleaved runs, and shares of the machine's limit.

    python tools/bench.py encoder_training --threads 2 --json speed.json
    python tools/bench.py --list

Each case runs in its own process. Seconds on a shared machine mean little; what carries over are the ratios: a
peer's time over ours, and the time of the limit (a large matrix product, a sort) over ours, measured in the same
rounds. On a busy machine use `--threads 1 --clock cpu`: processor time of one thread does not count the waiting.
Peers that are not installed are left out by name. A suite is a file in `tools/benches/` with a table `CASES`.
"""

import argparse
import importlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

TOOLS = Path(__file__).resolve().parent
sys.path.insert(0, str(TOOLS.parent))
SUITES = sorted(path.stem for path in (TOOLS / "benches").glob("[!_]*.py"))
PACKAGES = (
    "numpy",
    "torch",
    "torchaudio",
    "speechbrain",
    "librosa",
    "scikit-learn",
    "onnxruntime",
    "faiss-cpu",
)

Record = dict[str, Any]


def measure(suite: str, name: str, threads: int, rounds: int, cpu_clock: bool) -> Record:
    """Return the record of one case: median seconds of each contender, run in turn after one warm-up each."""
    case = importlib.import_module(f"tools.benches.{suite}").CASES[name](threads)
    clock = time.process_time if cpu_clock and case.clock == "any" else time.perf_counter
    contenders = {
        "ours": case.ours,
        **case.peers,
        **{name: limit.work for name, limit in case.limits.items()},
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range((case.rounds or rounds) + 1):
        for name, work in contenders.items():
            start = clock()
            work()
            if turn:
                seconds[name].append(clock() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    limits = {name: limit.times * medians.pop(name) for name, limit in case.limits.items()}
    return {
        "seconds": medians,
        "limit_seconds": limits,
        "speedup": {name: medians[name] / medians["ours"] for name in case.peers},
        "share_of_limit": {name: limit / medians["ours"] for name, limit in limits.items()},
        "measures_memory": case.memory,
        "facts": case.facts,
    }


def peak_mb(suite: str, name: str, threads: int, contender: str) -> float:
    """Return the MB by which a contender's first run raises the peak memory of this process (Linux)."""
    case = importlib.import_module(f"tools.benches.{suite}").CASES[name](threads)
    work = {"ours": case.ours, **case.peers}[contender]
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status_mb("VmRSS")
    work()
    return _status_mb("VmHWM") - before


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def run_case(suite: str, name: str, arguments: argparse.Namespace) -> Record:
    """Measure a case in its own process, and the memory of each contender in another."""
    record: Record = {"suite": suite, "case": name, **_in_process(suite, name, arguments)}
    if record.pop("measures_memory"):
        record["peak_mb"] = {
            contender: _in_process(suite, name, arguments, contender) for contender in record["seconds"]
        }
    return record


def _in_process(suite: str, name: str, arguments: argparse.Namespace, contender: str = "") -> Any:
    from speakerverif._util.allocator import tunables

    command = [
        sys.executable,
        __file__,
        "--worker",
        suite,
        name,
        contender,
        "--threads",
        str(arguments.threads),
    ]
    command += ["--rounds", str(arguments.rounds), "--clock", arguments.clock]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(arguments.threads))
    env = {**os.environ, **threads, "GLIBC_TUNABLES": tunables()}
    return json.loads(subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True).stdout)


def line_of(record: Record) -> str:
    """Return one line of figures."""
    parts = [f"{record['case']:44} {record['seconds']['ours']:9.4f} s"]
    parts += [f"{share:4.0%} of {name}" for name, share in record["share_of_limit"].items()]
    parts += [f"{peer} x {ratio:.2f}" for peer, ratio in record["speedup"].items()]
    if "peak_mb" in record:
        parts += ["peak MB " + ", ".join(f"{name} {mb:,.0f}" for name, mb in record["peak_mb"].items())]
    parts += [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in record["facts"].items()
    ]
    return "  ".join(parts)


def compare(records: list[Record], former: Path) -> None:
    """Print the change of each ratio since a former JSON."""
    before = {(r["suite"], r["case"]): r for r in json.loads(former.read_text())["records"]}
    print(f"\nagainst {former}:")
    for record in records:
        old = before.get((record["suite"], record["case"]))
        for kind in ("speedup", "share_of_limit"):
            for name, value in record[kind].items():
                if old and name in old[kind]:
                    print(f"{record['case']:44} {kind} {name}: {old[kind][name]:.2f} -> {value:.2f}")


def picture(records: list[Record], path: Path) -> None:
    """Draw the peers' time over ours, one bar for each case and peer."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.figure import Figure

    bars = [(f"{r['case']}: {peer}", ratio) for r in records for peer, ratio in r["speedup"].items()]
    figure = Figure(figsize=(9, 1 + 0.28 * len(bars)), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in bars][::-1], [ratio for _, ratio in bars][::-1], color="#4c72b0")
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("time of the peer / ours")
    axes.tick_params(axis="y", labelsize=8)
    figure.savefig(path, dpi=120)


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the setting that the figures depend on: machine, versions, threads."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")), "unknown"
    )
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    load = os.getloadavg()[0]
    chosen = {"threads": arguments.threads, "clock": arguments.clock, "rounds": arguments.rounds}
    return {
        **chosen,
        "cpu": cpu,
        "python": platform.python_version(),
        "load_before": load,
        "versions": versions,
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suites", nargs="*", help="suites to run (default: all)")
    parser.add_argument("--only", default="", help="run only the cases whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--json", type=Path, help="file to write the records to")
    parser.add_argument("--against", type=Path, help="former JSON file to compare with")
    parser.add_argument("--picture", type=Path, help="file to draw the ratios in")
    parser.add_argument("--list", action="store_true", help="list the suites and their cases")
    parser.add_argument("--worker", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        suite, name, contender = arguments.worker
        if contender:
            result: Any = peak_mb(suite, name, arguments.threads, contender)
        else:
            result = measure(suite, name, arguments.threads, arguments.rounds, arguments.clock == "cpu")
        print(json.dumps(result))
        return
    for suite in arguments.suites:
        if suite not in SUITES:
            parser.error(f"{suite}: not one of {', '.join(SUITES)}")
    chosen = {
        suite: importlib.import_module(f"tools.benches.{suite}") for suite in arguments.suites or SUITES
    }
    if arguments.list:
        for suite, module in chosen.items():
            print(f"{suite}: {module.__doc__}\n  " + "\n  ".join(module.CASES))
        return
    found = setting(arguments)
    records = []
    for suite, module in chosen.items():
        print(f"{suite}: {module.__doc__}", flush=True)
        for name in module.CASES:
            if arguments.only in name:
                records.append(run_case(suite, name, arguments))
                print("  " + line_of(records[-1]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"setting": found, "records": records}, indent=1) + "\n")
    if arguments.against:
        compare(records, arguments.against)
    if arguments.picture:
        picture(records, arguments.picture)


if __name__ == "__main__":
    main()
