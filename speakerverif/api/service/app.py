"""The HTTP API: its routes, and one line of JSON for every error."""

import contextlib
import logging
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.routing import APIRoute
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocket

from speakerverif import __version__
from speakerverif._util import html
from speakerverif.api.service import metrics as prometheus
from speakerverif.api.service.bodies import Parts, parts, single
from speakerverif.api.service.compute_queue import ComputeQueue
from speakerverif.api.service.guard import STREAM, ApiKey, Guard
from speakerverif.api.service.limits import Limits, Refused
from speakerverif.api.service.recognition import Recognition, Record, Thresholds, checked_name
from speakerverif.api.service.stream_route import Streams
from speakerverif.inference.enroll import Enrolment
from speakerverif.inference.identify import Identification
from speakerverif.inference.samples import EnrolledSpeaker
from speakerverif.inference.verify import Verification
from speakerverif.scoring.decision import DecisionPoint

POLICY = (
    "default-src 'none'; connect-src 'self'; img-src data:; media-src blob: data:; "
    "style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": description}
    for status, description in {
        400: "malformed request",
        401: "no API key, or a wrong one",
        413: "body too large, or recording too long",
        422: "what can't be done: `error` says why",
        503: "too many requests wait; `Retry-After` says how many seconds to wait",
        504: "not done in time",
    }.items()
}
Number = Annotated[float | None, Query(allow_inf_nan=False, ge=-1e300, le=1e300)]
Name = Annotated[str, Query(description="an enrolled person's name")]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embedded:
    """The embedding of a recording."""

    embedding: list[float]
    duration_s: float
    speech_s: float
    fingerprint: str


@dataclass(frozen=True)
class VerificationAnswer(Verification):
    """A comparison, with the engine and the error rates measured at its threshold."""

    error_rates: DecisionPoint | None = None
    engine: str = ""


@dataclass(frozen=True)
class IdentificationAnswer(Identification):
    """The most similar people, with the engine and the error rates measured at the threshold."""

    error_rates: DecisionPoint | None = None
    engine: str = ""


@dataclass(frozen=True)
class People:
    """The enrolled people."""

    fingerprint: str
    speakers: list[EnrolledSpeaker]


@dataclass(frozen=True)
class Removed:
    """A person who was removed, and how many recordings went."""

    name: str
    removed: int


