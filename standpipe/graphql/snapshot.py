"""The committed schema: ``write`` it, or ``check`` that the code still matches and that nothing was taken away.

A change that breaks an app (a field or type removed, a type narrowed, an argument made required) fails the check
unless ``write --breaking`` was meant. Additions only ask for ``write``, which tells them in the newest entry of
docs/api/schema-changes.md, each with its description, for a person to better; the check fails where one is not named
there. What is new is what docs/api/schema-released.graphql, the schema of the last release, does not have; ``release``
makes today's schema that.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    is_introspection_type,
    is_specified_scalar_type,
    lexicographic_sort_schema,
    print_schema,
)
from graphql.utilities import find_breaking_changes

from standpipe.graphql.schema import schema

DOCS = Path(__file__).resolve().parents[2] / "docs"
SNAPSHOT = DOCS / "schema.graphql"
RELEASED = DOCS / "api" / "schema-released.graphql"
CHANGES = DOCS / "api" / "schema-changes.md"
_ENTRY = re.compile(r"^## .*\n(?:(?!## ).*\n?)*", re.MULTILINE)


def current() -> str:
    """The schema as text, sorted. Only the text: sorting the live schema breaks enum results."""
    return print_schema(lexicographic_sort_schema(build_schema(schema.as_str()))) + "\n"


def problems(old: str, new: str) -> list[str]:
    """Every breaking change from ``old`` to ``new``, in words."""
    changes = find_breaking_changes(build_schema(old), build_schema(new))
    return [f"{change.type.name}: {change.description}" for change in changes]


def descriptions(of: GraphQLSchema) -> dict[str, str]:
    """All that can have a description, by its name (see ``additions``), with it on one line; GraphQL's own is left out.

    Empty where something has none.
    """
    ours = [one for one in of.type_map.values() if not is_introspection_type(one) and not is_specified_scalar_type(one)]
    return {name: " ".join((described or "").split()) for one in ours for name, described in _within(one)}


def additions(old: str, new: str) -> dict[str, str]:
    """Return what ``new`` has and ``old`` has not, by its name, with its description.

    Names: ``Type``, ``Type.field``, ``Type.field(argument)``, ``Enum.VALUE``. A new type's name stands for all in it,
    and a new field's for its arguments.
    """
    before, after = descriptions(build_schema(old)), descriptions(build_schema(new))
    return {
        name: described
        for name, described in after.items()
        if name not in before and not any(owner not in before for owner in _owners(name))
    }


def untold(added: dict[str, str], changelog: str) -> dict[str, str]:
    """Additions that the newest entry of the changelog does not name between backticks."""
    newest = _ENTRY.search(changelog)
    told = set(re.findall(r"`([^`\n]+)`", newest.group())) if newest else set()
    return {name: described for name, described in added.items() if name not in told}


def with_told(changelog: str, added: dict[str, str]) -> str:
    """The changelog whose newest entry has a line for each of these, at its end."""
    newest = _ENTRY.search(changelog)
    if newest is None:
        raise ValueError(f"{CHANGES} has no entry: begin one with a heading '## Unreleased'.")
    lines = "".join(f"- `{name}`: {described or 'new.'}\n" for name, described in sorted(added.items()))
    entry, rest = newest.group().rstrip("\n"), changelog[newest.end() :]
    return f"{changelog[: newest.start()]}{entry}\n{lines}" + (f"\n{rest}" if rest else "")


def main(arguments: list[str]) -> int:
    """``check``, ``write [--breaking]`` or ``release``; returns the exit code."""
    new = current()
    old = SNAPSHOT.read_text() if SNAPSHOT.exists() else new
    broken = problems(old, new)
    if broken and "--breaking" not in arguments:
        sys.stderr.write("The schema breaks its users:\n" + "".join(f"  {line}\n" for line in broken))
        return 1
    if arguments[:1] == ["release"]:
        RELEASED.write_text(new)
    missing = untold(additions(RELEASED.read_text(), new), CHANGES.read_text())
    if arguments[:1] in (["write"], ["release"]):
        SNAPSHOT.write_text(new)
        _tell(missing)
        return 0
    return _checked(missing, up_to_date=new == old and SNAPSHOT.exists())


def _tell(missing: dict[str, str]) -> None:
    if missing:
        CHANGES.write_text(with_told(CHANGES.read_text(), missing))
        sys.stdout.write("New, and told in docs/api/schema-changes.md; please better the words there:\n")
        sys.stdout.write("".join(f"  {name}\n" for name in sorted(missing)))


def _checked(missing: dict[str, str], *, up_to_date: bool) -> int:
    if not up_to_date:
        sys.stderr.write("docs/schema.graphql is not up to date: run `make schema`.\n")
    if missing:
        sys.stderr.write("The newest entry of docs/api/schema-changes.md does not name (run `make schema`):\n")
        sys.stderr.write("".join(f"  {name}\n" for name in sorted(missing)))
    return 0 if up_to_date and not missing else 1


def _owners(name: str) -> list[str]:
    """List what a name is in: ``A.b(c)`` is in ``A.b`` and in ``A``."""
    field = name.partition("(")[0]
    return [owner for owner in (field, field.partition(".")[0]) if owner != name]


def _within(one: GraphQLNamedType) -> Iterator[tuple[str, str | None]]:
    yield one.name, one.description
    if isinstance(one, GraphQLEnumType):
        for value_name, value in one.values.items():
            yield f"{one.name}.{value_name}", value.description
    elif isinstance(one, GraphQLInputObjectType):
        for field_name, given in one.fields.items():
            yield f"{one.name}.{field_name}", given.description
    elif isinstance(one, GraphQLObjectType | GraphQLInterfaceType):
        for field_name, field in one.fields.items():
            yield f"{one.name}.{field_name}", field.description
            for argument, taken in field.args.items():
                yield f"{one.name}.{field_name}({argument})", taken.description


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
