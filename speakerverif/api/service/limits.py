"""Limits of the service, and the error by which it refuses a request."""

from dataclasses import dataclass

MAX_NAME = 200  # characters of a person's name
MAX_RECORDINGS = 20  # per request
MAX_RATE = 192_000  # Hz; higher rates only cost memory


@dataclass(frozen=True)
class Limits:
    """What one request, and all of them together, may cost.

    Attributes:
        body_mb: size of a request's body, in millions of bytes.
        audio_s: length of a recording or stream, seconds.
        concurrent: computations at the same time.
        waiting: requests that wait for a computation; further ones are answered 503.
        request_s: time for a request's body, and for its computation, seconds.
        streams: WebSocket streams open at the same time.
        idle_s: how long a stream may send nothing, seconds.
    """

    body_mb: float = 25.0
    audio_s: float = 300.0
    concurrent: int = 2
    waiting: int = 64
    request_s: float = 30.0
    streams: int = 16
    idle_s: float = 30.0

    @property
    def body_bytes(self) -> int:
        """Size of a request's body, in bytes."""
        return round(self.body_mb * 1e6)


class Refused(Exception):
    """A request that is not done: an HTTP status, one line that says why, and seconds after which to try again."""

    def __init__(self, status: int, reason: str, retry_after_s: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.reason, self.retry_after_s = status, reason, retry_after_s

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers of the answer."""
        if self.status == 401:
            return {"WWW-Authenticate": "Bearer"}
        return {} if self.retry_after_s is None else {"Retry-After": str(self.retry_after_s)}
