"""The price of an operation, in points, before it runs. One point is one value in the answer, lists written out.

A list counts as many times as its ``first`` says, or as the table here guesses. On top comes what the database or
another service has to do for a field. The table is published in docs/api/limits.md. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from graphql import (
    BooleanValueNode,
    DocumentNode,
    EnumValueNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLField,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    StringValueNode,
    ValueNode,
    VariableNode,
    get_named_type,
    value_from_ast_untyped,
)

MAX_COST = 6_000
"""One operation's most. What costs this much takes some tens of milliseconds of processor."""
DEFAULT_FIRST = 20
DEFAULT_LIST = 10
BUCKET = 4
"""Points that it takes to reckon one bucket of a series, besides the values that are asked of it."""
MUTATION = 20
SUBSCRIPTION = 50

EXTRA: Mapping[str, int] = {
    "Meter.usage": 20,
    "Meter.statement": 500,
    "Meter.comparison": 250,
    "Meter.quote": 30,
    "Meter.autoTopUp": 5,
    "Query.node": 10,
    "Query.__schema": 2_000,
    "Query.__type": 500,
    "Viewer.savedCards": 10,
}
"""Points of a field besides its values: statements, sums over history, a provider asked."""

LISTS: Mapping[str, int] = {
    "Tariff.tiers": 5,
    "UsageBucket.tiers": 2,
    "TopUp.timeline": 6,
    "TopUp.receipts": 2,
    "TopUp.keypadTokens": 1,
    "Meter.topUpMethods": 8,
}
"""Assumed lengths of lists that have no ``first``; 10 where nothing stands here."""

LATE = "Viewer.meters"
"""A list that is priced for one item before it runs, and for the others once it is known how many there are."""

Variables = Mapping[str, Any]
_Times = int | Callable[[Variables], int]
_PER_DAY = {"HOUR": 24.0, "DAY": 1.0, "MONTH": 1 / 28}
_MAX_BUCKETS = 1_000


@dataclass(frozen=True, slots=True)
class Plan:
    """An operation, ready to be priced for its variables: ``fixed`` points, and ``parts`` of (times, what each costs).

    ``late``: the plans of one item of each list that is priced again when it is known.
    """

    fixed: int = 0
    parts: tuple[tuple[_Times, "Plan"], ...] = ()
    late: tuple["Plan", ...] = ()

    def cost(self, variables: Variables) -> int:
        """Points for these variables. Never more than a few times MAX_COST, however long the lists."""
        total = self.fixed
        for times, part in self.parts:
            total += (times if isinstance(times, int) else times(variables)) * part.cost(variables)
            if total > MAX_COST:
                break
        return total


