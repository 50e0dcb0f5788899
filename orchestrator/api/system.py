"""The master itself: health, readiness, the audit of machines against rows."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from orchestrator import __version__
from orchestrator.api.auth import Caller
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS
from orchestrator.api.shapes import AuditOut
from orchestrator.fleet.audit import audit

router = APIRouter(tags=["system"])


@router.get("/healthz", responses={503: {"description": "only another start can mend it"}})
async def healthz(master: MasterDep) -> JSONResponse:
    """The process lives, with all its parts. Where it does not, start it again; a database that is away is no cause."""
    defects = master.defects()
    status = {"status": "not healthy", "reason": "; ".join(defects)} if defects else {"status": "ok"}
    return JSONResponse({**status, "version": __version__}, 503 if defects else 200)


@router.get("/readyz", responses={503: {"description": "why it cannot do its work now"}})
def readyz(master: MasterDep) -> JSONResponse:
    """The master can do its work: its database answers and takes what is written, its parts live."""
    if troubles := master.troubles():
        return JSONResponse({"status": "not ready", "reason": "; ".join(troubles)}, 503, {"Retry-After": "5"})
    return JSONResponse({"status": "ready", "installation": master.installation})


@router.get("/api/v1/audit", responses=PROBLEMS)
def run_audit(master: MasterDep, _: Caller) -> AuditOut:
    """Ask every cloud now, and compare each machine of this installation with its row."""
    document: dict[str, Any] = audit(master.engine, master.clouds, master.installation).document()
    return AuditOut(**document)
