"""What endpoints are handed."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from orchestrator.app import Master


def master_of(request: Request) -> Master:
    master: Master = request.app.state.master
    return master


MasterDep = Annotated[Master, Depends(master_of)]
