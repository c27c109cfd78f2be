"""graphql-transport-ws, with documents by their id."""

from typing import Any

from graphql import GraphQLError
from strawberry.subscriptions.protocols.graphql_transport_ws.handlers import BaseGraphQLTransportWSHandler

from standpipe.graphql.context import Context
from standpipe.graphql.documents import DocumentError


class Socket(BaseGraphQLTransportWSHandler[Context, None]):
    """One connection."""

    async def handle_message(self, message: Any) -> None:
        """Take a message; one that is no message of the protocol ends the connection (4400), and nothing else."""
        if not isinstance(message, dict) or not isinstance(message.get("type"), str):
            await self.handle_invalid_message("Failed to parse message")
            return
        known: Any = message
        await super().handle_message(known)

    async def handle_subscribe(self, message: Any) -> None:
        """Begin an operation; a ``documentId`` stands for its text as it does over HTTP."""
        payload = message.get("payload")
        if not isinstance(payload, dict) or not isinstance(message.get("id"), str):
            await self.handle_invalid_message("Failed to parse message")
            return
        for name, kind in (("query", str), ("operationName", str), ("variables", dict), ("extensions", dict)):
            if not isinstance(payload.get(name), kind | None):
                await self.handle_invalid_message(f"{name} is not what it should be")
                return
        if self.connection_acknowledged and message["id"] not in self.operations:
            services = self.context.services
            try:
                text, _ = await services.documents.text(services.sessions, payload)
            except DocumentError as error:
                refused = GraphQLError(str(error), extensions={"code": error.code})
                await self.send_message({"id": message["id"], "type": "error", "payload": [refused.formatted]})
                return
            message = message | {"payload": payload | {"query": text or ""}}
        else:
            message = message | {"payload": payload | {"query": ""}}
        await super().handle_subscribe(message)
