"""Which SQL may run: one SELECT over named tables, with functions that compute and nothing else.

What is allowed is listed, what is not on the list is refused: a new DuckDB may bring functions that nobody here has heard of.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from adaptrag.common.errors import InvalidInput

if TYPE_CHECKING:
    from sqlglot import exp

LONGEST_SQL = 4_000
MOST_NODES = 1_500
DEEPEST = 60
# By DuckDB's names, in lower case. Left out: whatever reads files, settings or the environment, runs SQL that is given as a
# text, makes rows out of nothing (range, generate_series), repeats texts at will, or waits.
FUNCTIONS = frozenset((
    "abs", "any_value", "arg_max", "arg_min", "avg", "bool_and", "bool_or", "cast", "ceil", "ceiling", "coalesce", "concat",
    "concat_ws", "contains", "corr", "count", "count_if", "cume_dist", "current_date", "date_add", "date_diff", "date_part",
    "date_sub", "date_trunc", "datediff", "day", "dayofweek", "dayofyear", "dense_rank", "ends_with", "exp", "extract",
    "first", "first_value", "floor", "greatest", "group_concat", "if", "ifnull", "instr", "isnan", "lag", "last",
    "last_value", "lead", "least", "left", "length", "listagg", "ln", "log", "log10", "log2", "lower", "ltrim", "max",
    "max_by", "mean", "median", "min", "min_by", "mod", "mode", "month", "nth_value", "ntile", "nullif", "percent_rank",
    "pow", "power", "product", "quantile", "quantile_cont", "quantile_disc", "quarter", "rank", "regexp_extract",
    "regexp_full_match", "regexp_matches", "regexp_replace", "replace", "reverse", "right", "round", "row_number", "rtrim",
    "sign", "split_part", "sqrt", "starts_with", "stddev", "stddev_pop", "stddev_samp", "strftime", "string_agg", "strpos",
    "strptime", "substr", "substring", "sum", "trim", "trunc", "try_cast", "upper", "var_pop", "var_samp", "variance",
    "week", "year",
))  # fmt: skip
# What sqlglot calls some of them.
UNDERSTOOD_AS = frozenset((
    "timestamp_trunc", "str_position", "percentile_cont", "percentile_disc", "regexp_like", "time_to_str", "str_to_time",
))  # fmt: skip


class RefusedSql(InvalidInput):
    """SQL that may not run; the message says what is wrong with it."""

    code = "refused_sql"


def checked_select(sql: str, tables: Collection[str]) -> str:
    """The statement as it will run, written anew from what was understood of it, so that nothing else can run.

    tables: names that it may read. Raises RefusedSql.
    """
    import sqlglot
    from sqlglot import exp
    from sqlglot.errors import SqlglotError

    if len(sql) > LONGEST_SQL:
        raise RefusedSql(f"The SQL has {len(sql):,} characters; at most {LONGEST_SQL:,} may be used.")
    try:
        statements = [one for one in sqlglot.parse(sql, dialect="duckdb") if one is not None]
    except (SqlglotError, RecursionError) as error:
        raise RefusedSql(f"This is not SQL that can be read: {str(error).splitlines()[0][:200]}") from error
    if len(statements) != 1:
        raise RefusedSql(f"There are {len(statements)} statements. Write exactly one SELECT.")
    (statement,) = statements
    if not isinstance(statement, exp.Select | exp.SetOperation | exp.Subquery):
        raise RefusedSql(f"{statement.key.upper()} may not be used. Write one SELECT.")
    _check_size(statement)
    known = {name.lower() for name in tables}
    for node in statement.walk():
        _check_node(node, known)
    try:
        return statement.sql(dialect="duckdb", comments=False)
    except (SqlglotError, RecursionError) as error:
        raise RefusedSql(f"This SQL can't be written for DuckDB: {str(error)[:200]}") from error


def _check_size(statement: exp.Expression) -> None:
    nodes = 0
    pending = [(statement, 1)]
    while pending:
        node, depth = pending.pop()
        nodes += 1
        if nodes > MOST_NODES or depth > DEEPEST:
            raise RefusedSql(f"The SQL is too long or nested too deeply (more than {MOST_NODES:,} parts or {DEEPEST} levels).")
        pending += [(child, depth + 1) for child in node.iter_expressions()]


def _check_node(node: exp.Expression, tables: set[str]) -> None:
    from sqlglot import exp

    refused = (
        exp.DML, exp.DDL, exp.Command, exp.Into, exp.Lock, exp.Parameter, exp.Placeholder, exp.SessionParameter, exp.Pivot,
        exp.Unnest, exp.Lateral, exp.TableSample, exp.UDTF, exp.Columns, exp.Hint, exp.MatchRecognize, exp.Var,
    )  # fmt: skip
    if isinstance(node, exp.Table):
        _check_table(node, tables)
    elif isinstance(node, exp.With):
        if node.args.get("recursive"):
            raise RefusedSql("WITH RECURSIVE may not be used.")
    elif isinstance(node, exp.Query | exp.Subquery):
        pass
    elif isinstance(node, exp.Column) and (node.args.get("db") or node.args.get("catalog")):
        raise RefusedSql(f"{node.sql('duckdb')[:100]} names a schema. Name columns as table.column.")
    elif isinstance(node, exp.Var) and isinstance(node.parent, exp.Func | exp.Interval | exp.WindowSpec | exp.Window):
        pass  # a unit of time or the like
    elif isinstance(node, refused):
        raise RefusedSql(f"{node.key.upper()} may not be used. Write a plain SELECT.")
    elif isinstance(node, exp.Func) and not isinstance(node, exp.Connector | exp.Case | exp.Exists):
        _check_function(node)


def _check_table(node: exp.Table, tables: set[str]) -> None:
    from sqlglot import exp

    if not isinstance(node.this, exp.Identifier):
        raise RefusedSql(f"{node.sql('duckdb')[:100]} is no table. Read only from {', '.join(sorted(tables))}.")
    if node.args.get("db") or node.args.get("catalog"):
        raise RefusedSql(f"{node.sql('duckdb')[:100]} names a schema or database. Read only from {', '.join(sorted(tables))}.")
    if node.name.lower() not in tables | _with_names(node):
        raise RefusedSql(f"There is no table {node.name[:100]!r}. Read only from {', '.join(sorted(tables))}.")


def _with_names(node: exp.Expression) -> set[str]:
    """Names that the WITHs around a node define."""
    from sqlglot import exp

    names: set[str] = set()
    above = node.parent
    while above is not None:
        for part in (above.args.get("with_"), above.args.get("with")):
            if isinstance(part, exp.With):
                names |= {one.alias.lower() for one in part.expressions}
        above = above.parent
    return names


def _check_function(node: exp.Func) -> None:
    from sqlglot import exp

    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        names = {str(node.this).lower()}
    else:
        names = {name.lower() for name in type(node).sql_names()}
    if not names & (FUNCTIONS | UNDERSTOOD_AS):
        raise RefusedSql(f"The function {min(names).upper()[:60]} may not be used.")
