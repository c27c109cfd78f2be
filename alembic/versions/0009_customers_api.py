"""the customers' API: sessions, claims, invites, operators' sign-in, preferences, trusted documents

Revision: 0009, after: 0008

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0009'
down_revision = '0008'
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('attempts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_attempts'))
    )
    op.create_index('ix_attempts_at', 'attempts', ['at'], unique=False)
    op.create_index('ix_attempts_kind', 'attempts', ['kind', 'key', 'at'], unique=False)
    op.create_table('trusted_documents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('client', sa.Text(), server_default='', nullable=False),
    sa.Column('added_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("id ~ '^[0-9a-f]{64}$'", name=op.f('ck_trusted_documents_id_is_sha256')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_trusted_documents'))
    )
    op.create_table('customer_identities',
    sa.Column('issuer', sa.Text(), nullable=False),
    sa.Column('subject', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_customer_identities_customer_id')),
    sa.PrimaryKeyConstraint('issuer', 'subject', name=op.f('pk_customer_identities'))
    )
    op.create_index('ix_customer_identities_customer_id', 'customer_identities', ['customer_id'], unique=False)
    op.create_table('customer_sessions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('label', sa.Text(), server_default='', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('last_used_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_reason', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_customer_sessions_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_customer_sessions'))
    )
    op.create_index('ix_customer_sessions_customer_id', 'customer_sessions', ['customer_id'], unique=False)
    op.create_table('notification_preferences',
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('days_left', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('channels', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('quiet_from', sa.Text(), nullable=True),
    sa.Column('quiet_to', sa.Text(), nullable=True),
    sa.Column('weekly_digest', sa.Boolean(), server_default='false', nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_notification_preferences_customer_id')),
    sa.PrimaryKeyConstraint('customer_id', name=op.f('pk_notification_preferences'))
    )
    op.create_table('operator_sessions',
    sa.Column('token_hash', sa.Text(), nullable=False),
    sa.Column('operator_id', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['operator_id'], ['operators.id'], name=op.f('fk_operator_sessions_operator_id')),
    sa.PrimaryKeyConstraint('token_hash', name=op.f('pk_operator_sessions'))
    )
    op.create_index('ix_operator_sessions_operator_id', 'operator_sessions', ['operator_id'], unique=False)
    op.create_table('invites',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=False),
    sa.Column('phone', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('invited_by', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('accepted_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('accepted_by', sa.Text(), nullable=True),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_reason', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['accepted_by'], ['customers.id'], name=op.f('fk_invites_accepted_by')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_invites_household_id')),
    sa.ForeignKeyConstraint(['invited_by'], ['customers.id'], name=op.f('fk_invites_invited_by')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_invites'))
    )
    op.create_index('ix_invites_phone', 'invites', ['phone'], unique=False)
    op.create_index('uq_invites_open', 'invites', ['household_id', 'phone'], unique=True, postgresql_where=sa.text('accepted_at IS NULL AND ended_at IS NULL'))
    op.create_table('refresh_tokens',
    sa.Column('token_hash', sa.Text(), nullable=False),
    sa.Column('session_id', sa.Text(), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['session_id'], ['customer_sessions.id'], name=op.f('fk_refresh_tokens_session_id'), ondelete='CASCADE'),
    sa.PrimaryKeyConstraint('token_hash', name=op.f('pk_refresh_tokens'))
    )
    op.create_index('ix_refresh_tokens_session_id', 'refresh_tokens', ['session_id'], unique=False)
    op.create_table('claim_codes',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('code_hash', sa.Text(), nullable=False),
    sa.Column('issued_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('used_by', sa.Text(), nullable=True),
    sa.Column('revoked_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_claim_codes_meter_id')),
    sa.ForeignKeyConstraint(['used_by'], ['customers.id'], name=op.f('fk_claim_codes_used_by')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_claim_codes')),
    sa.UniqueConstraint('code_hash', name=op.f('uq_claim_codes_code_hash'))
    )
    op.create_index('ix_claim_codes_meter_id', 'claim_codes', ['meter_id'], unique=False)
    op.create_table('alert_reads',
    sa.Column('alert_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('read_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_alert_reads_alert_id')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_alert_reads_customer_id')),
    sa.PrimaryKeyConstraint('alert_id', 'customer_id', name=op.f('pk_alert_reads'))
    )
    op.add_column('customers', sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('devices', sa.Column('label', sa.Text(), server_default='', nullable=False))
    op.add_column('memberships', sa.Column('id', sa.Text(), server_default=sa.text("'mem_' || left(replace(gen_random_uuid()::text, '-', ''), 26)"), nullable=False))
    op.add_column('memberships', sa.Column('joined_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False))
    op.create_unique_constraint(op.f('uq_memberships_id'), 'memberships', ['id'])
    op.add_column('operators', sa.Column('role', sa.Text(), server_default='ADMIN', nullable=False))
    op.add_column('operators', sa.Column('password_hash', sa.Text(), nullable=True))
    op.add_column('operators', sa.Column('totp_sealed', sa.Text(), nullable=True))
    op.add_column('operators', sa.Column('totp_step', sa.BigInteger(), nullable=True))
    op.add_column('operators', sa.Column('totp_confirmed_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('sign_in_codes', sa.Column('address', sa.Text(), nullable=True))
    op.create_index('ix_sign_in_codes_created_at', 'sign_in_codes', ['created_at'], unique=False)
    op.create_index('uq_top_ups_guest', 'top_ups', ['idempotency_key'], unique=True, postgresql_where=sa.text("origin = 'GUEST'"))
