"""raw readings of reports, and which meters are due for rating

Revision: 0012, after: 0011

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op

revision = '0012'
down_revision = '0011'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table(
        'raw_reports',
        sa.Column('arrival', sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column('meter_id', sa.Text(), nullable=False),
        sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
        sa.Column('clock_wrong', sa.Boolean(), nullable=False),
        sa.Column('stated_at', sa.DateTime(timezone=True), nullable=True),
        sa.Column('read_at', sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
        sa.Column('register_ml', sa.ARRAY(sa.BigInteger()), nullable=False),
        sa.Column('empty_pipe', sa.ARRAY(sa.Boolean()), nullable=False),
        sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_raw_reports_meter_id')),
        sa.PrimaryKeyConstraint('arrival', name=op.f('pk_raw_reports')),
    )
    op.create_index('ix_raw_reports_meter_id', 'raw_reports', ['meter_id', 'arrival'], unique=False)
    op.create_table(
        'meter_due',
        sa.Column('meter_id', sa.Text(), nullable=False),
        sa.Column('marks', sa.BigInteger(), server_default='1', nullable=False),
        sa.Column('marked_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
        sa.Column('due_next_at', sa.DateTime(timezone=True), nullable=True),
        sa.Column('reprice_from', sa.Date(), nullable=True),
        sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True),
        sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
        sa.Column('last_error', sa.Text(), nullable=True),
        sa.Column('rated_at', sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_due_meter_id')),
        sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_due')),
    )
    for name, column, where in (
        ('ix_meter_due_marked_at', 'marked_at', 'marked_at IS NOT NULL'),
        ('ix_meter_due_due_next_at', 'due_next_at', 'due_next_at IS NOT NULL'),
        ('ix_meter_due_failing', 'meter_id', 'last_error IS NOT NULL'),
    ):
        op.create_index(name, 'meter_due', [column], unique=False, postgresql_where=sa.text(where))
    # Whatever makes a meter, it is due from its first moment.
    op.execute("""
CREATE FUNCTION mark_new_meters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO meter_due (meter_id) SELECT id FROM made ORDER BY id ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$""")
    op.execute("""
CREATE TRIGGER meters_are_due AFTER INSERT ON meters REFERENCING NEW TABLE AS made
FOR EACH STATEMENT EXECUTE FUNCTION mark_new_meters()""")
    op.execute("INSERT INTO meter_due (meter_id) SELECT id FROM meters")
