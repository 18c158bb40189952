"""What the gateway shows: the files of `page/`, with headers under which browsers load and tell nothing elsewhere."""

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PAGE = (Path(__file__).parent / "page").resolve()
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wasm": "application/wasm",
    ".bin": "application/octet-stream",
    ".txt": "text/plain; charset=utf-8",
}
HEADERS = {
    # Own process in the browser, with shared memory allowed; nothing from elsewhere is loaded or told.
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; img-src 'self' data:; object-src 'none'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "permissions-policy": "camera=(), geolocation=(), microphone=(self), accelerometer=(self), gyroscope=(self)",
}


TO_STAY_ENCRYPTED = {"strict-transport-security": "max-age=31536000"}
"""Of a certificate that browsers trust: with ours it would lock people out once it is made anew."""


class Guarded:
    """Adds the security headers to every answer.

    Args:
        application: that answers.
        public: whether its certificate is a public authority's.
    """

    def __init__(self, application: ASGIApp, *, public: bool = False) -> None:
        self._application, self._headers = application, {**HEADERS, **(TO_STAY_ENCRYPTED if public else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(self._headers)
            await send(message)

        await self._application(scope, receive, guarded)


async def _asset(request: Request) -> Response:
    """Return a file of the page; the large ones lie there compressed."""
    name = request.path_params["path"] or "index.html"
    try:
        path = (PAGE / name).resolve()
        kind = TYPES.get(path.suffix)
        if not path.is_relative_to(PAGE) or kind is None or not (path.is_file() or _packed(path).is_file()):
            raise ValueError
    except (OSError, ValueError):  # a name that no file can have
        return PlainTextResponse("there is no such page", 404)
    # What a new version of edgekit brings must be seen at once; the service worker keeps it for being offline.
    headers = {"cache-control": "no-cache"}
    packed = _packed(path)
    if packed.is_file():
        if "gzip" not in request.headers.get("accept-encoding", ""):
            return PlainTextResponse("this file is sent as gzip alone", 406)
        return FileResponse(packed, media_type=kind, headers={**headers, "content-encoding": "gzip"})
    return FileResponse(path, media_type=kind, headers=headers)


def _packed(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


async def _front(request: Request) -> Response:
    return RedirectResponse("/phone/")


async def _dashboard(request: Request) -> Response:
    return FileResponse(PAGE / "dashboard.html", media_type=TYPES[".html"], headers={"cache-control": "no-cache"})


def page_routes() -> list[Route]:
    """Return the routes of what people see; they need no coordinator."""
    return [Route("/", _front), Route("/phone/{path:path}", _asset), Route("/dashboard", _dashboard)]
