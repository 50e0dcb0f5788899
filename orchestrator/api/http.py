"""The web application: REST, the agents' calls and the pages, over one master."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator import __version__
from orchestrator.api import artifacts, clouds, events, jobs, logs, nodes, notify, pools, problems, system
from orchestrator.api.auth import Tokens
from orchestrator.app import Master
from orchestrator.web.pages import mount_pages

SUBMIT = jobs.router.prefix
DESCRIPTION = "Batch jobs that rent virtual machines only while there is work. Every call under /api needs an API token."


def build(master: Master) -> FastAPI:
    """The application; it starts the master with itself and ends it with itself."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        master.start()
        yield
        master.stream.end()
        master.close()

    title = "Elastic Orchestrator"
    app = FastAPIOffline(redoc_url=None, title=title, version=__version__, description=DESCRIPTION, lifespan=life)
    app.state.master = master
    app.state.tokens = Tokens(master.engine)
    problems.install(app)
    for part in (jobs, logs, artifacts, pools, nodes, clouds, events, notify, system):
        app.include_router(part.router)
    mount_pages(app)
    app.middleware_stack = _HotFirst(Router(master.agents.routes()), app, app.build_middleware_stack())
    return app


class _HotFirst:
    """Agents' calls and submissions go straight to their handlers: what other requests pass through costs more."""

    def __init__(self, agents: ASGIApp, app: FastAPI, people: ASGIApp) -> None:
        self._agents = agents
        self._app = app
        self._people = people

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._people(scope, receive, send)
        elif scope["path"].startswith("/agent/"):
            await self._agents(scope, receive, send)
        elif scope["path"] == SUBMIT and scope["method"] == "POST":
            scope["app"] = self._app
            response = await jobs.submit_job(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._people(scope, receive, send)
