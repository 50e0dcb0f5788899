"""What endpoints are handed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.app import Master


async def master_of(request: Request) -> Master:  # async, or FastAPI sends it through a thread
    master: Master = request.app.state.master
    return master


MasterDep = Annotated[Master, Depends(master_of)]
