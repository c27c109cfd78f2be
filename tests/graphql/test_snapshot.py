"""The schema's changelog: what is new must be named in its newest entry."""

import re
from enum import Enum
from pathlib import Path

import pytest
from graphql import GraphQLSchema, build_schema, introspection_from_schema
from graphql.utilities import build_client_schema

from standpipe.graphql import snapshot
from standpipe.graphql.base import described_enum
from standpipe.graphql.schema import schema
from standpipe.graphql.snapshot import additions, current, descriptions, untold, with_told

OLD = """
type Query { a(b: Int): A }
type A { id: ID! kind: Kind! }
enum Kind { ONE }
input In { x: Int }
"""
NEW = """
type Query { a(b: Int, "How." c: Int): A  "A list." bs(first: Int): [B!] }
type A { id: ID! kind: Kind! }
"One more."
type B { id: ID! name(upper: Boolean): String }
enum Kind { ONE "Two." TWO }
input In { x: Int "Why." y: Int }
scalar Date
"""
TOLD = "# Changes\n\n## Unreleased\nWords.\n\n## 0.1.0\n- `B`: told too early to count.\n"
ADDED = {
    "Query.a(c)": "How.",
    "Query.bs": "A list.",
    "B": "One more.",
    "Kind.TWO": "Two.",
    "In.y": "Why.",
    "Date": "",
}


def test_additions_are_named_once_and_stand_for_what_is_in_them() -> None:
    assert additions(OLD, NEW) == ADDED
    assert additions(NEW, NEW) == additions(NEW, OLD) == {}


def test_only_the_newest_entry_tells() -> None:
    assert set(untold(ADDED, TOLD)) == set(ADDED)
    some = TOLD.replace("Words.", "`B` and `Query.bs`, `Kind.TWO`")
    assert set(untold(ADDED, some)) == {"Query.a(c)", "In.y", "Date"}


def test_writing_tells_the_rest_and_keeps_what_was_written() -> None:
    written = with_told(TOLD, ADDED)
    assert untold(ADDED, written) == {}
    assert "Words.\n- `B`: One more.\n- `Date`: new.\n" in written
    assert written.endswith("\n\n## 0.1.0\n- `B`: told too early to count.\n")


def test_the_command_checks_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new = current()
    old, removed = re.subn(r'(type Meter implements Node \{\n(?:.*\n)*?)  """.*"""\n  serial: String!\n\n', r"\1", new)
    assert removed == 1
    assert len(old.splitlines()) == len(new.splitlines()) - 3
    for name, text in (("SNAPSHOT", old), ("RELEASED", old), ("CHANGES", TOLD)):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(snapshot, name, path)
    assert snapshot.main(["check"]) == 1
    said = capsys.readouterr().err
    assert "not up to date" in said
    assert "  Meter.serial\n" in said
    assert snapshot.main(["write"]) == 0
    assert "- `Meter.serial`: The number on the meter.\n" in (tmp_path / "CHANGES").read_text()
    assert snapshot.main(["check"]) == 0
    (tmp_path / "CHANGES").write_text(TOLD)
    assert snapshot.main(["check"]) == 1
    assert snapshot.main(["release"]) == 0
    assert snapshot.main(["check"]) == 0


def undescribed(of: GraphQLSchema) -> list[str]:
    return [name for name, words in descriptions(of).items() if not words]


def test_everything_has_a_description_live_and_in_the_snapshot() -> None:
    assert undescribed(schema._schema) == []
    assert undescribed(build_schema(snapshot.SNAPSHOT.read_text())) == []


def test_what_has_no_description_is_found_wherever_it_is() -> None:
    bare = build_schema(NEW)
    assert {"Query", "Query.a", "Query.a(b)", "A.id", "B.name(upper)", "Kind.ONE", "In", "In.x", "Date"} <= set(
        undescribed(bare)
    )
    assert set(ADDED) - {"Date"} <= set(descriptions(bare)) - set(undescribed(bare))


def test_introspection_tells_the_same_words_as_the_snapshot() -> None:
    shown = build_client_schema(introspection_from_schema(schema._schema))
    assert descriptions(shown) == descriptions(build_schema(current()))


def test_an_enum_of_another_room_comes_with_words_for_each_value_or_not_at_all() -> None:
    class Colour(Enum):
        RED = "red"
        BLUE = "blue"

    with pytest.raises(KeyError):
        described_enum(Colour, {Colour.RED: "As blood."}, name="Colour", description="A colour.")
    described_enum(Colour, {Colour.RED: "As blood.", Colour.BLUE: "As ice."}, name="Hue", description="A colour.")
    values = Colour.__strawberry_definition__.values
    assert [(value.name, value.description) for value in values] == [("RED", "As blood."), ("BLUE", "As ice.")]


def test_the_snapshot_still_tells_of_what_is_one_of_and_specified_elsewhere() -> None:
    text = current()
    for name in ("PushAddress", "QuoteBy", "SignOutInput"):
        assert f"input {name} @oneOf {{" in text
    assert "scalar DateTime @specifiedBy(url:" in text
