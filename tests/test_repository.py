"""What the repository promises about itself: pages that are made from code, and locks that name no address."""

import ast
import re
import runpy
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _direct_dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in wanted]


def test_settings_page_is_what_the_settings_say() -> None:
    made = runpy.run_path(str(ROOT / "docs/make_settings.py"))
    assert (ROOT / "docs/settings.md").read_text() == made["table"](), "run `make settings` and commit"


@pytest.mark.parametrize("name", _direct_dependencies())
def test_dependency_is_locked_and_its_reason_is_written(name: str) -> None:
    assert re.search(rf"^{re.escape(name)}==", (ROOT / "requirements.lock").read_text(), re.MULTILINE), (
        "run `make lock`"
    )
    assert re.search(
        rf"^\|.*\b{re.escape(name)}\b.*\|.*\|.*\|$", (ROOT / "docs/dependencies.md").read_text(), re.MULTILINE
    )


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-node.lock"])
def test_python_lock_holds_hashes_and_no_address(name: str) -> None:
    text = (ROOT / name).read_text()
    assert "://" not in text
    pinned = re.findall(r"^\S+==.*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE))


@pytest.mark.parametrize(
    ("folder", "packages"),
    [
        ("web/graphiql", 100),
        ("tests/meter_gateway/peers/coap_node", 30),
        ("clients/typescript", 200),
        ("tests/clients", 15),
    ],
)
def test_npm_lock_holds_hashes_and_no_address(folder: str, packages: int) -> None:
    text = (ROOT / folder / "package-lock.json").read_text()
    assert '"resolved"' not in text
    # npm writes where each package asks for money; nothing needs it to install.
    assert "://" not in text, "delete every `funding` from the lock"
    assert text.count('"integrity"') > packages


RIDDLES = ("What", "Who", "Whose", "Whom", "Whether", "How", "As", "Which", "When", "Where", "Why", "The same")


def _docstrings(tree: ast.Module) -> list[tuple[int, str]]:
    """Texts that explain a module, a class, a function or the name above them, with their lines."""
    return [
        (node.lineno, node.value.value.strip())
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]


def _is_riddle(text: str) -> bool:
    return re.match(rf"({'|'.join(RIDDLES)})\b", text) is not None


@pytest.mark.parametrize("package", ["standpipe", "standpipe_demo"])
def test_docstrings_say_what_a_thing_is_or_does(package: str) -> None:
    """An imperative or a noun phrase; a clause ("What is left.") leaves the reader to guess what it belongs to."""
    found = {
        f"{path.relative_to(ROOT)}:{line}": text.partition("\n")[0]
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, text in _docstrings(ast.parse(path.read_text()))
        if _is_riddle(text)
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "riddle"),
    [
        ("Whether it holds.", True),
        ("As it travels.", True),
        ("The same, of volume.", True),
        ("Asset.", False),
    ],
)
def test_a_riddle_is_found_by_its_first_word(text: str, riddle: bool) -> None:
    assert _is_riddle(text) is riddle


def _raised(function: ast.AST) -> set[str]:
    """Names of the typed errors that a function's own body raises."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Raise) and node.exc is not None:
            name = ast.unparse(node.exc.func if isinstance(node.exc, ast.Call) else node.exc)
            found |= {name} if re.fullmatch(r"[A-Z]\w*Error", name) else set()
        found |= _raised(node)
    return found


TYPED_ERRORS = {
    node.name
    for path in (ROOT / "standpipe").rglob("*.py")
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef) and node.name.endswith("Error")
}


def test_public_functions_name_the_typed_errors_that_they_raise() -> None:
    """Commands of the office are left out: their docstrings are their help, and ``cli`` says each error in a line."""
    silent = {}
    for path in sorted((ROOT / "standpipe").rglob("*.py")):
        if "office" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                said = ast.get_docstring(node)
                missing = {name for name in _raised(node) & TYPED_ERRORS if said and name not in said}
                if missing:
                    silent[f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"] = missing
    assert silent == {}
