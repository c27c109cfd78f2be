"""columns that no loop goes by any more

Revision: 0016, after: 0015

Nothing is released: what rounds of due meters (0012) replaced is dropped.
"""

from alembic import op

revision = '0016'
down_revision = '0015'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.drop_index('ix_meters_cut_off_due_at', table_name='meters')
    op.drop_index('ix_meters_guarantee_is_stale', table_name='meters')
    op.drop_column('meters', 'cut_off_due_at')
    op.drop_column('meters', 'guarantee_is_stale')
