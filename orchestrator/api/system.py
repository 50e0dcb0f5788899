"""The master itself: health, readiness, the audit of machines against rows."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from sqlalchemy import text

from orchestrator import __version__
from orchestrator.api.auth import Caller
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS
from orchestrator.api.shapes import AuditOut
from orchestrator.fleet.audit import audit

router = APIRouter(tags=["system"])


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz", responses={503: {"description": "the database does not answer"}})
def readyz(master: MasterDep) -> JSONResponse:
    """The master can do its work: its database answers."""
    try:
        with master.engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except Exception as error:  # noqa: BLE001 - whatever it is, the master is not ready
        return JSONResponse({"status": "not ready", "reason": f"the database does not answer: {error}"}, 503)
    return JSONResponse({"status": "ready", "installation": master.installation})


@router.get("/api/v1/audit", responses=PROBLEMS)
def run_audit(master: MasterDep, _: Caller) -> AuditOut:
    """Ask every cloud now, and compare each machine of this installation with its row."""
    document: dict[str, Any] = audit(master.engine, master.clouds, master.installation).document()
    return AuditOut(**document)
