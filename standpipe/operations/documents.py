"""Trusted GraphQL documents: the operations that apps were built with."""

from collections.abc import Sequence

from standpipe.documents import store
from standpipe.documents.models import TrustedDocument
from standpipe.documents.store import Document
from standpipe.operations.operation import Desk, operation
from standpipe.utilities.operators import ANYBODY, PEOPLE


@operation("documents.add", may=PEOPLE)
async def add(desk: Desk, documents: Sequence[Document], *, client: str) -> int:
    """Trust documents that a door has checked against the schema; returns how many are new."""
    fresh = await store.add(desk.session, list(documents), client=client)
    await desk.record("documents.add", "documents", client=client, documents=len(documents), new=fresh)
    return fresh


@operation("documents.list", may=ANYBODY, reads=True)
async def list_documents(desk: Desk) -> Sequence[TrustedDocument]:
    """Read all trusted documents, oldest first."""
    return await store.all_documents(desk.session)


@operation("documents.remove", may=PEOPLE)
async def remove(desk: Desk, document_id: str) -> None:
    """Trust a document no more. Raises NotFoundError."""
    await store.remove(desk.session, document_id)
    await desk.record("documents.remove", document_id)
