"""Counts and times of requests, as text in the exposition format of Prometheus."""

import threading
from collections import Counter
from pathlib import Path

BUCKETS_S = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Requests by route and status, and their times; may be used in many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[float] = Counter()
        self._count, self._seconds = 0, 0.0

    def add(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self._requests[route, status] += 1
            self._count += 1
            self._seconds += seconds
            self._buckets.update(limit for limit in BUCKETS_S if seconds <= limit)

    def text(self, **gauges: float) -> str:
        """Return all metrics, with the present values of others by name."""
        with self._lock:
            lines = ["# TYPE speakerverif_requests_total counter"]
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'speakerverif_requests_total{{route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE speakerverif_request_seconds histogram")
            for limit in BUCKETS_S:
                lines.append(f'speakerverif_request_seconds_bucket{{le="{limit:g}"}} {self._buckets[limit]}')
            lines.append(f'speakerverif_request_seconds_bucket{{le="+Inf"}} {self._count}')
            lines.append(f"speakerverif_request_seconds_sum {self._seconds:.6f}")
            lines.append(f"speakerverif_request_seconds_count {self._count}")
        memory = resident_bytes()
        if memory is not None:
            gauges["process_resident_memory_bytes"] = memory
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:g}" if value % 1 else f"{name} {int(value)}"]
        return "\n".join(lines) + "\n"


def resident_bytes(process: int | str = "self") -> int | None:
    """Return the memory that a process holds (Linux); None where that can't be read."""
    try:
        lines = Path(f"/proc/{process}/status").read_text("ascii", "replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
    except (OSError, StopIteration, ValueError):
        return None
