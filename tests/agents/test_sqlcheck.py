"""Which SQL may run: reading named tables, computing, and nothing else."""

from __future__ import annotations

import pytest

from agents.tables.sqlcheck import RefusedSql, checked_select

HOSTILE = """
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM read_text('/etc/passwd')
SELECT * FROM '/etc/passwd'
SELECT * FROM "/etc/passwd"
FROM 'data.parquet'
SELECT * FROM 'https://example.org/x.csv'
SELECT * FROM glob('/*')
SELECT * FROM sniff_csv('/etc/passwd')
SELECT * FROM parquet_metadata('x')
SELECT * FROM iceberg_scan('s3://x')
SELECT read_blob('/etc/passwd')
select "read_text"('/etc/passwd')
SELECT * FROM t, LATERAL (SELECT * FROM read_csv('x')) AS z
SELECT * FROM t WHERE a IN (SELECT content FROM read_text('/etc/passwd'))
SELECT (SELECT content FROM read_text('/etc/passwd'))
SELECT * FROM t POSITIONAL JOIN read_csv('x')
SELECT a FROM t UNION ALL SELECT content FROM read_text('/etc/passwd')
SELECT getenv('HOME')
SELECT a FROM t ORDER BY getenv('HOME')
SELECT list_transform([1, 2], x -> getenv('HOME'))
SELECT current_setting('home_directory')
SELECT getvariable('x')
SELECT * FROM duckdb_settings()
SELECT * FROM duckdb_secrets()
SELECT * FROM information_schema.tables
SELECT * FROM pg_catalog.pg_class
SELECT * FROM sqlite_master
SELECT * FROM main.t
SELECT * FROM other.main.t
SELECT main.t.a FROM t
SELECT * FROM unknown
ATTACH '/tmp/x.db'
DETACH t
USE memory
COPY t TO '/tmp/x.csv'
COPY (SELECT * FROM t) TO '/tmp/x.csv'
EXPORT DATABASE '/tmp/x'
IMPORT DATABASE '/tmp/x'
PRAGMA database_list
SET enable_external_access = true
SET GLOBAL memory_limit = '100GB'
RESET memory_limit
INSTALL httpfs
LOAD httpfs
INSERT INTO t VALUES (1)
UPDATE t SET a = 1
DELETE FROM t
DROP TABLE t
CREATE TABLE x AS SELECT 1
CREATE MACRO m() AS 1
CREATE VIEW v AS SELECT 1
SELECT * INTO x FROM t
WITH x AS (INSERT INTO t VALUES (1) RETURNING a) SELECT * FROM x
SELECT 1; DROP TABLE t
SELECT 1; SELECT 2
SELECT 1 /* x */; ATTACH '/tmp/x.db' --
WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r
SELECT * FROM range(1000000000)
SELECT * FROM generate_series(1, 10)
SELECT UNNEST(range(1000000000))
SELECT repeat('x', 1000000000)
SELECT lpad('x', 1000000000, 'y')
SELECT query('SELECT 1')
SELECT * FROM query('SELECT 1')
SELECT * FROM query_table('t')
SELECT $1
SELECT ?
SELECT COLUMNS('.*') FROM t
SELECT version()
SELECT pg_sleep(10)
SELECT nextval('x')
EXPLAIN SELECT 1
EXPLAIN ANALYZE SELECT 1
DESCRIBE t
SHOW TABLES
SUMMARIZE t
CALL pragma_version()
CHECKPOINT
VACUUM
BEGIN
PREPARE q AS SELECT 1
EXECUTE q
PIVOT t ON a
SELECT * FROM t TABLESAMPLE 10%
SELECT * FROM t FOR UPDATE
I cannot write SQL
""".strip().splitlines()


@pytest.mark.parametrize("sql", [*HOSTILE, "", "--", "'", "SELECT a FROM t\x00; DROP TABLE t"])
def test_what_is_no_plain_select_is_refused(sql):
    with pytest.raises(RefusedSql):
        checked_select(sql, ["t", "u"])


@pytest.mark.parametrize(
    "sql",
    ["SELECT " + "(" * 300 + "1" + ")" * 300, "SELECT 1" + " UNION ALL SELECT 1" * 150, "SELECT " + "+".join(["1"] * 3000)],
    ids=["deep", "wide", "long"],
)
def test_size_is_bounded(sql):
    with pytest.raises(RefusedSql):
        checked_select(sql, ["t"])


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT COUNT(*) FROM t",
        "FROM t SELECT a",
        "SELECT name, SUM(cost) AS total FROM t GROUP BY name HAVING SUM(cost) > 3 ORDER BY total DESC LIMIT 3",
        "WITH x AS (SELECT * FROM t) SELECT MAX(a) - MIN(a) FROM x",
        "SELECT CASE WHEN a > 1 OR NOT c THEN 1 ELSE 0 END FROM t WHERE n ILIKE '%x%' AND y IN (1, 2) AND z BETWEEN 1 AND 2",
        "SELECT * FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.id = t.id)",
        "SELECT t.a FROM t JOIN u ON t.a = u.a UNION ALL SELECT b FROM u",
        "SELECT EXTRACT(year FROM d), YEAR(d), d + INTERVAL 3 DAY, DATE_DIFF('day', d, e), d::DATE FROM t",
        "SELECT TRY_CAST(REPLACE(x, ',', '') AS INTEGER) FROM t WHERE LOWER(TRIM(x)) LIKE 'a%' AND regexp_matches(x, '^a')",
        "SELECT ROW_NUMBER() OVER (PARTITION BY a ORDER BY b ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM t",
        "SELECT ARG_MAX(name, score), MEDIAN(x), STRING_AGG(a, ', '), COUNT(*) FILTER (WHERE x > 1) FROM t",
        "SELECT a || b, a % 2, a // 2, ROUND(a / b, 2), SUBSTR(a, 1, 3), COALESCE(a, 0), strftime(d, '%Y') FROM t",
        "SELECT x FROM (SELECT a AS x FROM t) AS q WHERE x = ANY (SELECT b FROM u)",
        "SELECT 'read_csv(1); DROP TABLE t' FROM t",
    ],
)
def test_a_select_over_the_tables_passes(sql):
    assert checked_select(sql, ["t", "u"]).startswith(("SELECT", "WITH"))


def test_what_runs_is_written_anew_without_comments():
    assert checked_select("SELECT a /* ; DROP TABLE t */ FROM T -- more", ["t"]) == "SELECT a FROM T"
