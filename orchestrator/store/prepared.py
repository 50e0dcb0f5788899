"""Statements of the hot path: written in SQLAlchemy Core, compiled once, run on the driver's own cursor.

SQLAlchemy spends four times as long on a small statement as SQLite does. Here its compiler and its types are used once; a
call costs binding the parameters. Rows come back as named tuples. Everything runs inside the caller's transaction.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Executable, Float
from sqlalchemy.engine import Dialect

FEW = 4  # parameter sets for which a pipeline is not worth its making


class Prepared:
    """One statement. `keys` are the columns of an insert without values of its own."""

    def __init__(self, statement: Executable, keys: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._keys = keys
        self._forms: dict[str, _Form] = {}

    def rows(self, connection: Connection, parameters: Mapping[str, Any]) -> list[Any]:
        """Run it once; all rows."""
        return self.each(connection, (parameters,))

    def each(self, connection: Connection, parameters: Iterable[Mapping[str, Any]]) -> list[Any]:
        """Run it once for each set of parameters; all their rows, in order."""
        form = self._form(connection)
        cursor: Any = connection.connection.cursor()
        try:
            found: list[Any] = []
            sets = list(parameters)
            if len(sets) > FEW and connection.dialect.name == "postgresql":
                # In a pipeline: each way to the server and back would cost as much as the statement.
                cursor.executemany(form.sql, [form.bound(each) for each in sets], returning=True)
                for result in cursor.results():
                    found += form.read(result.fetchall())
                return found
            for each in sets:
                cursor.execute(form.sql, form.bound(each))
                found += form.read(cursor.fetchall())
            return found
        finally:
            cursor.close()

    def many(self, connection: Connection, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Run it for all; how many rows it changed."""
        form = self._form(connection)
        cursor = connection.connection.cursor()
        try:
            cursor.executemany(form.sql, [form.bound(each) for each in parameters])
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def _form(self, connection: Connection) -> _Form:
        name = connection.dialect.name
        if name not in self._forms:
            self._forms[name] = _Form(self._statement, self._keys, connection.dialect)
        return self._forms[name]


class _Form:
    """The statement in one dialect: its text, how parameters are bound and how columns are read."""

    def __init__(self, statement: Any, keys: Sequence[str] | None, dialect: Dialect) -> None:
        compiled = statement.compile(dialect=dialect, column_keys=keys)
        self.sql: str = compiled.string
        processors = compiled._bind_processors
        constants = {name: bind.effective_value for name, bind in compiled.binds.items() if not bind.required}
        self._fixed = {name: processors[name](v) if name in processors else v for name, v in constants.items()}
        names = compiled.positiontup if compiled.positional else compiled.binds
        self._plan = [(name, processors.get(name), self._fixed.get(name)) for name in names]
        self._positional: bool = compiled.positional
        columns = compiled._result_columns or ()
        make_class: Any = collections.namedtuple
        self._make = make_class("_Row", [column.keyname for column in columns], rename=True)._make
        readers = [
            # Drivers give floats as they are, and PostgreSQL's processor wants to be told what came.
            None if isinstance(column.type, Float) else column.type.dialect_impl(dialect).result_processor(dialect, None)
            for column in columns
        ]
        self._readers = [(i, reader) for i, reader in enumerate(readers) if reader is not None]

    def bound(self, parameters: Mapping[str, Any]) -> Any:
        values = [
            fixed if name in self._fixed and name not in parameters
            else parameters[name] if process is None
            else process(parameters[name])
            for name, process, fixed in self._plan
        ]  # fmt: skip
        return values if self._positional else {name: value for (name, _, _), value in zip(self._plan, values, strict=True)}

    def read(self, rows: Iterable[Sequence[Any]]) -> list[Any]:
        if not self._readers:
            return [self._make(row) for row in rows]
        made = []
        for row in rows:
            values = list(row)
            for i, reader in self._readers:
                values[i] = reader(values[i])
            made.append(self._make(values))
        return made
