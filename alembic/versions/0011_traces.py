"""the trace of what wrote it, on each row that waits for somebody

Revision: 0011, after: 0010

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op

revision = '0011'
down_revision = '0010'
branch_labels = None
depends_on = None

TABLES = ('top_ups', 'provider_events', 'outbox_facts', 'credit_grants', 'meter_commands', 'deliveries')


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    for table in TABLES:
        op.add_column(table, sa.Column('traceparent', sa.Text(), nullable=True))

