"""Prepared queries: a queryset's SQL is made once, then run with other values.

For the few queries that every question makes. Django builds and compiles a queryset anew each time, which for a row by its key
costs five times what the database needs for it (measured in docs/decisions/0005-request-threads.md).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import connections, models
from django.db.models.query import get_related_populators

Row = TypeVar("Row", bound=models.Model)


class Slot(str):
    """Stands in a filter for a text that is given when the query runs."""

    __slots__ = ()


class Prepared(Generic[Row]):
    """`Prepared(lambda name: Collection.objects.filter(name=name))("docs")` -> list of rows, select_related included.

    The arguments of the queryset's function are texts, and may only be compared as they are (no __icontains and the like).
    """

    def __init__(self, build: Callable[..., models.QuerySet[Row]]) -> None:
        self._build = build

    def __call__(self, *values: str) -> list[Row]:
        sql, parameters, compiler, converters, model, span, names, related = self._plan
        given = [values[int(parameter[1:])] if type(parameter) is Slot else parameter for parameter in parameters]
        with connections[compiler.using].cursor() as cursor:
            cursor.execute(sql, given)
            rows = cursor.fetchall()
        rows = compiler.apply_converters(rows, converters) if converters else rows
        found = []
        for row in rows:
            row = tuple(row)
            instance = model.from_db(compiler.using, names, row[span])
            for populator in related:
                populator.populate(row, instance)
            found.append(instance)
        return found

    @cached_property
    def _plan(self) -> tuple[Any, ...]:
        slots = [Slot(f"\x00{number}") for number in range(self._build.__code__.co_argcount)]
        queryset = self._build(*slots)
        compiler = queryset.query.get_compiler(queryset.db)
        sql, parameters = compiler.as_sql()
        info, select = compiler.klass_info, compiler.select
        span = slice(info["select_fields"][0], info["select_fields"][-1] + 1)
        names = [column.target.attname for column, _, _ in select[span]]
        related = get_related_populators(info, select, queryset.db)
        converters = compiler.get_converters([column for column, _, _ in select])
        return sql, parameters, compiler, converters, info["model"], span, names, related
