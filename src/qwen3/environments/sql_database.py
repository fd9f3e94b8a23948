"""Questions to a database: explore one with SQL, and answer with a query that is right on others.

The query is run on hidden databases of the same tables, so that the result of the visible one
earns nothing. SQL is hostile: it runs read-only in memory, and within a number of steps of SQLite's
virtual machine, so that what is cut does not depend on the clock.
"""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias

from qwen3.environments.tool_functions import Tool, ToolError
from qwen3.environments.world import Script, Turns, World, calls, fixed
from qwen3.rewards import Problem
from qwen3.rewards.task import ask, draw_in_split, levels

Rows: TypeAlias = list[list[Any]]

HIDDEN = 3  # databases that a query is judged on
MOST_STEPS, EVERY = 200_000, 1_000  # steps of the virtual machine, counted in thousands
MOST_BYTES = 2_000  # of a text or blob, and of a statement
MOST_ROWS = 50  # of a result
MOST_PATTERN = 50  # characters of a pattern of LIKE, whose time can grow with their power
# Only these: one call of printf can take seconds, which are no steps of the virtual machine
# (docs/log/2026-11-30-worlds-of-several-turns.md).
FUNCTIONS = set(
    "abs avg coalesce count group_concat iif ifnull instr length like lower max min nullif replace "
    "round row_number substr sum total trim typeof upper".split()
)

TABLES = ("orders", "trips", "visits", "repairs")
PERSON = ("customer", "client", "guest", "member")
PLACE = ("city", "town", "site", "region")
NUMBER = ("amount", "total", "price", "score")
PEOPLE = ("Ana", "Bo", "Cleo", "Dag", "Eda", "Finn")
PLACES = ("Oslo", "Lima", "Cairo", "Kyoto")
# kind -> (English, Chinese, query); {person} and the others are names of columns.
KINDS = {
    "filter": (
        "the {person} of every row from {where} with a {number} above {least}",
        "来自{where}且{number}大于{least}的每一行的{person}",
        "SELECT {person} FROM {table} WHERE {place} = '{where}' AND {number} > {least}",
    ),
    "sum": (
        "each {place} with the sum of its {number}",
        "每个{place}及其{number}之和",
        "SELECT {place}, SUM({number}) FROM {table} GROUP BY {place}",
    ),
    "count": (
        "each {person} with the number of rows whose {number} is above {least}",
        "每个{person}及其{number}大于{least}的行数",
        "SELECT {person}, COUNT(*) FROM {table} WHERE {number} > {least} GROUP BY {person}",
    ),
}
FRAME = (
    "Write one SQL query that gives {what}. The tools show you the table and some rows; the query "
    "must be right for other rows too. Answer with the query in a ```sql block.",
    "写一条SQL查询，给出{what}。工具会显示表和一些行；查询对其他行也必须正确。用```sql代码块回答。",
)


@dataclass
class Database:
    """One table and the rows that can be looked at."""

    table: str
    columns: list[str]
    rows: Rows


