"""The identity of an asker, found by a way to sign in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from standpipe.graphql.context import Context, OperatorIdentity


@dataclass(frozen=True, slots=True)
class Identity:
    """A customer or an operator, never both. ``check_revoked``: see Context."""

    expires_at_s: int
    customer_id: str | None = None
    session_id: str | None = None
    operator: OperatorIdentity | None = None
    check_revoked: Callable[[], Awaitable[None]] | None = None

    def put_into(self, context: Context) -> None:
        """Let the request be this one's."""
        context.customer_id, context.operator = self.customer_id, self.operator
        context.session_id = self.session_id
        context.expires_at_s, context.check_revoked = self.expires_at_s, self.check_revoked
