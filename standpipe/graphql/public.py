"""The part of the schema for somebody who has not signed in; they learn nothing of what there is beyond it.

A request of theirs is looked at field by field at its root. ``PUBLIC`` fields are validated and answered. ``EMPTY``
fields are answered with null, whatever was asked below them, unseen by validation: "no such field" would tell which
fields there are. Anything else, there or not, is refused in the same words. Pure.
"""

from collections.abc import Iterator, Mapping

from graphql import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLError,
    InlineFragmentNode,
    NameNode,
    Node,
    OperationDefinitionNode,
    SelectionSetNode,
    VariableNode,
)

from standpipe.platform.language import phrase

PUBLIC = frozenset(
    {
        "__typename",
        "appConfig",
        "operatorSignIn",
        "signInStart",
        "signInFinish",
        "sessionRefresh",
        "signOut",
        "guestMeter",
        "guestTopUp",
        "guestTopUpStart",
    }
)
EMPTY = frozenset({"viewer", "node", "operator"})


def not_valid() -> GraphQLError:
    """All that a stranger is told of a request that is not valid."""
    return GraphQLError(phrase("This is not a valid request for somebody who has not signed in."))


def for_strangers(
    document: DocumentNode,
) -> tuple[DocumentNode, dict[str | None, frozenset[str]]] | GraphQLError:
    """The document with its EMPTY fields made harmless, and by operation their keys in the answer; or its refusal."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    kept: list[Node] = []
    nulls: dict[str | None, frozenset[str]] = {}
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        fields = _root_fields(node.selection_set, fragments)
        if fields is None:
            return not_valid()
        if not {field.name.value for field in fields} <= PUBLIC | EMPTY:
            return GraphQLError(phrase("Sign in first."), extensions={"code": "UNAUTHENTICATED"})
        empty = frozenset(_key(field) for field in fields if field.name.value in EMPTY)
        # The two fields of one key would differ after they are made harmless; such a request has no meaning.
        if empty & {_key(field) for field in fields if field.name.value in PUBLIC}:
            return not_valid()
        nulls[node.name.value if node.name else None] = empty
        kept.append(_pruned(node, fields))
    used = _fragments_used(kept, fragments)
    return DocumentNode(definitions=(*kept, *(fragments[name] for name in sorted(used)))), nulls  # type: ignore[arg-type]


def _root_fields(
    selections: SelectionSetNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> list[FieldNode] | None:
    """The fields at the root, fragments written out; None where a fragment is missing, or has a directive."""
    fields: list[FieldNode] = []
    seen: set[str] = set()
    waiting = [selections]
    while waiting:
        for node in waiting.pop().selections:
            if isinstance(node, FieldNode):
                fields.append(node)
            elif node.directives:
                return None
            elif isinstance(node, InlineFragmentNode):
                waiting.append(node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                name = node.name.value
                if name not in fragments or fragments[name].directives:
                    return None
                if name not in seen:
                    seen.add(name)
                    waiting.append(fragments[name].selection_set)
    return fields


def _key(field: FieldNode) -> str:
    return (field.alias or field.name).value


def _pruned(operation: OperationDefinitionNode, fields: list[FieldNode]) -> OperationDefinitionNode:
    harmless = tuple(
        FieldNode(
            alias=NameNode(value=_key(field)),
            name=NameNode(value="__typename"),
            arguments=(),
            directives=field.directives,
        )
        if field.name.value in EMPTY
        else field
        for field in fields
    )
    selections = SelectionSetNode(selections=harmless)
    used = {node.name.value for node in _walk(selections) if isinstance(node, VariableNode)}
    return OperationDefinitionNode(
        operation=operation.operation,
        name=operation.name,
        variable_definitions=tuple(
            one for one in operation.variable_definitions or () if one.variable.name.value in used
        ),
        directives=operation.directives,
        selection_set=selections,
    )


def _fragments_used(roots: list[Node], fragments: Mapping[str, FragmentDefinitionNode]) -> set[str]:
    used: set[str] = set()
    waiting = list(roots)
    while waiting:
        for node in _walk(waiting.pop()):
            if isinstance(node, FragmentSpreadNode) and node.name.value in fragments and node.name.value not in used:
                used.add(node.name.value)
                waiting.append(fragments[node.name.value])
    return used


def _walk(root: Node) -> Iterator[Node]:
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        for key in node.keys:
            value = getattr(node, key, None)
            if isinstance(value, Node):
                waiting.append(value)
            elif isinstance(value, tuple | list):
                waiting.extend(one for one in value if isinstance(one, Node))
