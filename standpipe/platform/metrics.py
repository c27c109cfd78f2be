"""Metrics of this process for Prometheus; docs/observability.md says what each means and when to worry.

Labels take few values, all of them ours: routes, providers, carriers, codes. Never an id, a path as it was asked for,
or anything that a caller may choose.
"""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

REGISTRY = CollectorRegistry()
PlatformCollector(REGISTRY)
ProcessCollector(registry=REGISTRY)
GCCollector(REGISTRY)

REQUEST_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
RAIL_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60)
CREDIT_BUCKETS_S = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 26 * 3_600, 72 * 3_600, 7 * 86_400)
"""From a meter that is awake, over one that reports once a day, to one that somebody must visit."""

REQUESTS = Counter(
    "standpipe_http_requests", "HTTP requests by route and status.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_S = Histogram(
    "standpipe_http_request_seconds",
    "Time to an answer's first byte.",
    ["route"],
    buckets=REQUEST_BUCKETS_S,
    registry=REGISTRY,
)
REQUESTS_UNDER_WAY = Gauge("standpipe_http_requests_under_way", "HTTP requests being answered.", registry=REGISTRY)
WEBSOCKETS = Gauge("standpipe_websockets_open", "WebSocket connections.", registry=REGISTRY)
GRAPHQL_ERRORS = Counter(
    "standpipe_graphql_errors",
    "Errors in GraphQL answers. kind: user (a payload's userErrors), query (what was asked), internal (ours).",
    ["kind", "code"],
    registry=REGISTRY,
)
TOP_UPS = Counter("standpipe_top_ups", "Top-ups that came to this status.", ["rail", "status"], registry=REGISTRY)
PAYMENTS_SETTLED = Counter(
    "standpipe_payments_settled", "Payments whose captured sum rose and was booked.", ["rail"], registry=REGISTRY
)
CREDIT_CONFIRMED_S = Histogram(
    "standpipe_credit_confirmed_seconds",
    "From the money's booking to the meter's own word that it holds the credit.",
    buckets=CREDIT_BUCKETS_S,
    registry=REGISTRY,
)
RAIL_CALL_S = Histogram(
    "standpipe_provider_call_seconds",
    "Calls to payment providers. outcome: answered, refused, unavailable, failed.",
    ["rail", "call", "outcome"],
    buckets=RAIL_BUCKETS_S,
    registry=REGISTRY,
)
RADIO_CONTACTS = Counter(
    "standpipe_radio_contacts",
    "Contacts with meters. outcome: done, asleep, refused, failed.",
    ["carrier", "outcome"],
    registry=REGISTRY,
)
METERS_RATED = Counter("standpipe_meters_rated", "Meters whose readings and terms were rated.", registry=REGISTRY)
RATED_LATE = Counter(
    "standpipe_meters_rated_late",
    "Meters that were not rated for a day and then changed: an instant was forgotten. Must be nothing.",
    registry=REGISTRY,
)
QUEUE_GIVEN_UP = Counter(
    "standpipe_queue_given_up", "Rows that were tried for the last time and wait for a person.", ["queue"],
    registry=REGISTRY,
)  # fmt: skip
QUEUE_DEPTH = Gauge("standpipe_queue_depth", "Rows that wait, in the whole database.", ["queue"], registry=REGISTRY)
QUEUE_OLDEST_S = Gauge(
    "standpipe_queue_oldest_seconds", "Age of the oldest row that waits; 0 where none does.", ["queue"],
    registry=REGISTRY,
)  # fmt: skip
BATCH_ITEMS = Histogram(
    "standpipe_batch_items",
    "Items that shared a transaction.",
    ["batch"],
    buckets=(1, 2, 5, 10, 20, 50, 100, 200),
    registry=REGISTRY,
)
BATCH_S = Histogram(
    "standpipe_batch_seconds",
    "Time of a batch, with its retries and halves.",
    ["batch"],
    buckets=REQUEST_BUCKETS_S,
    registry=REGISTRY,
)
BATCH_POISONS = Counter(
    "standpipe_batch_poisons", "Items that failed alone and were set aside.", ["batch"], registry=REGISTRY
)
POOL_IN_USE = Gauge("standpipe_db_pool_in_use", "Database connections in use by this process.", registry=REGISTRY)
POOL_SIZE = Gauge("standpipe_db_pool_size", "Database connections that it may keep and add.", registry=REGISTRY)
