"""The first page: jobs, nodes and events, live. One file of ours; nothing comes from other hosts."""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

STATIC = Path(__file__).parent / "static"
POLICY = "default-src 'self'; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'"


def mount_pages(app: FastAPI) -> None:
    """Serve `static/` at `/` and under `/static/`."""

    @app.get("/", include_in_schema=False)
    async def index() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers={"Content-Security-Policy": POLICY})

    @app.get("/static/{name}", include_in_schema=False)
    async def asset(name: str) -> FileResponse:
        known = {path.name: path for path in STATIC.iterdir()}
        return FileResponse(known.get(name, STATIC / "index.html"))
