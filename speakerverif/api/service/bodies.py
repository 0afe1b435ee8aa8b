"""Bodies of requests: recordings as raw bytes, as a multipart form, or as base64 in JSON."""

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from speakerverif.api.service.limits import MAX_RECORDINGS, Limits, Refused

RAW = "recording"  # name of the only part of a raw body
Parts = dict[str, list[bytes]]


async def parts(request: Request, names: Sequence[str], limits: Limits) -> Parts:
    """Return the recordings in the body of a request, by the names of their parts.

    Args:
        request: its content type decides: `multipart/form-data`, `application/json`; any other is a raw recording.
        names: parts that the route takes; each must be there.
        limits: of size and time.

    Raises:
        Refused: too large, too slow, malformed, or other parts than these.
    """
    try:
        body = await asyncio.wait_for(_body(request, limits.body_bytes), limits.request_s)
    except TimeoutError as error:
        raise Refused(408, f"the body did not arrive within {limits.request_s:g} s") from error
    except ClientDisconnect as error:
        raise Refused(400, "the body was cut off") from error
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        recordings = await _form(request, body)
    elif kind == "application/json":
        recordings = _json(body)
    else:
        recordings = {RAW: [body]} if body else {}
    expected = " and ".join(names)
    if unknown := recordings.keys() - set(names):
        raise Refused(400, f"unknown part {sorted(unknown)[0][:40]!r} in the body: expected {expected}")
    if missing := [name for name in names if not recordings.get(name)]:
        raise Refused(400, f"no {missing[0]} in the body: expected {expected}")
    return recordings


def single(recordings: Parts, name: str) -> bytes:
    """Return the only recording of a name.

    Raises:
        Refused: there are several.
    """
    if len(recordings[name]) != 1:
        raise Refused(400, f"{len(recordings[name])} recordings named {name}: expected one")
    return recordings[name][0]


async def _body(request: Request, most_bytes: int) -> bytes:
    too_large = Refused(413, f"the body is larger than {most_bytes / 1e6:g} MB, the most that is taken")
    if request.headers.get("content-length", "0").isdecimal() and (
        int(request.headers.get("content-length", "0")[:20]) > most_bytes
    ):
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most_bytes:
            raise too_large
    return bytes(body)


async def _form(request: Request, body: bytes) -> Parts:
    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    try:
        form = await MultiPartParser(
            request.headers, stream(), max_files=MAX_RECORDINGS, max_fields=0
        ).parse()
    except (MultiPartException, KeyError, ValueError, AttributeError) as error:
        # Of its messages only the number of fields and files would help; the others are about the parser.
        raise Refused(
            400,
            f"malformed form: expected files only (as `curl -F recording=@a.wav`), at most {MAX_RECORDINGS}",
        ) from error
    recordings: Parts = {}
    for name, part in form.multi_items():
        if isinstance(part, UploadFile):
            recordings.setdefault(name, []).append(await part.read())
            await part.close()
    return recordings


def _json(body: bytes) -> Parts:
    try:
        record: Any = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed JSON in the body") from error
    if not isinstance(record, dict):
        raise Refused(400, "expected a JSON object of recordings in base64")
    recordings: Parts = {}
    for name, values in record.items():
        values = values if isinstance(values, list) else [values]
        if len(values) > MAX_RECORDINGS:
            raise Refused(413, f"{len(values)} recordings: expected at most {MAX_RECORDINGS} per request")
        try:
            recordings[name] = [base64.b64decode(value, validate=True) for value in values]
        except (binascii.Error, TypeError, ValueError) as error:
            raise Refused(400, f"{name[:40]!r}: expected base64 text, or a list of it") from error
    return recordings