@dataclass
class _Planner:
    schema: GraphQLSchema
    fragments: Mapping[str, FragmentDefinitionNode]
    late: list[Plan] = field(default_factory=list)
    made: dict[tuple[str, str, int], Plan] = field(default_factory=dict)
    buckets: _Times = 1

    def selections(self, node: SelectionSetNode, parent: GraphQLOutputType) -> Plan:
        fixed = 0
        parts: list[tuple[_Times, Plan]] = []
        for selection in node.selections:
            if isinstance(selection, FieldNode):
                times, plan = self._field(selection, parent)
            else:
                times, plan = 1, self._fragment(selection, parent)
            if times == 1 and not plan.parts:
                fixed += plan.fixed
            else:
                parts.append((times, plan))
        return Plan(fixed, tuple(parts))

    def _fragment(self, node: Any, parent: GraphQLOutputType) -> Plan:
        if isinstance(node, InlineFragmentNode):
            return self.selections(node.selection_set, self._type(node.type_condition, parent))
        if isinstance(node, FragmentSpreadNode) and node.name.value in self.fragments:
            name = node.name.value
            key = (name, str(parent), id(self.buckets))
            if key not in self.made:
                fragment = self.fragments[name]
                self.made[key] = self.selections(fragment.selection_set, self._type(fragment.type_condition, parent))
            return self.made[key]
        return Plan()

    def _type(self, condition: Any, parent: GraphQLOutputType) -> GraphQLOutputType:
        found: Any = None if condition is None else self.schema.get_type(condition.name.value)
        return parent if found is None else found

    def _field(self, node: FieldNode, parent: GraphQLOutputType) -> tuple[_Times, Plan]:
        name = f"{getattr(parent, 'name', '')}.{node.name.value}"
        extra = EXTRA.get(name, 0)
        known = (
            parent.fields.get(node.name.value) if isinstance(parent, GraphQLObjectType | GraphQLInterfaceType) else None
        )
        if known is None or node.selection_set is None:
            return 1, Plan(1 + extra)
        if name == "Meter.usage":
            return 1, self._series(node, known.type, 1 + extra)
        below = self.selections(node.selection_set, _named(known.type))
        if name == LATE:
            self.late.append(below)
            return 1, Plan(1 + extra + below.fixed, below.parts)
        times = self._times(node, name, known)
        if isinstance(times, int) and not below.parts:
            return 1, Plan(1 + extra + times * below.fixed)
        return 1, Plan(1 + extra, ((times, below),))

    def _series(self, node: FieldNode, type_: GraphQLOutputType, points: int) -> Plan:
        """A history: its buckets are as many as its dates say, and so are the values of its columns."""
        given = {argument.name.value: argument.value for argument in node.arguments or ()}
        around, self.buckets = (
            self.buckets,
            lambda variables: _buckets({key: _read(value, variables) for key, value in given.items()}),
        )
        assert node.selection_set is not None  # noqa: S101 - the caller has looked.
        below = self.selections(node.selection_set, _named(type_))
        plan = Plan(points + below.fixed, (*below.parts, (self.buckets, Plan(BUCKET))))
        self.buckets = around
        return plan

    def _times(self, node: FieldNode, name: str, known: GraphQLField) -> _Times:
        if "first" in known.args:
            first = next((argument.value for argument in node.arguments or () if argument.name.value == "first"), None)
            return lambda variables: _whole(_read(first, variables), DEFAULT_FIRST)
        if name == "UsageSeries.buckets":
            return self.buckets
        if name.endswith(("Connection.nodes", "Connection.edges")):
            return 1  # The connection was counted by its own ``first``.
        inner = known.type.of_type if isinstance(known.type, GraphQLNonNull) else known.type
        return LISTS.get(name, DEFAULT_LIST) if isinstance(inner, GraphQLList) else 1


@dataclass(frozen=True, slots=True)
class Priced:
    """An operation: its plan, what one item more of its late lists costs, and what its variables are by default."""

    plan: Plan
    late: tuple[Plan, ...]
    defaults: Variables

    def cost(self, variables: Variables) -> tuple[int, int]:
        """Points, and points for each item more, for what the client sent."""
        given = {**self.defaults, **variables}
        return self.plan.cost(given), max((one.cost(given) for one in self.late), default=0)


def plans_of(schema: GraphQLSchema, document: DocumentNode) -> dict[str | None, Priced]:
    """Price each operation of a valid document."""
    fragments = {node.name.value: node for node in document.definitions if isinstance(node, FragmentDefinitionNode)}
    found: dict[str | None, Priced] = {}
    for node in document.definitions:
        if not isinstance(node, OperationDefinitionNode):
            continue
        planner = _Planner(schema, fragments)
        root = schema.get_root_type(node.operation)
        below = Plan() if root is None else planner.selections(node.selection_set, root)
        base = {"mutation": MUTATION, "subscription": SUBSCRIPTION}.get(node.operation.value, 0)
        times = len(node.selection_set.selections) if base else 1
        plan = Plan(below.fixed + base * times, below.parts)
        defaults = {
            one.variable.name.value: value_from_ast_untyped(one.default_value)
            for one in node.variable_definitions or ()
            if one.default_value is not None
        }
        found[node.name.value if node.name else None] = Priced(plan, tuple(planner.late), defaults)
    return found


def _named(type_: GraphQLOutputType) -> Any:
    return get_named_type(type_)


def _read(value: ValueNode | None, variables: Variables) -> Any:
    match value:
        case VariableNode():
            return variables.get(value.name.value)
        case IntValueNode():
            return int(value.value[:9])
        case StringValueNode() | EnumValueNode() | BooleanValueNode():
            return value.value
        case _:
            return None


def _whole(value: Any, otherwise: int) -> int:
    """A size as it was asked for; one that will be refused is priced as the largest that is not."""
    if isinstance(value, bool) or not isinstance(value, int):
        return otherwise
    return min(max(value, 1), 100)


def _buckets(given: Mapping[str, Any]) -> int:
    try:
        days = (date.fromisoformat(str(given.get("to"))) - date.fromisoformat(str(given.get("from")))).days
    except ValueError:
        return 1
    return min(max(int(days * _PER_DAY.get(str(given.get("interval")), 24.0)), 1), _MAX_BUCKETS)
