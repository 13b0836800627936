"""The plan of the house, held by the same tools as `make lint`."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.application.use_cases import lint_imports
from importlinter.configuration import configure

ROOT = Path(__file__).parents[2]
SETTINGS = {*ROOT.glob("app/settings/*.py")}
OTHER_SOURCES = sorted({*ROOT.glob("app/**/*.py"), *ROOT.glob("entrypoints/**/*.py")} - SETTINGS)


def test_every_import_contract_is_kept() -> None:
    """What is broken, and by which chain of imports, stands in the captured output."""
    configure()
    assert lint_imports(str(ROOT / "pyproject.toml"), cache_dir=None, no_logo=True)


def test_the_domain_imports_only_the_standard_library() -> None:
    graph = grimp.build_graph("app", include_external_packages=True, cache_dir=None)
    domain = graph.find_descendants("app.domain") | {"app.domain"}
    imported = {name for module in domain for name in graph.find_modules_directly_imported_by(module)}
    assert {name for name in imported - domain if name.split(".")[0] not in sys.stdlib_module_names} == set()


def test_the_migrations_do_not_shadow_the_alembic_library() -> None:
    assert not (ROOT / "alembic" / "__init__.py").exists()


@pytest.mark.parametrize("source", OTHER_SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_settings_read_the_environment(source: Path) -> None:
    names = {"environ", "environb", "getenv", "getenvb"}
    found = [
        node.lineno
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8")))
        if (isinstance(node, ast.Attribute) and node.attr in names and ast.unparse(node.value) == "os")
        or (isinstance(node, ast.ImportFrom) and node.module == "os" and names & {alias.name for alias in node.names})
    ]
    assert found == []


LONGEST_FILE = 400
MOST_ARGUMENTS = 8
APP = sorted(ROOT.glob("app/**/*.py"))


def test_no_file_is_longer_than_400_lines_without_a_reason_at_its_top() -> None:
    long = {path: path.read_text(encoding="utf-8") for path in APP}
    unexplained = [
        str(path.relative_to(ROOT))
        for path, text in long.items()
        if text.count("\n") > LONGEST_FILE and "400 lines" not in (ast.get_docstring(ast.parse(text)) or "")
    ]
    assert unexplained == []


def test_no_constructor_takes_more_than_8_arguments() -> None:
    crowded = [
        f"{path.relative_to(ROOT)}: {owner.name}"
        for path in APP
        for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef)
        and method.name == "__init__"
        and len(method.args.args) - 1 + len(method.args.kwonlyargs) > MOST_ARGUMENTS
    ]
    assert crowded == []
