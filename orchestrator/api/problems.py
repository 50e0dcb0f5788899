"""Errors as problem details (RFC 9457): what is wrong, where, and the fix, never a trace."""

from __future__ import annotations

import math

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from orchestrator.clouds import UnknownCloud
from orchestrator.jobs.spec import SpecError
from orchestrator.store.trouble import CommitUnknown, Full, StoreTrouble, trouble_of
from providers.base import ProviderError, RateLimited, Unavailable

AGAIN_S = 5.0
log = structlog.get_logger(__name__)


class FieldProblem(BaseModel):
    path: str
    message: str


class ProblemDetails(BaseModel):
    """The body of every answer that is not a success."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []


class Problem(Exception):
    """Raise it anywhere below an endpoint."""

    def __init__(
        self,
        status: int,
        title: str,
        detail: str,
        errors: list[FieldProblem] | None = None,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(math.ceil(retry_after_s))
        self.body = ProblemDetails(title=title, status=status, detail=detail, errors=errors or [])


def not_found(kind: str, name: object) -> Problem:
    return Problem(404, "Not found", f"there is no {kind} {name}; see `orchestrator {kind} list`")


def install(app: FastAPI) -> None:
    """Every error leaves as a problem."""

    @app.exception_handler(Problem)
    async def _problem(_: Request, error: Problem) -> JSONResponse:
        return answer_to(error)

    @app.exception_handler(SpecError)
    async def _spec(_: Request, error: SpecError) -> JSONResponse:
        return answer_to(error)

    @app.exception_handler(ProviderError)
    async def _provider(_: Request, error: ProviderError) -> JSONResponse:
        """503: the same may go well after `Retry-After` seconds; 502: not before somebody acts."""
        if isinstance(error, UnknownCloud):
            return answer(ProblemDetails(title="Not found", status=404, detail=str(error)))
        if isinstance(error, Unavailable):
            wait_s = error.retry_after_s if isinstance(error, RateLimited) else AGAIN_S
            headers = {"Retry-After": str(math.ceil(wait_s))}
            return answer(ProblemDetails(title="The cloud does not answer", status=503, detail=str(error)), headers)
        return answer(ProblemDetails(title="The cloud refuses", status=502, detail=str(error)))

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> JSONResponse:
        errors = [FieldProblem(path=_path(item["loc"]), message=item["msg"]) for item in error.errors()]
        detail = "; ".join(f"{item.path}: {item.message}" for item in errors)
        return answer(ProblemDetails(title="The request is not valid", status=422, detail=detail, errors=errors))

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        body = ProblemDetails(title=str(error.detail), status=error.status_code, detail=str(error.detail))
        return answer(body, dict(error.headers or {}))

    @app.exception_handler(StoreTrouble)
    @app.exception_handler(SQLAlchemyError)
    @app.exception_handler(app.state.master.engine.dialect.loaded_dbapi.Error)  # bare, of prepared statements
    @app.exception_handler(OSError)
    async def _store(request: Request, error: Exception) -> JSONResponse:
        trouble = trouble_of(error)
        return answer_to(trouble) if trouble is not None else await _unexpected(request, error)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", path=request.url.path, exc_info=error)
        detail = "the master failed to answer; its log has the cause"
        return answer(ProblemDetails(title="Internal error", status=500, detail=detail))


def answer_to(error: Problem | SpecError | StoreTrouble) -> JSONResponse:
    """What the caller hears of a refusal, or of a database that is in trouble."""
    if isinstance(error, StoreTrouble):
        title = "Outcome unknown" if isinstance(error, CommitUnknown) else "The database is in trouble"
        body = ProblemDetails(title=title, status=status_of(error), detail=str(error))
        return answer(body, {"Retry-After": str(error.retry_after_s)})
    if isinstance(error, Problem):
        return answer(error.body, error.headers)
    errors = [FieldProblem(path=path, message=message) for path, message in error.problems]
    return answer(ProblemDetails(title="The job file is refused", status=422, detail=str(error), errors=errors))


def status_of(trouble: StoreTrouble) -> int:
    """507: there is no space left; 503: it does not answer now."""
    return 507 if isinstance(trouble, Full) else 503


def answer(body: ProblemDetails, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body.model_dump(), body.status, headers, "application/problem+json")


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part not in ("body", "query", "path")) or "body"


def _documented(description: str) -> dict[str, object]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
    return {"model": ProblemDetails, "description": description, "content": content}


PROBLEMS: dict[int | str, dict[str, object]] = {"4XX": _documented("What is wrong and how to mend it")}
"""For `responses=` of a router."""

CLOUD_PROBLEMS: dict[int | str, dict[str, object]] = {
    502: _documented("The cloud refuses, and what to do about it"),
    503: _documented("The cloud does not answer now; again after `Retry-After` seconds"),
}
"""Besides, for endpoints that ask a cloud."""
