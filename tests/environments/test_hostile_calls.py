"""Calls that want to do more than they may: they execute nothing and end in an observation."""

import resource
import time

import pytest

from qwen3.data import chat
from qwen3.environments import WORLDS, sql_database
from qwen3.environments.tool_functions import INTEGER, Tool, ToolError, call_tool
from qwen3.environments.world import calls


def observed(name, *named):
    """The tool messages to one turn with these calls."""
    world = WORLDS[name]
    step = world.begin(world.generate(0)).step(chat.parse(calls(*named)))
    return [message["content"] for message in step.messages]


SQL = (
    "ATTACH DATABASE '{file}' AS x",
    "VACUUM INTO '{file}'",
    "PRAGMA writable_schema = 1",
    "SELECT * FROM pragma_database_list",
    "SELECT name FROM sqlite_master",
    "SELECT load_extension('{file}')",
    "SELECT writefile('{file}', 'x')",
    "CREATE TABLE t (x)",
    "INSERT INTO {table} VALUES ('a', 'b', 1)",
    "UPDATE {table} SET {number} = 0",
    "SELECT 1; DROP TABLE {table}",
    "BEGIN; SELECT 1",
    "SELECT \x00",
    "SELECT hex(zeroblob(900000000))",
    "SELECT printf('%.900000000c', 'x')",
    "SELECT format('%.900000000c', 'x')",
    "SELECT 1 WHERE '{long}' LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b'",
    "SELECT randomblob(9)",
    sql_database.LOOP,
)


@pytest.mark.parametrize("sql", SQL)
def test_sql_only_reads_its_own_table_within_limits(tmp_path, sql):
    problem = WORLDS["sql_database"].generate(0)
    database = sql_database.start(problem.answer)
    before, file = [list(row) for row in database.rows], tmp_path / "x.db"
    spent = time.process_time()
    text = sql_database.TOOLS[1](
        database, {"sql": sql.format(file=file, long="a" * 500, **problem.answer)}
    )
    assert text.startswith("error: query: "), text
    assert not file.exists() and database.rows == before
    assert time.process_time() - spent < 5


def test_sql_gives_what_a_select_gives_and_the_rest_is_cut():
    problem = WORLDS["sql_database"].generate(0)
    database, query = sql_database.start(problem.answer), sql_database.TOOLS[1]
    table, number = database.table, database.columns[2]
    count = query(
        database, {"sql": f"WITH t AS (SELECT {number} FROM {table}) SELECT count(*) n FROM t"}
    )
    assert count == f"n\n{len(database.rows)}"
    many = query(database, {"sql": f"SELECT a.{number} FROM {table} a, {table} b"})
    assert many.endswith("[more rows]") and len(many.split("\n")) == sql_database.MOST_ROWS + 2


def test_sql_takes_little_memory():
    problem = WORLDS["sql_database"].generate(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    long = "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) "
    long += f"SELECT '{'a' * (sql_database.MOST_BYTES - 200)}' || x FROM t ORDER BY 1"
    assert sql_database.TOOLS[1](sql_database.start(problem.answer), {"sql": long}).startswith(
        "error"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize("path", ["../../etc/passwd", "/etc/passwd", "archive/..", "a/b/c", ""])
def test_paths_are_names_in_a_tree(path):
    problem = WORLDS["file_tree"].generate(0)
    source = problem.answer["path"]
    read, moved = observed(
        "file_tree",
        ("read_file", {"path": path}),
        ("move_file", {"source": source, "target": path}),
    )
    assert read.startswith("error: read_file: no file") and moved.startswith("error: move_file: ")


def test_names_and_values_of_calls_are_never_evaluated(tmp_path):
    file = tmp_path / "touched"
    code = f"__import__('pathlib').Path('{file}').touch()"
    texts = observed(
        "unit_conversion",
        (code, {}),
        ("calculate", {"operation": code, "a": 1, "b": 2}),
        ("calculate", {"operation": "add", "a": code, "b": 2}),
        ("calculate", {"operation": "add", "a": 1, "b": 2, code: 3}),
        ("calculate", {"operation": "divide", "a": 1, "b": 0}),
        ("calculate.__globals__", {"operation": "add", "a": 1, "b": 2}),
    )
    assert all(text.startswith("error: ") for text in texts) and not file.exists()


def test_a_program_that_escapes_touches_nothing_of_the_machine(tmp_path):
    file = tmp_path / "touched"
    code = f"import os\nos.system('touch {file}')\nopen('{file}', 'w')"
    (text,) = observed("python_tool", ("python", {"code": code}))
    assert "Error" in text and not file.exists()


def test_a_program_is_ended_at_its_limits_and_its_output_cut():
    slow, loud = observed(
        "python_tool",
        ("python", {"code": "while True: pass"}),
        ("python", {"code": "print('x' * 10**6)"}),
    )
    assert slow == "TimeoutError" or slow.startswith("error: the program was ended")
    assert loud == "x" * 4_000


def test_only_a_tool_error_is_told_to_the_policy():
    def function(state, n):
        if n:
            raise ToolError("n is not 0")
        raise KeyError("a fault of the tool")

    tools = {"f": Tool("f", "", {"n": INTEGER}, function)}
    assert call_tool(tools, None, chat.ToolCall("f", {"n": 1})) == "error: f: n is not 0"
    with pytest.raises(KeyError):
        call_tool(tools, None, chat.ToolCall("f", {"n": 0}))


def test_a_schema_that_is_none_is_named():
    with pytest.raises(ValueError, match="tool 'f': no JSON schema: 'number8' is not valid"):
        Tool("f", "", {"n": {"type": "number8"}}, lambda state, n: "")
