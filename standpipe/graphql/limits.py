"""Limits on the size of a GraphQL document, found in time linear in its text, before anything else looks at it.

Each fragment is measured once, however often and however deeply it is spread; a document of 800 bytes may stand for
millions of fields, and is refused after as many steps as it has nodes. Pure.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    OperationDefinitionNode,
    SelectionSetNode,
)

MAX_TOKENS = 1_000
MAX_DEPTH = 12
MAX_ALIASES = 15
MAX_DIRECTIVES = 8
MAX_FIELDS = 500
MAX_FRAGMENTS = 40
MAX_OPERATIONS = 10
MAX_REPEATS = 3_000
"""Pairs of fields with one response key: validation compares them pair by pair."""
_MANY = 10**6


@dataclass(frozen=True, slots=True)
class Size:
    """Size of a selection with its fragments written out. Introspection has a depth rule of its own."""

    depth: int = 0
    fields: int = 0
    aliases: int = 0
    directives: int = 0

    def plus(self, other: "Size") -> "Size":
        """Side by side."""
        return Size(
            max(self.depth, other.depth),
            min(self.fields + other.fields, _MANY),
            min(self.aliases + other.aliases, _MANY),
            min(self.directives + other.directives, _MANY),
        )


_UNKNOWN = Size(depth=1, fields=1)
_ENDLESS = Size(_MANY, _MANY, _MANY, _MANY)


def too_large(document: DocumentNode) -> GraphQLError | None:
    """Name what is too large about a document; None where nothing is. Limits stand above, and in docs/api/limits.md."""
    operations = [node for node in document.definitions if isinstance(node, OperationDefinitionNode)]
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    if len(operations) > MAX_OPERATIONS:
        return _refusal("operations", MAX_OPERATIONS)
    if len(fragments) > MAX_FRAGMENTS:
        return _refusal("fragments", MAX_FRAGMENTS)
    # What is not measured when it is needed lies on a cycle, and has no size.
    sizes = dict.fromkeys(fragments, _ENDLESS)
    if (unused := _unused(operations, fragments)) is not None:
        # Validation refuses it too, but only after it has looked through all of it.
        return GraphQLError(f"Fragment '{unused}' is never used.")
    for name in _leaves_first(fragments):
        sizes[name] = _size(fragments[name].selection_set, sizes)
    for operation in operations:
        size = _size(operation.selection_set, sizes)
        limits = (
            ("levels", size.depth, MAX_DEPTH),
            ("fields", size.fields, MAX_FIELDS),
            ("aliases", size.aliases, MAX_ALIASES),
            ("directives", size.directives + len(operation.directives or ()), MAX_DIRECTIVES),
        )
        for what, found, most in limits:
            if found > most:
                return _refusal(what, most)
    # Only now is it known that the selections, written out, are small enough to be walked.
    if any(_repeats([operation.selection_set], fragments) > MAX_REPEATS for operation in operations):
        return GraphQLError("This request asks for the same fields too often.", extensions={"code": "TOO_LARGE"})
    return None


def _refusal(what: str, most: int) -> GraphQLError:
    return GraphQLError(f"This request has too many {what}: at most {most}.", extensions={"code": "TOO_LARGE"})


def _unused(operations: list[OperationDefinitionNode], fragments: Mapping[str, FragmentDefinitionNode]) -> str | None:
    used: set[str] = set()
    waiting = [operation.selection_set for operation in operations]
    while waiting:
        for name in _spreads(waiting.pop()):
            if name in fragments and name not in used:
                used.add(name)
                waiting.append(fragments[name].selection_set)
    return next((name for name in fragments if name not in used), None)


def _leaves_first(fragments: Mapping[str, FragmentDefinitionNode]) -> Iterator[str]:
    """Fragments in an order in which each comes after those that it spreads; what lies on a cycle comes anyhow."""
    done: set[str] = set()
    begun: set[str] = set()
    for root in fragments:
        stack = [root]
        while stack:
            name = stack[-1]
            if name in done or name not in fragments:
                stack.pop()
            elif name in begun:
                done.add(name)
                yield name
                stack.pop()
            else:
                begun.add(name)
                stack.extend(spread for spread in _spreads(fragments[name].selection_set) if spread not in begun)


def _spreads(selections: SelectionSetNode) -> Iterator[str]:
    waiting = [selections]
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, FragmentSpreadNode):
                yield node.name.value
            elif isinstance(node, FieldNode | InlineFragmentNode) and node.selection_set is not None:
                waiting.append(node.selection_set)


def _size(selections: SelectionSetNode, sizes: Mapping[str, Size]) -> Size:
    # The parser has come back from this depth with more frames a level than are taken here.
    total = Size()
    for node in selections.selections:
        own = Size(directives=len(node.directives or ()))
        if isinstance(node, FragmentSpreadNode):
            # A fragment that does not exist is validation's to refuse; it counts, or doubling it would be free.
            inner = sizes.get(node.name.value, _UNKNOWN)
        elif isinstance(node, FieldNode):
            inner = Size() if node.selection_set is None else _size(node.selection_set, sizes)
            # The depth of introspection is graphql-core's MaxIntrospectionDepthRule's, and its cost is priced.
            depth = 0 if node.name.value.startswith("__") else inner.depth + 1
            inner = Size(depth, inner.fields + 1, inner.aliases + (node.alias is not None), inner.directives)
        elif isinstance(node, InlineFragmentNode):
            inner = _size(node.selection_set, sizes)
        else:
            continue
        total = total.plus(own).plus(inner)
    return total


def _repeats(sets: list[SelectionSetNode], fragments: Mapping[str, FragmentDefinitionNode]) -> int:
    """Count the pairs of fields that share a response key, in these selections taken together and in all below them."""
    groups: dict[str, list[FieldNode]] = {}
    waiting = list(sets)
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, FieldNode):
                groups.setdefault((node.alias or node.name).value, []).append(node)
            elif isinstance(node, InlineFragmentNode):
                waiting.append(node.selection_set)
            elif isinstance(node, FragmentSpreadNode) and node.name.value in fragments:
                waiting.append(fragments[node.name.value].selection_set)
    pairs = 0
    for fields in groups.values():
        pairs += len(fields) * (len(fields) - 1) // 2
        below = [field.selection_set for field in fields if field.selection_set is not None]
        if below and pairs <= MAX_REPEATS:
            pairs += _repeats(below, fragments)
    return pairs
