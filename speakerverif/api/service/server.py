"""The service as a program that listens: address, API key, and the loop that answers."""

import ipaddress
import socket
from collections.abc import Callable
from pathlib import Path

import uvicorn

from speakerverif.api.service.app import create_app
from speakerverif.api.service.limits import Limits
from speakerverif.api.service.recognition import Recognition
from speakerverif.api.service.stream_route import MAX_MESSAGE
from speakerverif.errors import InputError

SHORTEST_KEY = 16  # characters
MAX_CONNECTIONS = 1000


def read_key(path: Path) -> str:
    """Return the API key that a file holds in its only line.

    Raises:
        InputError: no such file; a key that is too short, or that no HTTP header can carry.
    """
    try:
        key = path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as an API key: {error}") from error
    if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable() and " " not in key):
        raise InputError(
            f"{path}: expected an API key: one line of {SHORTEST_KEY} or more ASCII characters without spaces, "
            f"such as `openssl rand -hex 32` writes"
        )
    return key


def listen_at(host: str, port: int, has_key: bool) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: name or address of an interface of this machine.
        port: 0 takes any that is free.
        has_key: requests must name an API key.

    Raises:
        InputError: an address that other machines reach, without a key; one that can't be listened at.
    """
    if not has_key and not _is_local(host):
        raise InputError(
            f"--host {host}: other machines could reach the service; give --api-key-file FILE, or leave --host out"
        )
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=256)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{host} port {port}: can't listen there: {error}") from error


def serve(
    recognition: Recognition,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: str | None = None,
    listening: Callable[[str], None] = lambda address: None,
) -> None:
    """Answer requests until the process is interrupted.

    Args:
        recognition: model and store.
        limits: of requests.
        host: where to listen.
        port: where to listen; 0 takes any that is free.
        api_key: a secret that requests must name.
        listening: called with the service's address before the first request.

    Raises:
        InputError: as `listen_at`.
    """
    place = listen_at(host, port, api_key is not None)
    app = create_app(recognition, limits, api_key, host)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=MAX_MESSAGE,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=10,
    )
    shown = f"[{host}]" if ":" in host else host
    with place:
        listening(f"http://{shown}:{place.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[place])


def _is_local(host: str) -> bool:
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
