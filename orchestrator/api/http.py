"""The web application: REST, the agents' calls and the pages, over one master."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI
from fastapi_offline import FastAPIOffline
from starlette.requests import Request
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from orchestrator import __version__
from orchestrator.api import (
    artifacts,
    clients,
    clouds,
    events,
    jobs,
    logs,
    nodes,
    notify,
    plan,
    pools,
    problems,
    schemas,
    session,
    shares,
    system,
    templates,
    tokens,
    users,
)
from orchestrator.api.auth import Identities, authorise
from orchestrator.api.front import Front
from orchestrator.api.problems import Problem
from orchestrator.api.record import Record, Recorded
from orchestrator.app import Master
from orchestrator.people.backoff import Backoff
from orchestrator.web.pages import mount_pages

SUBMIT = jobs.router.prefix
DESCRIPTION = (
    "Batch jobs that rent virtual machines only while there is work. Every call under /api needs an API token or a login; "
    "docs/people.md says which role may do what."
)
PUBLIC = (system.public, session.public)
GUARDED = (
    plan, jobs, logs, artifacts, templates, clients, pools, nodes, clouds, events, notify, shares, schemas, system,
    session, users, tokens,
)  # fmt: skip


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
    app.state.identities = Identities(master.engine, master.clock)
    app.state.backoff = Backoff()
    problems.install(app)
    for router in PUBLIC:
        app.include_router(router)
    for part in GUARDED:
        app.include_router(part.router, dependencies=[Depends(authorise)])
    mount_pages(app)
    record = Record(master.writer, master.clock)
    people = Recorded(app.build_middleware_stack(), record)
    app.middleware_stack = _HotFirst(Front(master.settings), Router(master.agents.routes()), app, people, record)
    return app


class _HotFirst:
    """Agents' calls and submissions go straight to their handlers: what other requests pass through costs more."""

    def __init__(self, front: Front, agents: ASGIApp, app: FastAPI, people: ASGIApp, record: Record) -> None:
        self._front = front
        self._agents = agents
        self._app = app
        self._people = people
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._people(scope, receive, send)
        elif self._front.in_the_way and (refusal := self._front.refusal(scope)) is not None:
            await self._refuse(refusal, scope, receive, send)
        elif scope["path"].startswith("/agent/"):
            await self._agents(scope, receive, send)
        elif scope["path"] == SUBMIT and scope["method"] == "POST":
            scope["app"] = self._app
            response = await jobs.submit_job(Request(scope, receive))
            if response.status_code >= 400:
                await self._record.keep(scope, response.status_code)
            await response(scope, receive, send)
        else:
            await self._people(scope, receive, send)

    async def _refuse(self, refusal: Problem, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal.body.status == 403:
            await self._record.keep(scope, 403)
        await problems.answer_to(refusal)(scope, receive, send)
