"""What the handbook says exists: settings with their defaults, commands with their flags, make targets, links."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from tests.ops.site import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OURS = re.compile(r"(?:ADAPTRAG|OPENAI|LORA)_[A-Z_]+|DATABASE_URL|WEB_CONCURRENCY|PORT")
READERS = {"str", "int", "float", "bool", "list", "db_url", "cache_url", "get", "getenv", "_number", "_flag", "_json", "_url"}


@cache
def variables_in_code() -> dict[str, object]:
    """Environment variables that the code reads, with their defaults where these are constants."""
    found: dict[str, object] = {}
    for folder in ("adaptrag", "agents", "rewards", "training"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                    arguments = [node.slice]
                elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in READERS:
                    arguments = [*node.args, *(word.value for word in node.keywords if word.arg == "default")]
                else:
                    continue
                name = arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None
                if isinstance(name, str) and OURS.fullmatch(name):
                    found.setdefault(name, _constant(arguments[1]) if len(arguments) > 1 else None)
    return found


def _constant(node: ast.expr) -> object:
    if all(isinstance(part, ast.Constant | ast.BinOp | ast.operator | ast.List | ast.expr_context) for part in ast.walk(node)):
        return eval(compile(ast.Expression(node), "default", "eval"))  # noqa: S307 - constants and arithmetic of our own code
    return None


def _shown(default: object) -> str:
    """A default as the handbook writes it."""
    match default:
        case bool():
            return str(default).lower()
        case list():
            return ",".join(default)
        case float():
            return f"{default:g}"
    return str(default)


def documented() -> dict[str, str]:
    text = (ROOT / "docs" / "configuration.md").read_text()
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (.*?) \|", text, re.MULTILINE))


def test_every_variable_that_the_code_reads_is_documented_and_no_other():
    assert set(documented()) == set(variables_in_code())


def test_the_example_file_names_every_variable_of_a_site():
    named = set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert named == set(variables_in_code()) - {"PORT", "WEB_CONCURRENCY"}  # these belong to the shell that starts a process


def test_documented_defaults_are_those_of_the_code():
    told = {name: text.strip("`") for name, text in documented().items()}
    in_words = {"ADAPTRAG_CACHE_URL"}
    actual = {name: _shown(value) for name, value in variables_in_code().items() if value and name not in in_words}
    assert {name: told[name] for name in actual} == actual


def commands(document: Path) -> list[tuple[str, str]]:
    """(command, the rest of the line) of each manage.py call on a page."""
    text = document.read_text().replace("\\\n", " ")
    return re.findall(r"manage\.py ([a-z_]+)((?: [^`\n|;&()]*)?)", text)


@cache
def flags(command: str) -> set[str]:
    parser = load_command_class(get_commands()[command], command).create_parser("manage.py", command)
    found, waiting = set(), [parser]
    while waiting:
        for action in waiting.pop()._actions:
            found.update(action.option_strings)
            if isinstance(action.choices, dict):  # subcommands
                waiting.extend(action.choices.values())
    return found


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_flags_on_the_page_exist(document):
    for command, rest in commands(document):
        assert command in get_commands(), f"manage.py {command}"
        unknown = set(re.findall(r"(?<!\S)--[a-z-]+", rest)) - flags(command)
        assert not unknown, f"manage.py {command} {unknown}"


def test_make_targets_named_in_the_docs_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in PAGES:
        named = re.findall(r"(?:`|^|&& )make ([a-z-]+)", document.read_text(), re.MULTILINE)
        assert set(named) <= targets, document


@pytest.mark.parametrize("document", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_pictures_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target
    for target in re.findall(r"\bdocs/[a-z0-9/_-]+\.md\b", document.read_text()):
        assert (ROOT / target).exists(), target


def test_the_index_of_decisions_lists_them_all():
    folder = ROOT / "docs" / "decisions"
    listed = set(re.findall(r"\(([0-9]{4}-[a-z0-9-]+\.md)\)", (folder / "README.md").read_text()))
    assert listed == {path.name for path in folder.glob("[0-9]*.md")}