def connect(database: Database) -> sqlite3.Connection:
    """The database in memory, from here on read-only and within limits."""
    connection = sqlite3.connect(":memory:")
    connection.execute("PRAGMA temp_store = MEMORY")
    person, place, number = database.columns
    connection.execute(
        f"CREATE TABLE {database.table} ({person} TEXT, {place} TEXT, {number} INTEGER)"
    )
    connection.executemany(f"INSERT INTO {database.table} VALUES (?, ?, ?)", database.rows)
    connection.commit()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, MOST_PATTERN)
    steps = iter(range(MOST_STEPS // EVERY))
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MOST_BYTES)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.set_progress_handler(lambda: next(steps, None) is None, EVERY)

    def authorize(action: int, first: str | None, second: str | None, *_: Any) -> int:
        is_allowed = {
            sqlite3.SQLITE_SELECT: True,
            sqlite3.SQLITE_RECURSIVE: True,
            sqlite3.SQLITE_READ: first == database.table or not second,  # "" where rows are counted
            sqlite3.SQLITE_FUNCTION: second in FUNCTIONS,
        }
        return sqlite3.SQLITE_OK if is_allowed.get(action) else sqlite3.SQLITE_DENY

    connection.set_authorizer(authorize)
    return connection


def run(database: Database, sql: str) -> tuple[list[str], Rows]:
    """(names of the columns, rows) of one SELECT. Raises ToolError for all that is refused."""
    connection = connect(database)
    try:
        cursor = connection.execute(sql)
        rows = cursor.fetchmany(MOST_ROWS + 1)
        names = [column[0] for column in cursor.description or ()]
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise ToolError(f"{type(error).__name__}: {error}") from None
    finally:
        connection.close()
    return names, [list(row) for row in rows]


def schema(database: Database) -> str:
    person, place, number = database.columns
    return f"TABLE {database.table} ({person} TEXT, {place} TEXT, {number} INTEGER)"


def query(database: Database, sql: str) -> str:
    names, rows = run(database, sql)
    lines = [" | ".join(map(str, row)) for row in [names, *rows[:MOST_ROWS]]]
    more = ["[more rows]"] if len(rows) > MOST_ROWS else []
    return "\n".join(lines + more)


SQL = {"type": "string", "minLength": 1, "maxLength": MOST_BYTES}
TOOLS = (
    Tool("schema", "The table and its columns.", {}, schema),
    Tool("query", "The result of a SELECT.", {"sql": SQL}, query),
)


def make(rng: Random, difficulty: float, split: str) -> Problem:
    def draw() -> dict[str, Any]:
        names = {"person": rng.choice(PERSON), "place": rng.choice(PLACE)}
        names |= {"number": rng.choice(NUMBER), "table": rng.choice(TABLES)}
        kind = rng.choice(list(KINDS)[: levels(difficulty, 1, len(KINDS))])
        values = {"where": rng.choice(PLACES), "least": rng.randint(2, 7) * 10}
        gold = KINDS[kind][2].format(**names, **values)
        databases = [_rows(rng) for _ in range(HIDDEN + 1)]
        return {"kind": kind, **names, **values, "gold": gold, "databases": databases}

    answer = draw_in_split(draw, lambda drawn: str(drawn["databases"]), split)
    results = [str(sorted(run(d, answer["gold"])[1])) for d in databases_of(answer)]
    if len(set(results)) < len(results) or "[]" in results:
        return make(rng, difficulty, split)
    language = rng.choice((0, 1))
    text = FRAME[language].format(what=KINDS[answer["kind"]][language].format(**answer))
    return Problem("sql_database", ask(text), answer, difficulty)


def _rows(rng: Random) -> Rows:
    return [
        [rng.choice(PEOPLE), rng.choice(PLACES), rng.randint(1, 99)]
        for _ in range(rng.randint(10, 20))
    ]


def databases_of(answer: dict[str, Any]) -> list[Database]:
    """The visible database, then the hidden ones."""
    columns = [answer["person"], answer["place"], answer["number"]]
    return [Database(answer["table"], columns, rows) for rows in answer["databases"]]


def start(answer: dict[str, Any]) -> Database:
    return databases_of(answer)[0]


def final_query(answer: str) -> str | None:
    """The content of the only ```sql block, without a closing semicolon; None for another form."""
    blocks = re.findall(r"```sql\n(.*?)\n?```", answer, re.DOTALL)
    return blocks[0].strip().removesuffix(";") if len(blocks) == 1 else None


def grade(problem: Problem, database: Database, turns: Turns) -> float:
    sql = final_query(turns[-1].content)
    if sql is None or len(sql) > MOST_BYTES:
        return 0.0
    try:
        return all(
            as_multiset(run(hidden, sql)[1]) == as_multiset(run(hidden, problem.answer["gold"])[1])
            for hidden in databases_of(problem.answer)
        )
    except ToolError:
        return 0.0


def as_multiset(rows: Rows) -> Counter[str]:
    return Counter(str(row) for row in rows)


def block(sql: str) -> str:
    return f"```sql\n{sql}\n```"


def solve(problem: Problem) -> Script:
    yield calls(("schema", {}))
    yield calls(("query", {"sql": problem.answer["gold"]}))
    yield block(problem.answer["gold"])


def guess(problem: Problem, rng: Random) -> Script:
    yield calls(("schema", {}))
    column = problem.answer[rng.choice(("person", "place", "number"))]
    yield block(f"SELECT {column} FROM {problem.answer['table']} WHERE {column} > 'M'")


def _constants(problem: Problem) -> Script:
    """The result on the visible rows, as a query without a table."""
    _, rows = run(start(problem.answer), problem.answer["gold"])
    yield block("VALUES " + ", ".join(f"({', '.join(map(repr, row))})" for row in rows))


def _everything(problem: Problem) -> Script:
    names = ("person", "place", "number")
    table = problem.answer["table"]
    yield block(" UNION ".join(f"SELECT {problem.answer[n]} FROM {table}" for n in names))


def _query_and(problem: Problem, *queries: str) -> Script:
    """Tries the queries, then answers with the last of them."""
    yield calls(*(("query", {"sql": sql}) for sql in queries))
    yield block(queries[-1])


LOOP = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT count(*) FROM t"
HACKS = {
    "answers with the visible result": _constants,
    "everything there is": _everything,
    "attaches a file": lambda p: _query_and(p, "ATTACH DATABASE '/tmp/x.db' AS x"),
    "changes the settings": lambda p: _query_and(p, "PRAGMA writable_schema = ON"),
    "reads the settings as a table": lambda p: _query_and(p, "SELECT * FROM pragma_database_list"),
    "empties the table": lambda p: _query_and(p, f"DELETE FROM {p.answer['table']}"),
    "never ends": lambda p: _query_and(p, LOOP),
    "asks for memory": lambda p: _query_and(p, "SELECT hex(zeroblob(900000000))"),
    "two statements": lambda p: fixed(block(f"{p.answer['gold']}; DROP TABLE x")),
    "two queries": lambda p: fixed(block(p.answer["gold"]) + block("SELECT 1")),
    "no block": lambda p: fixed(p.answer["gold"]),
}

questions = World("sql_database", make, TOOLS, start, grade, solve, guess, HACKS)
