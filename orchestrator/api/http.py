"""The web application: REST, the agents' calls and the pages, over one master."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from orchestrator import __version__
from orchestrator.api import events, jobs, nodes, pools, problems, system
from orchestrator.api.auth import Tokens
from orchestrator.app import Master
from orchestrator.web.pages import mount_pages

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
    app.router.routes.extend(master.agents.routes())
    for part in (jobs, pools, nodes, events, system):
        app.include_router(part.router)
    mount_pages(app)
    return app
