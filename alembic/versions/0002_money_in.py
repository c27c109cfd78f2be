"""money in

Revision: 0002, after: 0001

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

# The serial as a payer may type it: standpipe.meters.access.account_number_of does the same.
_ACCOUNT_NUMBER = "ltrim(upper(regexp_replace(serial, '[^A-Za-z0-9]', '', 'g')), '0')"

_IMMUTABLE = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on % refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'check_violation';
END $$
"""

_TRIGGER = """CREATE TRIGGER operator_actions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()"""


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('operator_actions',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('operator', sa.Text(), nullable=False),
    sa.Column('action', sa.Text(), nullable=False),
    sa.Column('subject_id', sa.Text(), nullable=False),
    sa.Column('detail', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operator_actions'))
    )
    op.create_index('ix_operator_actions_subject_id', 'operator_actions', ['subject_id'], unique=False)
    op.create_table('operators',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('key_hash', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operators')),
    sa.UniqueConstraint('key_hash', name=op.f('uq_operators_key_hash')),
    sa.UniqueConstraint('name', name=op.f('uq_operators_name'))
    )
    op.create_table('provider_answers',
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('conversation_id', sa.Text(), nullable=False),
    sa.Column('topic', sa.Text(), nullable=False),
    sa.Column('asked_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('answered_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('body', sa.LargeBinary(), nullable=True),
    sa.PrimaryKeyConstraint('provider', 'conversation_id', name=op.f('pk_provider_answers'))
    )
    op.create_index('ix_provider_answers_topic', 'provider_answers', ['provider', 'topic', 'asked_at'], unique=False)
    op.create_table('settlement_marks',
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('what', sa.Text(), nullable=False),
    sa.Column('read_until', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('provider', 'what', name=op.f('pk_settlement_marks'))
    )
    op.create_table('agents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('key_hash', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('disabled_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_agents_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_agents')),
    sa.UniqueConstraint('key_hash', name=op.f('uq_agents_key_hash'))
    )
    op.create_table('card_setups',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('setup_ref', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('done_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_card_setups_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_card_setups')),
    sa.UniqueConstraint('provider', 'setup_ref', name=op.f('uq_card_setups_provider_setup_ref'))
    )
    op.create_table('payment_customers',
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('provider_ref', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_payment_customers_customer_id')),
    sa.PrimaryKeyConstraint('customer_id', 'provider', name=op.f('pk_payment_customers')),
    sa.UniqueConstraint('provider', 'provider_ref', name=op.f('uq_payment_customers_provider_provider_ref'))
    )
    op.create_table('receipt_counters',
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('last_number', sa.BigInteger(), server_default='0', nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_receipt_counters_utility_id')),
    sa.PrimaryKeyConstraint('utility_id', name=op.f('pk_receipt_counters'))
    )
    op.create_table('request_keys',
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('mutation', sa.Text(), nullable=False),
    sa.Column('request_hash', sa.Text(), nullable=False),
    sa.Column('result', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_request_keys_customer_id')),
    sa.PrimaryKeyConstraint('customer_id', 'key', name=op.f('pk_request_keys'))
    )
    op.create_table('saved_methods',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('provider_ref', sa.Text(), nullable=False),
    sa.Column('brand', sa.Text(), nullable=False),
    sa.Column('last4', sa.Text(), nullable=False),
    sa.Column('expires', sa.Text(), nullable=True),
    sa.Column('usable', sa.Boolean(), server_default='true', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_saved_methods_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_saved_methods')),
    sa.UniqueConstraint('provider', 'provider_ref', name=op.f('uq_saved_methods_provider_provider_ref'))
    )
    op.create_index('ix_saved_methods_customer_id', 'saved_methods', ['customer_id'], unique=False)
    op.create_table('voucher_batches',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('value_minor', sa.BigInteger(), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('made_by', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('value_minor > 0', name=op.f('ck_voucher_batches_value_positive')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_voucher_batches_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_voucher_batches'))
    )
    op.create_table('voucher_tries',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_voucher_tries_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_voucher_tries'))
    )
    op.create_index('ix_voucher_tries_customer_id', 'voucher_tries', ['customer_id', 'at'], unique=False)
    op.create_table('auto_top_ups',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('saved_method_id', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('threshold_days', sa.BigInteger(), nullable=False),
    sa.Column('mode', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('daily_cap_minor', sa.BigInteger(), nullable=False),
    sa.Column('enabled', sa.Boolean(), server_default='true', nullable=False),
    sa.Column('paused_reason', sa.Text(), nullable=True),
    sa.Column('failures', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('awaiting_top_up_id', sa.Text(), nullable=True),
    sa.Column('not_before', sa.DateTime(timezone=True), nullable=True),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_auto_top_ups_amount_positive')),
    sa.CheckConstraint('daily_cap_minor >= amount_minor', name=op.f('ck_auto_top_ups_cap_covers_one')),
    sa.CheckConstraint('threshold_days BETWEEN 1 AND 30', name=op.f('ck_auto_top_ups_threshold_in_reason')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_auto_top_ups_customer_id')),
    sa.ForeignKeyConstraint(['awaiting_top_up_id'], ['top_ups.id'], name=op.f('fk_auto_top_ups_awaiting_top_up_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_auto_top_ups_meter_id')),
    sa.ForeignKeyConstraint(['saved_method_id'], ['saved_methods.id'], name=op.f('fk_auto_top_ups_saved_method_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_auto_top_ups')),
    sa.UniqueConstraint('meter_id', name=op.f('uq_auto_top_ups_meter_id'))
    )
    op.create_table('receipts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('top_up_id', sa.Text(), nullable=False),
    sa.Column('source_key', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('paid_minor', sa.BigInteger(), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_receipts_top_up_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_receipts_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_receipts')),
    sa.UniqueConstraint('source_key', name=op.f('uq_receipts_source_key')),
    sa.UniqueConstraint('utility_id', 'number', name=op.f('uq_receipts_utility_id_number'))
    )
    op.create_index('ix_receipts_top_up_id', 'receipts', ['top_up_id'], unique=False)
    op.create_table('refunds',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('top_up_id', sa.Text(), nullable=False),
    sa.Column('request_key', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('requested_by', sa.Text(), nullable=False),
    sa.Column('approved_by', sa.Text(), nullable=True),
    sa.Column('provider_ref', sa.Text(), nullable=True),
    sa.Column('failure_code', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_refunds_amount_positive')),
    sa.CheckConstraint('approved_by <> requested_by', name=op.f('ck_refunds_two_persons')),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_refunds_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refunds')),
    sa.UniqueConstraint('top_up_id', 'request_key', name=op.f('uq_refunds_top_up_id_request_key'))
    )
    op.create_index('ix_refunds_due', 'refunds', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_refunds_top_up_id', 'refunds', ['top_up_id'], unique=False)
    op.create_table('settlement_entries',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('external_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('payment_ref', sa.Text(), nullable=True),
    sa.Column('payout_ref', sa.Text(), nullable=True),
    sa.Column('top_up_id', sa.Text(), nullable=True),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('gross_minor', sa.BigInteger(), nullable=False),
    sa.Column('fee_minor', sa.BigInteger(), nullable=False),
    sa.Column('occurred_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('imported_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_settlement_entries_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_settlement_entries')),
    sa.UniqueConstraint('provider', 'external_id', name=op.f('uq_settlement_entries_provider_external_id'))
    )
    op.create_index('ix_settlement_entries_state', 'settlement_entries', ['provider', 'state'], unique=False)
    op.create_index('ix_settlement_entries_top_up_id', 'settlement_entries', ['top_up_id'], unique=False, postgresql_where=sa.text('top_up_id IS NOT NULL'))
    op.create_table('suspense_items',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('provider_ref', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('account_reference', sa.Text(), nullable=True),
    sa.Column('payer', sa.Text(), nullable=True),
    sa.Column('top_up_id', sa.Text(), nullable=True),
    sa.Column('status', sa.Text(), server_default='OPEN', nullable=False),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('resolved_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_suspense_items_amount_positive')),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_suspense_items_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_suspense_items')),
    sa.UniqueConstraint('key', name=op.f('uq_suspense_items_key'))
    )
    op.create_index('ix_suspense_items_status', 'suspense_items', ['status', 'opened_at'], unique=False)
    op.create_table('vouchers',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('batch_id', sa.Text(), nullable=False),
    sa.Column('code_hash', sa.Text(), nullable=False),
    sa.Column('redeemed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('top_up_id', sa.Text(), nullable=True),
    sa.Column('blocked_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['batch_id'], ['voucher_batches.id'], name=op.f('fk_vouchers_batch_id')),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_vouchers_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_vouchers')),
    sa.UniqueConstraint('code_hash', name=op.f('uq_vouchers_code_hash')),
    sa.UniqueConstraint('top_up_id', name=op.f('uq_vouchers_top_up_id'))
    )
    op.create_index('ix_vouchers_batch_id', 'vouchers', ['batch_id'], unique=False)
    op.add_column('credit_grants', sa.Column('revoked_minor', sa.BigInteger(), server_default='0', nullable=False))
    # A step that was taken back whole shares its total with the step before it. The meter's row lock, under which every
    # step is made, keeps totals in order.
    op.drop_constraint(op.f('uq_credit_grants_meter_id_total_after_minor'), 'credit_grants', type_='unique')
    op.create_index('ix_credit_grants_meter_id', 'credit_grants', ['meter_id', 'total_after_minor'], unique=False)
    op.add_column('meters', sa.Column('account_number', sa.Text(), sa.Computed(_ACCOUNT_NUMBER, persisted=True)))
    op.add_column('meters', sa.Column('closed_at', sa.DateTime(timezone=True), nullable=True))
    op.create_index('ix_meters_account_number', 'meters', ['account_number'], unique=False)
    op.add_column('provider_events', sa.Column('subject', sa.Text(), server_default='PAYMENT', nullable=False))
    op.add_column('provider_events', sa.Column('answer_to', sa.Text(), nullable=True))
    op.add_column('provider_events', sa.Column('receipt_ref', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('origin', sa.Text(), server_default='CUSTOMER', nullable=False))
    op.add_column('top_ups', sa.Column('method_id', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('phone', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('account_reference', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('alias_ref', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('receipt_ref', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('funder_id', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('intention_id', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('saved_method_id', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('payer_ref', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('fee_agreed_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('debt_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('fee_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('disputed_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('dispute_fee_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('dispute', sa.Text(), nullable=True))
    op.add_column('top_ups', sa.Column('held_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('taken_back_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.add_column('top_ups', sa.Column('owed_minor', sa.BigInteger(), server_default='0', nullable=False))
    op.alter_column('top_ups', 'customer_id',
               existing_type=sa.TEXT(),
               nullable=True)
    op.create_index('ix_top_ups_dispute', 'top_ups', ['meter_id'], unique=False, postgresql_where=sa.text('dispute IS NOT NULL'))
    op.create_index('ix_top_ups_intention_id', 'top_ups', ['intention_id'], unique=False, postgresql_where=sa.text('intention_id IS NOT NULL'))
    op.create_unique_constraint(op.f('uq_top_ups_account_reference'), 'top_ups', ['account_reference'])
    op.create_unique_constraint(op.f('uq_top_ups_provider_alias_ref'), 'top_ups', ['provider', 'alias_ref'])
    op.create_unique_constraint(op.f('uq_top_ups_provider_receipt_ref'), 'top_ups', ['provider', 'receipt_ref'])
    op.create_foreign_key(op.f('fk_top_ups_saved_method_id'), 'top_ups', 'saved_methods', ['saved_method_id'], ['id'])
    op.create_foreign_key(op.f('fk_top_ups_intention_id'), 'top_ups', 'top_ups', ['intention_id'], ['id'])
    op.add_column('utilities', sa.Column('debt_share_percent', sa.BigInteger(), server_default='25', nullable=False))
    op.create_check_constraint(op.f('ck_utilities_debt_share_is_percent'), 'utilities', 'debt_share_percent BETWEEN 0 AND 100')
    op.execute(_IMMUTABLE)
    op.execute(_TRIGGER)

