"""keypads of meters, and the tokens issued for them; guarantees to be reckoned anew

Revision: 0008, after: 0007

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0008'
down_revision = '0007'
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('meter_keypads',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('pan', sa.Text(), nullable=False),
    sa.Column('supply_group', sa.Text(), nullable=False),
    sa.Column('tariff_index', sa.Text(), nullable=False),
    sa.Column('key_revision', sa.BigInteger(), nullable=False),
    sa.Column('key_type', sa.BigInteger(), nullable=False),
    sa.Column('key_expiry', sa.BigInteger(), nullable=False),
    sa.Column('base_year', sa.BigInteger(), nullable=False),
    sa.Column('next_key_revision', sa.BigInteger(), nullable=True),
    sa.Column('last_tid', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('enrolled_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('last_tid BETWEEN 0 AND 16777215', name=op.f('ck_meter_keypads_tid_fits')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_keypads_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_keypads')),
    sa.UniqueConstraint('pan', name=op.f('uq_meter_keypads_pan'))
    )
    op.create_table('keypad_tokens',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('purpose', sa.Text(), nullable=False),
    sa.Column('credit_key', sa.Text(), nullable=True),
    sa.Column('tid', sa.BigInteger(), nullable=True),
    sa.Column('volume_ml', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('terms', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('new_terms', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('digits', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('requested_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('operator', sa.Text(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['credit_key'], ['credit_grants.credit_key'], name=op.f('fk_keypad_tokens_credit_key')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_keypad_tokens_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_keypad_tokens')),
    sa.UniqueConstraint('credit_key', name=op.f('uq_keypad_tokens_credit_key')),
    sa.UniqueConstraint('meter_id', 'tid', name=op.f('uq_keypad_tokens_meter_id_tid'))
    )
    op.create_index('ix_keypad_tokens_due', 'keypad_tokens', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.add_column('credit_grants', sa.Column('tid', sa.BigInteger(), nullable=True))
    op.add_column('credit_grants', sa.Column('offered_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('credit_grants', sa.Column('token_issued_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('credit_grants', sa.Column('typed_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index('ix_credit_grants_to_offer', 'credit_grants', ['granted_at'], unique=False, postgresql_where=sa.text('tid IS NOT NULL AND confirmed_at IS NULL AND offered_at IS NULL'))
    op.add_column('meter_commands', sa.Column('tid_mark', sa.BigInteger(), nullable=True))
    op.add_column('meters', sa.Column('guarantee_is_stale', sa.Boolean(), server_default='false', nullable=False))
    op.create_index('ix_meters_guarantee_is_stale', 'meters', ['utility_id'], unique=False, postgresql_where=sa.text('guarantee_is_stale'))
    op.add_column('meter_states', sa.Column('volume_typed_ml', sa.BigInteger(), server_default='0', nullable=False))
