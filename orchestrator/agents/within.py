"""`Within(a, b)`: every item of the JSON list `a` is one of the JSON list `b`; `OneOf(x, b)`: the text `x` is one of it.
On SQLite they are functions of ours, on PostgreSQL its own words. A list that is NULL is empty."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from orchestrator.store.engine import ONE_OF, WITHIN


class Within(GenericFunction[bool]):
    name = WITHIN
    type = Boolean()
    inherit_cache = True


@compiles(Within, "postgresql")
def _on_postgresql(element: Within, compiler: Any, **options: Any) -> str:
    some, all_ = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST({some} AS jsonb) <@ coalesce(CAST({all_} AS jsonb), '[]'::jsonb)"


class OneOf(GenericFunction[bool]):
    name = ONE_OF
    type = Boolean()
    inherit_cache = True


@compiles(OneOf, "postgresql")
def _one_of_on_postgresql(element: OneOf, compiler: Any, **options: Any) -> str:
    text, all_ = (compiler.process(clause, **options) for clause in element.clauses)
    return f"jsonb_exists(coalesce(CAST({all_} AS jsonb), '[]'::jsonb), {text})"
