"""`standpipe documents`: trusted GraphQL documents."""

from pathlib import Path
from typing import Annotated

import typer

from standpipe.documents.store import Document, read_manifest
from standpipe.graphql.guard import prepare
from standpipe.graphql.schema import schema
from standpipe.office.desk import AsJson, group, harmless, out, perform, show
from standpipe.operations import documents as operations
from standpipe.platform.errors import InvalidInputError

documents = group("Trusted GraphQL documents: the operations that apps were built with.")
Manifest = Annotated[
    list[Path], typer.Argument(help="Apollo's persisted query manifest, or a JSON object of SHA-256 → text.")
]


def problems_of(document: Document) -> list[str]:
    """List what today's schema and limits have against a document; nothing where a customer may run it."""
    core = schema._schema  # noqa: SLF001 - Strawberry offers no other way to graphql-core's.
    return [error.message for error in prepare(core, document.body, stranger=False, introspection=False).errors]


@documents.command("add")
def documents_add(
    manifests: Manifest,
    client: Annotated[str, typer.Option(help="Who brings them, for the list: android@2.1.")] = "",
) -> None:
    """Trust the documents of manifests. All are checked first: where one cannot run, none is taken."""
    found = _read(manifests)
    if _told(found):
        raise typer.Exit(1)

    fresh = perform(operations.add, found, client=client)
    out.print(f"{fresh} documents are trusted from now on; {len(found) - fresh} were already.")


@documents.command("list")
def documents_list(as_json: AsJson = False) -> None:
    """All trusted documents, oldest first."""
    rows = [
        [f"sha256:{row.id}", row.name, row.client, row.added_at.isoformat(timespec="seconds")]
        for row in perform(operations.list_documents)
    ]
    show("Trusted documents", ["id", "name", "client", "added"], rows, as_json=as_json)


@documents.command("check")
def documents_check(
    manifests: Annotated[list[Path] | None, typer.Argument(help="Manifests. None: what is stored.")] = None,
) -> None:
    """Validate documents against this release's schema and limits; exit 1 where one would not run any more."""
    found = (
        _read(manifests)
        if manifests
        else [Document(row.id, row.body, row.name) for row in perform(operations.list_documents)]
    )
    if _told(found):
        raise typer.Exit(1)
    out.print(f"{len(found)} documents run on this schema.")


@documents.command("remove")
def documents_remove(document_id: str) -> None:
    """Trust a document no more. Running servers that have it in memory know it until they restart."""
    perform(operations.remove, document_id)
    out.print(f"{document_id} is not trusted any more.")


def _read(manifests: list[Path]) -> list[Document]:
    found: dict[str, Document] = {}
    for path in manifests:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInputError(f"{path} cannot be read: {error}.") from error
        found |= {document.id: document for document in read_manifest(text)}
    return list(found.values())


def _told(found: list[Document]) -> bool:
    """Say what is wrong with documents; whether anything is."""
    bad = {document: problems_of(document) for document in found}
    for document, problems in bad.items():
        for problem in problems:
            out.print(f"{harmless(document.name or document.id)}: {harmless(problem)}", style="red")
    return any(bad.values())
