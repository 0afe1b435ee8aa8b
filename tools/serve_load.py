"""Load on `speakerverif serve`: many clients for a minute, beside the same model called in a loop.

    python tools/serve_load.py --clients 50 --seconds 60

Starts the service in a process of its own, with the built-in model and an empty store. Each client, one request after
the other, compares a recording with its own person, identifies it, and now and then enrols a new person. Prints a
table: latency, throughput, memory at the start, in the middle and at the end, and what was lost. Exits with 1 where a
request failed or an enrolment was lost.
"""

import argparse
import asyncio
import io
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from speakerverif.api.model import load_model
from speakerverif.api.service.metrics import resident_bytes
from speakerverif.inference.enrollment import Store

RATE, SECONDS = 16000, 4.0
ENROL_EVERY = 10  # requests of a client
LOOP_S = 10.0


@dataclass
class Tally:
    """What the clients saw: seconds of each request, statuses of those that failed, and who was enrolled."""

    latencies_s: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    busy: int = 0
    enrolled: set[str] = field(default_factory=set)
    memory: list[int] = field(default_factory=list)


def voice(person: int, seed: int) -> bytes:
    """Return a WAV file of a buzz in syllables whose pitch and formant are a person's."""
    rng = np.random.default_rng([person, seed])
    t = np.arange(round(SECONDS * RATE)) / RATE
    harmonics = np.arange(1, 25) * (80 + 2.7 * person)
    weights = np.exp(-(((harmonics - 400 - 37 * person % 1500) / 500) ** 2)) + 0.02
    buzz = np.sin(2 * np.pi * harmonics[:, None] * t + rng.uniform(0, 6, (len(harmonics), 1))).T @ weights
    sound = buzz * (0.5 + 0.5 * np.sin(2 * np.pi * 4 * t)) + 0.05 * rng.standard_normal(len(t))
    file = io.BytesIO()
    soundfile.write(file, 0.3 * sound / np.abs(sound).max(), RATE, format="WAV")
    return file.getvalue()


async def client(number: int, http: httpx.AsyncClient, until: float, tally: Tally) -> None:
    """Send one request after the other until the time is over."""
    sound, count = voice(number, 0), 0

    async def post(path: str, content: bytes = sound, **params: str | int) -> bool:
        while True:
            began = time.monotonic()
            try:
                answer = await http.post(path, params=params, content=content)
            except httpx.HTTPError as error:
                tally.failures[type(error).__name__] += 1
                return False
            if answer.status_code == 503:
                tally.busy += 1
                await asyncio.sleep(int(answer.headers["retry-after"]))
                continue
            tally.latencies_s.append(time.monotonic() - began)
            if answer.status_code != 200:
                tally.failures[answer.text[:100]] += 1
            return answer.status_code == 200

    async def enroll(name: str, content: bytes) -> None:
        if await post("/v1/enroll", content, name=name, force=1):
            tally.enrolled.add(name)

    await enroll(f"client {number}", sound)
    while time.monotonic() < until:
        count += 1
        if count % ENROL_EVERY == 0:
            await enroll(f"client {number}, {count}", voice(number, count))
        elif count % 2:
            await post("/v1/verify", name=f"client {number}")
        else:
            await post("/v1/identify")


async def load(address: str, clients: int, seconds: float, process: int, tally: Tally) -> None:
    """Run the clients and watch the memory of the service."""
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as http:
        until = time.monotonic() + seconds
        tasks = [asyncio.create_task(client(n, http, until, tally)) for n in range(clients)]
        while not all(task.done() for task in tasks):
            tally.memory.append(resident_bytes(process) or 0)
            await asyncio.sleep(min(1, seconds / 20))
        await asyncio.gather(*tasks)


def loop_rate() -> float:
    """Return how many recordings per second the model embeds in a loop in this process, with all threads."""
    model, sound = load_model(), voice(0, 0)
    model.embed(sound)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < LOOP_S:
        model.embed(sound)
        count += 1
    return count / (time.monotonic() - began)


def main() -> int:
    """Run the load and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50, metavar="N")
    parser.add_argument("--seconds", type=float, default=60, metavar="S")
    arguments = parser.parse_args()
    tally = Tally()
    alone = loop_rate()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "people"
        command = [sys.executable, "-m", "speakerverif", "-q", "serve", "--store", str(store), "--port", "0"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
        ) as service:
            try:
                assert service.stdout is not None
                address = service.stdout.readline().split()[0]
                began = time.monotonic()
                asyncio.run(load(address, arguments.clients, arguments.seconds, service.pid, tally))
                took_s = time.monotonic() - began
            finally:
                service.terminate()
        lost = tally.enrolled - set(Store(store).names())
    latencies = np.array(tally.latencies_s)
    memory = [tally.memory[i] / 1e6 for i in (0, len(tally.memory) // 2, -1)]
    rows = {
        "clients, seconds": f"{arguments.clients}, {took_s:.0f}",
        "requests answered": f"{len(latencies):,}",
        "requests per second": f"{len(latencies) / took_s:.1f}",
        f"the model in a loop, recordings of {SECONDS:g} s per second": f"{alone:.1f}",
        "latency, median / 95 % / longest": " / ".join(
            f"{seconds:.2f} s" for seconds in np.quantile(latencies, [0.5, 0.95, 1])
        ),
        "failed": f"{sum(tally.failures.values())}",
        "told to come again (503)": f"{tally.busy}",
        "enrolled, lost": f"{len(tally.enrolled)}, {len(lost)}",
        "memory at the start / in the middle / at the end": " / ".join(f"{mb:.0f} MB" for mb in memory),
    }
    print("| | |\n|---|---|")
    for name, value in rows.items():
        print(f"| {name} | {value} |")
    for reason, count in tally.failures.items():
        print(f"{count} x {reason}")
    return 1 if tally.failures or lost else 0


if __name__ == "__main__":
    sys.exit(main())
