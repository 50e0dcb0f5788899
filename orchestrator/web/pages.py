"""The page people look at: jobs, nodes, pools and events, live. Files of ours alone; nothing comes from other hosts."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
# Said here, not asked of the host: its table of media types may have been changed.
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
}


class Assets(StaticFiles):
    """Files with our headers on every answer, refusals too."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            response = await super().get_response(path, scope)
        except HTTPException as error:
            raise HTTPException(error.status_code, error.detail, HEADERS) from error
        response.headers.update(HEADERS)
        if response.status_code == 200:
            response.headers["Content-Type"] = MEDIA_TYPES[Path(path).suffix]
        return response


def mount_pages(app: FastAPI) -> None:
    """Serve `static/index.html` at `/` and the files under `/static/`."""
    assets = Assets(directory=STATIC)

    @app.get("/", include_in_schema=False)
    async def index(request: Request) -> Response:
        return await assets.get_response("index.html", request.scope)

    app.mount("/static", assets)
