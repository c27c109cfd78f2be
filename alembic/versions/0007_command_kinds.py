"""commands that carry more than a number, and what meters say of themselves

Revision: 0007, after: 0006

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0007'
down_revision = '0006'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.add_column('meter_commands', sa.Column('body', postgresql.JSONB(astext_type=sa.Text()), nullable=True))
    op.add_column('meter_commands', sa.Column('after_report', sa.BigInteger(), nullable=True))
    op.create_table('meter_diagnostics',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('told_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('battery_percent', sa.BigInteger(), nullable=True),
    sa.Column('signal_dbm', sa.BigInteger(), nullable=True),
    sa.Column('uptime_s', sa.BigInteger(), nullable=True),
    sa.Column('resets', sa.BigInteger(), nullable=True),
    sa.Column('error_bits', sa.BigInteger(), nullable=True),
    sa.Column('firmware', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_diagnostics_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'told_at', name=op.f('pk_meter_diagnostics'))
    )
