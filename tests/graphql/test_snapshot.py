"""The schema's changelog: what is new must be named in its newest entry."""

from pathlib import Path

import pytest

from standpipe.graphql import snapshot
from standpipe.graphql.snapshot import additions, current, untold, with_told

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
    old = new.replace("  serial: String!\n", "")
    assert len(old.splitlines()) == len(new.splitlines()) - 1
    for name, text in (("SNAPSHOT", old), ("RELEASED", old), ("CHANGES", TOLD)):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(snapshot, name, path)
    assert snapshot.main(["check"]) == 1
    said = capsys.readouterr().err
    assert "not up to date" in said
    assert "  Meter.serial\n" in said
    assert snapshot.main(["write"]) == 0
    assert "- `Meter.serial`: new.\n" in (tmp_path / "CHANGES").read_text()
    assert snapshot.main(["check"]) == 0
    (tmp_path / "CHANGES").write_text(TOLD)
    assert snapshot.main(["check"]) == 1
    assert snapshot.main(["release"]) == 0
    assert snapshot.main(["check"]) == 0
