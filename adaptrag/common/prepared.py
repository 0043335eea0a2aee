"""Prepared queries: a queryset's SQL is made once, then run with other values.

For the few queries that every question makes. Django builds and compiles a queryset anew each time, which for a row by its key
costs five times what the database needs for it (measured in docs/decisions/0005-request-threads.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Generic, TypeVar

from django.db import connections, models
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
            parameters=parameters,
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
