"""Operators as they see themselves."""

from enum import Enum

import strawberry

from standpipe.graphql.context import OperatorIdentity


@strawberry.enum(name="OperatorRole", description="What an operator may do.")
class Role(Enum):
    """The roles of ``standpipe.utilities.operators``, described."""

    ADMIN = strawberry.enum_value("ADMIN", description="Everything, operators and their roles included.")
    FINANCE = strawberry.enum_value("FINANCE", description="Money: refunds, suspense, arrears, agents, vouchers.")
    FIELD = strawberry.enum_value("FIELD", description="Meters, readings, supply, tariffs, radios, keys and tokens.")
    SUPPORT = strawberry.enum_value("SUPPORT", description="Codes by which customers claim meters.")


@strawberry.type(description="Somebody at the utility, who is no customer.")
class Operator:
    """An operator, for themselves."""

    name: str = strawberry.field(description="The name by which they sign in.")
    role: Role = strawberry.field(description="What they may do.")


def operator_of(identity: OperatorIdentity | None) -> Operator | None:
    """The operator who is signed in."""
    return None if identity is None else Operator(name=identity.name, role=Role(identity.role.value))
