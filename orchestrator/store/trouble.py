"""Troubles of the database and its disk, named by what whoever asked does next. They are nobody's mistake: all pass.

StoreTrouble            ask again after `retry_after_s`
├ Unavailable           nothing was done: it is locked, gone, starting
│  └ LineLost           nothing was done: the connection broke; another may work at once
├ Full                  nothing was done: there is no space left; make some
└ CommitUnknown         it may have been done: look before doing it again, or repeat it with its key
"""

from __future__ import annotations

import errno

from sqlalchemy.exc import TimeoutError as PoolTimeout


class StoreTrouble(Exception):
    retry_after_s = 5


class Unavailable(StoreTrouble):
    pass


class LineLost(Unavailable):
    pass


class Full(StoreTrouble):
    retry_after_s = 30


class CommitUnknown(StoreTrouble):
    """Whether the work was committed is not known: it must not simply be repeated."""


_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FIX_SPACE = "make space there; nothing of this was done, and the master goes on by itself once there is some"
# SQLite's primary result codes.
_FULL = 13
_PASSING = {
    5: "locked by another program",
    6: "locked",
    8: "read-only",
    10: "not readable",
    14: "not to be opened",
}
# PostgreSQL: by the first two letters of the state, then by the whole of it.
_CLASSES = {"08": "the connection failed", "53": "the server lacks resources", "58": "the server's own system fails"}
_STATES = {
    "57P01": "the server shuts down",
    "57P02": "the server crashed",
    "57P03": "the server starts",
    "25006": "it is read-only",
}
_LINE_LOST = {"57P01", "57P02", "25006"}


def trouble_of(error: BaseException) -> StoreTrouble | None:
    """The trouble behind an error of SQLAlchemy, of a driver or of the disk; None where it is something else."""
    if isinstance(error, StoreTrouble):
        return error
    if isinstance(error, PoolTimeout):
        return Unavailable("all connections to the database are in use; ask again")
    if isinstance(error, OSError):
        return Full(f"the master's disk is full ({error.strerror}): {_FIX_SPACE}") if error.errno in _NO_SPACE else None
    original = getattr(error, "orig", None) or error  # SQLAlchemy wraps the driver's error; prepared statements do not
    if (code := getattr(original, "sqlite_errorcode", None)) is not None:
        return _of_sqlite(code & 0xFF, original)
    if hasattr(original, "sqlstate"):
        return _of_postgres(original.sqlstate, original)
    return None


def _of_sqlite(code: int, error: BaseException) -> StoreTrouble | None:
    if code == _FULL:
        return Full(f"the disk of the database is full: {_FIX_SPACE}")
    if code in _PASSING:
        return Unavailable(f"the database is {_PASSING[code]} ({error}); nothing was done, ask again")
    return None


def _of_postgres(state: str | None, error: BaseException) -> StoreTrouble | None:
    if state == "53100":
        return Full(f"the disk of the database is full: {_FIX_SPACE}")
    told = " ".join(str(error).split())
    if state is None:
        broken = type(error).__name__ == "OperationalError"  # without a state it was not the server that spoke
        return LineLost(f"the database cannot be reached ({told}); nothing was done, ask again") if broken else None
    why = _STATES.get(state) or _CLASSES.get(state[:2])
    if why is None:
        return None
    kind = LineLost if state in _LINE_LOST or state.startswith("08") else Unavailable
    return kind(f"the database does not answer, {why} ({told}); nothing was done, ask again")
