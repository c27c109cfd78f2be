"""The ready operations, and those that GraphiQL opens with: each of them is valid, and small enough for the limits."""

from pathlib import Path

import pytest
from graphql import (
    DocumentNode,
    Lexer,
    OperationDefinitionNode,
    Source,
    TokenKind,
    build_schema,
    concat_ast,
    parse,
    print_ast,
    separate_operations,
    validate,
)

from tests.support.node import ROOT

FILES = sorted((ROOT / "clients" / "operations").glob("*.graphql"))
SCHEMA = build_schema((ROOT / "docs" / "schema.graphql").read_text())
OPERATIONS: dict[str, DocumentNode] = separate_operations(concat_ast([parse(path.read_text()) for path in FILES]))
IDE = parse((ROOT / "standpipe" / "graphql" / "graphiql.graphql").read_text())
MAX_TOKENS = 1_000


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_ready_operation_is_valid_by_the_committed_schema(name: str) -> None:
    assert validate(SCHEMA, OPERATIONS[name]) == []


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_ready_operation_is_within_the_limit_of_tokens(name: str) -> None:
    lexer, tokens = Lexer(Source(print_ast(OPERATIONS[name]))), 0
    while lexer.advance().kind is not TokenKind.EOF:
        tokens += 1
    assert tokens <= MAX_TOKENS


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_names_the_fragments_that_it_uses_for_ferry(path: Path) -> None:
    text = path.read_text()
    here = {node.name.value for node in parse(text).definitions if not isinstance(node, OperationDefinitionNode)}
    used = {line.strip().removeprefix("...") for line in text.splitlines() if line.strip().startswith("...")}
    away = {name for name in used if not name.startswith(" on ")} - here
    assert (text.startswith("# import './fragments.graphql'\n")) == bool(away)


def test_graphiql_opens_with_operations_that_are_valid() -> None:
    assert validate(SCHEMA, IDE) == []
    kinds = {node.operation.value for node in IDE.definitions if isinstance(node, OperationDefinitionNode)}
    assert kinds == {"query", "mutation", "subscription"}
