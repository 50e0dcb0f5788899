"""`Within(a, b)`: every item of the JSON list `a` is one of the JSON list `b`; `OneOf(x, b)`: the text `x` is one of it.
In the words of both databases. A list that is NULL is empty."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Boolean
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

from orchestrator.store.engine import ONE_OF, WITHIN


class Within(GenericFunction[bool]):
    type = Boolean()
    inherit_cache = True


@compiles(Within, "sqlite")
def _on_sqlite(element: Within, compiler: Any, **options: Any) -> str:
    return f"{WITHIN}({compiler.process(element.clauses, **options)})"


@compiles(Within, "postgresql")
def _on_postgresql(element: Within, compiler: Any, **options: Any) -> str:
    some, all_ = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST({some} AS jsonb) <@ coalesce(CAST({all_} AS jsonb), '[]'::jsonb)"


class OneOf(GenericFunction[bool]):
    type = Boolean()
    inherit_cache = True


@compiles(OneOf, "sqlite")
def _one_of_on_sqlite(element: OneOf, compiler: Any, **options: Any) -> str:
    return f"{ONE_OF}({compiler.process(element.clauses, **options)})"


@compiles(OneOf, "postgresql")
def _one_of_on_postgresql(element: OneOf, compiler: Any, **options: Any) -> str:
    text, all_ = (compiler.process(clause, **options) for clause in element.clauses)
    return f"jsonb_exists(coalesce(CAST({all_} AS jsonb), '[]'::jsonb), {text})"
