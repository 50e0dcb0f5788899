"""The master itself: health, readiness, the audit of machines against rows, the doctor."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from orchestrator import __version__
from orchestrator.api.auth import Caller, needs
from orchestrator.api.deps import MasterDep
from orchestrator.api.problems import PROBLEMS
from orchestrator.api.shapes import AuditOut, DoctorOut
from orchestrator.app import Master
from orchestrator.fleet.audit import audit
from orchestrator.people.roles import Role

router = APIRouter(tags=["system"])
public = APIRouter(tags=["system"])


@public.get("/healthz", responses={503: {"description": "only another start can mend it"}})
async def healthz(master: MasterDep) -> JSONResponse:
    """The process lives, with all its parts. Where it does not, start it again; a database that is away is no cause."""
    defects = master.defects()
    status = {"status": "not healthy", "reason": "; ".join(defects)} if defects else {"status": "ok"}
    return JSONResponse({**status, "version": __version__}, 503 if defects else 200)


@public.get("/readyz", responses={503: {"description": "why it cannot do its work now"}})
def readyz(master: MasterDep) -> JSONResponse:
    """The master can do its work: its database answers and takes what is written, its parts live."""
    if troubles := master.troubles():
        return JSONResponse({"status": "not ready", "reason": "; ".join(troubles)}, 503, {"Retry-After": "5"})
    return JSONResponse({"status": "ready", "installation": master.installation})


@router.get("/api/v1/audit", responses=PROBLEMS)
@needs(Role.VIEWER)
def run_audit(master: MasterDep, _: Caller) -> AuditOut:
    """Ask every cloud now, and compare each machine of this installation with its row."""
    return _audited(master)


@router.post("/api/v1/audit/fix", responses=PROBLEMS)
@needs(Role.ADMIN)
def fix(master: MasterDep, caller: Caller, _: Annotated[Any, Body()] = None) -> AuditOut:
    """The master's own look at every cloud, at once: orphans are ended without their grace, rows whose machine is gone
    end too. Then the audit as it is after that."""
    master.writer.write(lambda tx: tx.tell("cloud", 0, "an audit that mends was asked for", actor=caller))
    master.fix()
    return _audited(master)


def _audited(master: Master) -> AuditOut:
    document: dict[str, Any] = audit(master.engine, master.clouds, master.installation).document()
    return AuditOut(**document)


@router.get("/api/v1/doctor", responses=PROBLEMS)
@needs(Role.VIEWER)
def run_doctor(master: MasterDep, _: Caller) -> DoctorOut:
    """Look now at everything that could keep machines from coming: this master, each cloud, each rung of each pool."""
    return DoctorOut(**master.doctor.examine().document())
