"""another value for an instant stands beside the first

Revision: 0015, after: 0014

Nothing is released: the key of readings changes.
"""

import sqlalchemy as sa
from alembic import op

revision = '0015'
down_revision = '0014'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column('readings', sa.Column('arrival', sa.BigInteger(), server_default='0', nullable=False))
    op.drop_constraint('pk_readings', 'readings', type_='primary')
    op.create_primary_key('pk_readings', 'readings', ['meter_id', 'read_at', 'arrival'])