def create_app(
    recognition: Recognition, limits: Limits, api_key: str | None = None, host: str = "localhost"
) -> FastAPI:
    """Return the service as an ASGI application.

    Args:
        recognition: model and store.
        limits: of requests.
        api_key: a secret that requests must name; None: only requests to this machine's own name are answered.
        host: name or address by which clients reach the service.
    """
    key, metrics, queue = ApiKey(api_key), prometheus.Metrics(), ComputeQueue(limits)
    streams = Streams(recognition, queue, key)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        queue.close()

    app = FastAPI(
        title="speakerverif",
        version=__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )

    async def computed(work: Callable[[], Record]) -> JSONResponse:
        def guarded() -> Record:
            with recognition.errors():
                return work()

        return JSONResponse(await queue.run(guarded))

    async def body(request: Request, *names: str) -> Parts:
        return await parts(request, names, limits)

    @app.post("/v1/embed", response_model=Embedded, **_described("recording"))
    async def embed(request: Request) -> Response:
        """Return the embedding of a recording."""
        content = single(await body(request, "recording"), "recording")
        return await computed(lambda: recognition.embed(recognition.recordings([content])))

    @app.post("/v1/verify", response_model=VerificationAnswer, **_described("recording", "enroll", "test"))
    async def verify(
        request: Request, name: str | None = None, threshold: Number = None, llr_threshold: Number = None
    ) -> Response:
        """Compare the speakers of two recordings, or with `name` an enrolled person with a recording."""
        given = Thresholds(threshold, llr_threshold)
        if name is None:
            pair = await body(request, "enroll", "test")
            contents = [single(pair, which) for which in ("enroll", "test")]
            return await computed(lambda: recognition.verify(recognition.recordings(contents), given))
        checked_name(name)
        content = single(await body(request, "recording"), "recording")
        return await computed(
            lambda: recognition.verify_person(name, recognition.recordings([content]), given)
        )

    @app.post("/v1/identify", response_model=IdentificationAnswer, **_described("recording"))
    async def identify(
        request: Request,
        top: Annotated[int, Query(ge=1, le=100)] = 5,
        threshold: Number = None,
        llr_threshold: Number = None,
    ) -> Response:
        """Find the enrolled people most similar to the speaker of a recording."""
        content = single(await body(request, "recording"), "recording")
        given = Thresholds(threshold, llr_threshold)
        return await computed(lambda: recognition.identify(recognition.recordings([content]), top, given))

    @app.post("/v1/enroll", response_model=Enrolment, **_described("recording"))
    async def enroll(request: Request, name: Name, force: bool = False) -> Response:
        """Add one or several recordings of a person, all of them or none; on disk when this answers."""
        checked_name(name)
        contents = (await body(request, "recording"))["recording"]
        return await computed(lambda: recognition.enroll(name, recognition.recordings(contents), force))

    @app.get("/v1/people", response_model=People, responses=ERRORS)
    async def people() -> Response:
        """List the enrolled people."""
        return await computed(recognition.people)

    @app.delete("/v1/people", response_model=Removed, responses=ERRORS)
    async def remove(name: Name) -> Response:
        """Remove a person; nothing of them stays in the store."""
        checked_name(name)
        return await computed(lambda: recognition.remove(name))

    @app.get("/v1/health")
    async def health() -> Record:
        """Say which model answers, and whether it decides without a threshold."""
        return {**recognition.health(), "api_key": key.required}

    @app.get("/v1/metrics", response_class=PlainTextResponse, responses=ERRORS)
    async def metrics_text() -> Response:
        """Return counts and times of requests for Prometheus."""
        text = metrics.text(speakerverif_computations=queue.pending, speakerverif_streams=streams.open)
        return Response(text, media_type=prometheus.CONTENT_TYPE)

    @app.websocket(STREAM)
    async def stream(socket: WebSocket) -> None:
        await streams.handle(socket)

    page = _page(recognition)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": POLICY})

    _add_errors(app)
    routes = frozenset({STREAM, *(route.path for route in app.routes if isinstance(route, APIRoute))})
    app.add_middleware(Guard, key=key, metrics=metrics, routes=routes, host=host)
    return app


def _described(*names: str) -> dict[str, Any]:
    """Return what the schema says about a route's body: recordings by name, or one raw."""
    properties = {name: {"type": "string", "format": "binary"} for name in names}
    encoded = {name: {"type": "string", "format": "byte"} for name in names}
    content: dict[str, Any] = {
        "multipart/form-data": {"schema": {"type": "object", "properties": properties}},
        "application/json": {"schema": {"type": "object", "properties": encoded}},
    }
    if "recording" in names:
        content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": content}
    return {"openapi_extra": {"requestBody": body}, "responses": ERRORS}


def _page(recognition: Recognition) -> str:
    look = html.environment("speakerverif.report", "templates").get_template("look.css").render()
    template = html.environment("speakerverif.api.service", "templates").get_template("page.html")
    return template.render(look=Markup(look), health=recognition.health(), version=__version__)


def _add_errors(app: FastAPI) -> None:
    """Answer every error in one line of JSON that tells nothing about this machine."""

    async def refuse(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return JSONResponse({"error": error.reason}, error.status, headers=error.headers)

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    async def validation(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 422)

    async def unexpected(_: Request, error: Exception) -> Response:
        log.error("request failed", exc_info=error)
        return JSONResponse({"error": "internal error"}, 500)

    app.add_exception_handler(Refused, refuse)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(Exception, unexpected)
