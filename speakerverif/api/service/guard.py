"""What every request passes first: origin, host, API key; and last: security headers and the count of requests."""

import hashlib
import hmac
import json
import time
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from speakerverif.api.service.limits import Refused
from speakerverif.api.service.metrics import Metrics

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
OPEN_PATHS = ("/", "/v1/health", "/v1/openapi.json")
STREAM = "/v1/stream"
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class ApiKey:
    """A secret that requests must name; None: there is none, and every request is let in."""

    def __init__(self, key: str | None) -> None:
        self._digest = None if key is None else _digest(key)

    @property
    def required(self) -> bool:
        """Whether there is one."""
        return self._digest is not None

    def admits(self, given: object) -> bool:
        """Return whether a key is the right one; the time that it takes tells nothing about the key."""
        if self._digest is None:
            return True
        return isinstance(given, str) and hmac.compare_digest(self._digest, _digest(given))


def key_of(headers: Headers) -> str | None:
    """Return the key in a request's headers: `Authorization: Bearer KEY` or `X-API-Key: KEY`."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else headers.get("x-api-key")


class Guard:
    """ASGI middleware around the whole service."""

    def __init__(
        self, app: ASGIApp, key: ApiKey, metrics: Metrics, routes: frozenset[str], host: str
    ) -> None:
        self._app, self._key, self._metrics, self._routes = app, key, metrics, routes
        self._hosts = {*LOCAL_HOSTS, host.strip("[]").lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 101 if scope["type"] == "websocket" else 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            refused = self._refusal(scope)
            if refused is None:
                await self._app(scope, receive, counted)
            elif scope["type"] == "websocket":
                status = refused.status
                await receive()  # the request to connect
                await send({"type": "websocket.close", "code": 1008, "reason": refused.reason})
            else:
                await _answer(refused, counted)
        finally:
            route = scope["path"] if scope["path"] in self._routes else "other"
            self._metrics.add(route, status, time.monotonic() - began)

    def _refusal(self, scope: Scope) -> Refused | None:
        """Return why a request is not let in, or None.

        A browser lets any page of the web send a recording to a server on this machine. Such a request names the page
        as its origin; and where the page's own name was made to lead to this machine, it names that host.
        """
        headers, path = Headers(scope=scope), scope["path"]
        host, origin = headers.get("host", ""), headers.get("origin")
        try:
            name, origin_host = urlsplit(f"//{host}").hostname, urlsplit(origin or "").netloc
        except ValueError:
            return Refused(400, "malformed Host or Origin header")
        if origin is not None and (origin_host or "null").lower() != host.lower():
            return Refused(403, "requests from pages of other origins are refused")
        if not self._key.required and (name or "").lower() not in self._hosts:
            return Refused(403, "unknown Host: without an API key only this machine's own name is answered")
        # A browser's WebSocket has no headers of its own: there the first message names the key.
        if path in OPEN_PATHS or path == STREAM or self._key.admits(key_of(headers)):
            return None
        return Refused(401, "expected the API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`")


async def _answer(refused: Refused, send: Send) -> None:
    body = json.dumps({"error": refused.reason}).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **refused.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
