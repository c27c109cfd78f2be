"""meter keys, registrations in more detail, what meters complain of

Revision: 0006, after: 0005

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('meter_dtls_keys',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('sealed_key', sa.Text(), nullable=True),
    sa.Column('sealed_next_key', sa.Text(), nullable=True),
    sa.Column('next_generation', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('next_written_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('sealed_bootstrap_key', sa.Text(), nullable=True),
    sa.Column('bootstrapped_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meter_credentials.meter_id'], name=op.f('fk_meter_dtls_keys_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_dtls_keys'))
    )
    op.create_table('meter_conditions',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('is_raised', sa.Boolean(), nullable=False),
    sa.Column('told_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('raised_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('cleared_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_conditions_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'kind', name=op.f('pk_meter_conditions'))
    )
    op.create_table('meter_measures',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.Column('told_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_measures_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'kind', name=op.f('pk_meter_measures'))
    )
    op.create_index('ix_meter_conditions_raised', 'meter_conditions', ['kind', 'raised_at'], unique=False, postgresql_where=sa.text("is_raised"))
    op.add_column('meter_registrations', sa.Column('lwm2m', sa.Text(), server_default='1.0', nullable=False))
    op.add_column('meter_registrations', sa.Column('sends', sa.Boolean(), server_default='false', nullable=False))
    op.add_column('meter_registrations', sa.Column('updates', sa.BigInteger(), server_default='0', nullable=False))
