"""The committed schema: ``write`` it, or ``check`` that the code still matches and that nothing was taken away.

A change that breaks an app (a field or type removed, a type narrowed, an argument made required) fails the check
unless ``write --breaking`` was meant; additions only ask for ``write``.
"""

import sys
from pathlib import Path

from graphql import build_schema, lexicographic_sort_schema, print_schema
from graphql.utilities import find_breaking_changes

from standpipe.graphql.schema import schema

SNAPSHOT = Path(__file__).resolve().parents[2] / "docs" / "schema.graphql"


def current() -> str:
    """The schema as text, sorted. Only the text: sorting the live schema breaks enum results."""
    return print_schema(lexicographic_sort_schema(build_schema(schema.as_str()))) + "\n"


def problems(old: str, new: str) -> list[str]:
    """Every breaking change from ``old`` to ``new``, in words."""
    changes = find_breaking_changes(build_schema(old), build_schema(new))
    return [f"{change.type.name}: {change.description}" for change in changes]


def main(arguments: list[str]) -> int:
    """``check`` or ``write [--breaking]``; returns the exit code."""
    new = current()
    old = SNAPSHOT.read_text() if SNAPSHOT.exists() else new
    broken = problems(old, new)
    if broken and "--breaking" not in arguments:
        sys.stderr.write("The schema breaks its users:\n" + "".join(f"  {line}\n" for line in broken))
        return 1
    if arguments[:1] == ["write"]:
        SNAPSHOT.write_text(new)
    elif new != old or not SNAPSHOT.exists():
        sys.stderr.write("docs/schema.graphql is not up to date: run `make schema`.\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
