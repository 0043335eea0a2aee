"""Prepared queries and inserts: the SQL is made once, then run with other values.

For the few statements that every question makes. Django builds and compiles a queryset anew each time, which for a row by its
key costs five times what the database needs for it (measured in docs/decisions/0005-request-threads.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import connections, models, router
from django.db.models.query import ModelIterable, get_related_populators

Row = TypeVar("Row", bound=models.Model)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """A statement, and how its rows become instances of `model` (None: they stay tuples)."""

    sql: str
    parameters: tuple[Any, ...]
    compiler: Any
    converters: dict[int, Any]
    model: type[models.Model] | None = None
    span: slice | None = None
    names: Sequence[str] = ()
    related: Sequence[Any] = ()


class Slot(str):
    """Stands in a filter for a text that is given when the query runs."""

    __slots__ = ()


class Prepared(Generic[Row]):
    """`Prepared(lambda name: Collection.objects.filter(name=name))("docs")` -> list of rows, select_related included.

    With values_list in the queryset, the rows are tuples. The arguments of the queryset's function are texts, and may only be
    compared as they are (no __icontains and the like).
    """

    def __init__(self, build: Callable[..., models.QuerySet[Row]]) -> None:
        self._build = build

    def __call__(self, *values: str) -> list[Row]:
        plan = self._plan
        given = [values[int(parameter[1:])] if type(parameter) is Slot else parameter for parameter in plan.parameters]
        with connections[plan.compiler.using].cursor() as cursor:
            cursor.execute(plan.sql, given)
            rows = cursor.fetchall()
        if plan.converters:
            rows = map(tuple, plan.compiler.apply_converters(rows, plan.converters))
        return list(rows) if plan.model is None else [self._instance(plan, row) for row in rows]

    @staticmethod
    def _instance(plan: _Plan, row: tuple[Any, ...]) -> Row:
        instance = plan.model.from_db(plan.compiler.using, plan.names, row[plan.span])
        for populator in plan.related:
            populator.populate(row, instance)
        return instance

    @cached_property
    def _plan(self) -> _Plan:
        queryset = self._build(*(Slot(f"\x00{number}") for number in range(self._build.__code__.co_argcount)))
        compiler = queryset.query.get_compiler(queryset.db)
        sql, parameters = compiler.as_sql()
        plan = _Plan(
            sql=sql,
            parameters=tuple(map(_plain, parameters)),
            compiler=compiler,
            converters=compiler.get_converters([column for column, _, _ in compiler.select]),
        )
        if not issubclass(queryset._iterable_class, ModelIterable):
            return plan
        info = compiler.klass_info
        span = slice(info["select_fields"][0], info["select_fields"][-1] + 1)
        return replace(
            plan,
            model=info["model"],
            span=span,
            names=[column.target.attname for column, _, _ in compiler.select[span]],
            related=get_related_populators(info, compiler.select, queryset.db),
        )


class PreparedInsert(Generic[Row]):
    """`PreparedInsert(Interaction)(row, ...)` inserts as `save(force_insert=True)` does: values are adapted by their fields.

    For models without parents and with their own keys; sends no signals and takes no expressions.
    """

    def __init__(self, model: type[Row]) -> None:
        self._model = model
        self._fields = model._meta.local_concrete_fields

    def __call__(self, *rows: Row) -> None:
        connection = connections[router.db_for_write(self._model)]
        given = [
            [_plain(field.get_db_prep_save(field.pre_save(row, True), connection)) for field in self._fields] for row in rows
        ]
        with connection.cursor() as cursor:
            if len(given) == 1:
                cursor.execute(self._sql, given[0])
            else:
                cursor.executemany(self._sql, given)
        for row in rows:
            row._state.adding, row._state.db = False, connection.alias

    @cached_property
    def _sql(self) -> str:
        columns = ", ".join(f'"{field.column}"' for field in self._fields)
        return f'INSERT INTO "{self._model._meta.db_table}" ({columns}) VALUES ({", ".join(["%s"] * len(self._fields))})'  # noqa: S608


def _plain(value: Any) -> Any:
    """A choice's value: sqlite3 looks for an adapter of every class that is no plain str, which takes 80 us."""
    return value.value if isinstance(value, Enum) else value
