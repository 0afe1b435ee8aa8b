"""The WebSocket `/v1/stream`: samples in, partial answers while somebody speaks, and a final one."""

import asyncio
import json
import math
from typing import Any

import numpy as np
from starlette.websockets import WebSocket, WebSocketDisconnect

from speakerverif.api.service.compute_queue import BUSY, ComputeQueue
from speakerverif.api.service.guard import ApiKey, key_of
from speakerverif.api.service.limits import MAX_RATE, Refused
from speakerverif.api.service.recognition import Recognition, Thresholds, checked_name
from speakerverif.api.service.streaming import EVERY_S, GrowingRecording, Question

MAX_MESSAGE = 1 << 20  # bytes
RETRY_S = 0.2
# RFC 6455: 1000 normal, 1008 policy violation, 1011 internal error, 1013 try again later.
NORMAL, POLICY, INTERNAL, TRY_LATER = 1000, 1008, 1011, 1013


class Streams:
    """All streams of the service."""

    def __init__(self, recognition: Recognition, queue: ComputeQueue, key: ApiKey) -> None:
        self._recognition, self._queue, self._key = recognition, queue, key
        self.open = 0

    async def handle(self, socket: WebSocket) -> None:
        """Handle one stream to its end."""
        if self.open >= self._recognition.limits.streams:
            await socket.close(TRY_LATER, "too many streams are open; try again later")
            return
        self.open += 1
        try:
            await socket.accept()
            await self._answered(socket)
            await socket.close(NORMAL)
        except WebSocketDisconnect:
            pass
        except Refused as refused:
            codes = {BUSY: TRY_LATER, 500: INTERNAL}
            await self._end(socket, refused.reason, codes.get(refused.status, POLICY))
        except Exception:
            await self._end(socket, "internal error", INTERNAL)
            raise
        finally:
            self.open -= 1

    async def _answered(self, socket: WebSocket) -> None:
        question = await self._begin(socket)
        growing = GrowingRecording(question.sample_rate, self._recognition.limits.audio_s)
        await socket.send_json({"type": "ready", "every_s": EVERY_S})
        while (chunk := await self._chunk(socket)) is not None:
            growing.add(chunk)
            if await asyncio.to_thread(growing.is_due):
                try:
                    await self._send(socket, "partial", growing, question)
                except Refused as refused:
                    if refused.status not in (BUSY, 422):
                        raise
        await asyncio.to_thread(growing.measure)
        for _ in range(math.ceil(self._recognition.limits.request_s / RETRY_S)):
            try:
                await self._send(socket, "final", growing, question)
                return
            except Refused as refused:
                if refused.status != BUSY:
                    raise
            await asyncio.sleep(RETRY_S)
        raise Refused(BUSY, "too many requests wait; try again later")

    async def _send(
        self, socket: WebSocket, kind: str, growing: GrowingRecording, question: Question
    ) -> None:
        samples, speech_s = growing.samples, growing.speech_s
        answer = await self._queue.run(lambda: question.answer(self._recognition, samples))
        await socket.send_json({"type": kind, "speech_s": speech_s, "answer": answer})

    async def _begin(self, socket: WebSocket) -> Question:
        message = await self._receive(socket)
        try:
            first: Any = json.loads(message.get("text") or "")
        except (ValueError, RecursionError) as error:
            raise Refused(400, 'expected a first message such as {"sample_rate": 16000}') from error
        if not isinstance(first, dict):
            raise Refused(400, 'expected a first message such as {"sample_rate": 16000}')
        if not self._key.admits(first.pop("key", key_of(socket.headers))):
            raise Refused(401, 'expected the API key, as "key" in the first message')
        rate, name = first.pop("sample_rate", None), first.pop("name", None)
        if type(rate) is not int or not 2000 <= rate <= MAX_RATE:
            raise Refused(422, f"sample_rate: expected a whole number of Hz, 2000 to {MAX_RATE}")
        if not (name is None or isinstance(name, str)):
            raise Refused(422, "name: expected text")
        numbers = {which: first.pop(which, None) for which in ("threshold", "llr_threshold")}
        for which, number in numbers.items():
            if number is not None and (type(number) not in (int, float) or not abs(number) < 1e300):
                raise Refused(422, f"{which}: expected a finite number")
        if first:
            raise Refused(422, f"unknown key {next(iter(first))[:40]!r} in the first message")
        thresholds = Thresholds(**numbers)
        with self._recognition.errors():
            self._recognition.check(thresholds)
            self._recognition.check_enrolled(None if name is None else checked_name(name))
        return Question(rate, name, thresholds)

    async def _chunk(self, socket: WebSocket) -> np.ndarray | None:
        """Return the next samples; None at the end of the recording."""
        message = await self._receive(socket)
        if message.get("text") is not None:
            if message["text"].replace(" ", "") != '{"end":true}':
                raise Refused(400, 'expected 16-bit samples, or {"end": true}')
            return None
        content: bytes = message.get("bytes") or b""
        if len(content) % 2:
            raise Refused(400, f"{len(content)} bytes: expected 16-bit samples, an even number of bytes")
        return np.frombuffer(content, "<i2")

    async def _receive(self, socket: WebSocket) -> dict[str, Any]:
        try:
            message = await asyncio.wait_for(socket.receive(), self._recognition.limits.idle_s)
        except TimeoutError as error:
            raise Refused(408, f"nothing came for {self._recognition.limits.idle_s:g} s") from error
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", NORMAL))
        return dict(message)

    @staticmethod
    async def _end(socket: WebSocket, reason: str, code: int) -> None:
        try:
            await socket.send_json({"type": "error", "error": reason})
            await socket.close(code)
        except (RuntimeError, WebSocketDisconnect):
            pass  # the other side is gone
