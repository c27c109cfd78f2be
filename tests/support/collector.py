"""An OpenTelemetry collector on the loopback: OTLP over HTTP, protobuf, as any role sends it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from standpipe.platform.serving import serve
from tests.support.database import free_port


@dataclass(frozen=True)
class Span:
    """A span as it came over the wire."""

    service: str
    name: str
    id: str
    parent: str
    trace: str
    attributes: dict[str, str]
    links: tuple[str, ...]
    failed: bool


@dataclass
class Collector:
    url: str
    spans: list[Span] = field(default_factory=list)

    def of(self, trace: str) -> dict[str, Span]:
        """A trace's spans by id."""
        return {span.id: span for span in self.spans if span.trace == trace}

    def above(self, span: Span) -> list[str]:
        """Names from a span up to where its trace began; "?" for a parent that never came."""
        known, names = self.of(span.trace), [span.name]
        while span.parent:
            if span.parent not in known:
                return [*names, "?"]
            span = known[span.parent]
            names.append(span.name)
        return names

    def take(self, body: bytes) -> None:
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {item.key: item.value.string_value for item in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                told = {item.key: item.value.string_value or str(item.value.int_value) for item in span.attributes}
                self.spans.append(
                    Span(
                        *(named["service.name"], span.name, span.span_id.hex(), span.parent_span_id.hex()),
                        *(span.trace_id.hex(), told, tuple(link.trace_id.hex() for link in span.links)),
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                    )
                )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    port = free_port()
    collector = Collector(f"http://127.0.0.1:{port}")

    async def take(request: Request) -> Response:
        collector.take(await request.body())
        return Response(media_type="application/x-protobuf")

    app = Starlette(routes=[Route("/v1/traces", take, methods=["POST"])])
    serving = asyncio.create_task(serve(app, "127.0.0.1", port))
    try:
        yield collector
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
