"""the first tables

Revision: 0001, after: nothing

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = '0001'
down_revision = None
branch_labels = None
depends_on = None

# Entries of one transaction sum to zero per currency, and there are at least two. Deferred to the commit, because the
# entries come one after the other.
_ZERO_SUM = """
CREATE FUNCTION ledger_zero_sum() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    checked text := CASE TG_TABLE_NAME WHEN 'ledger_entries' THEN to_jsonb(NEW) ->> 'transaction_id'
                                       ELSE to_jsonb(NEW) ->> 'id' END;
BEGIN
    IF (SELECT count(*) FROM ledger_entries WHERE transaction_id = checked) < 2 THEN
        RAISE EXCEPTION 'ledger transaction % has fewer than two entries', checked USING ERRCODE = 'check_violation';
    END IF;
    IF EXISTS (SELECT 1 FROM ledger_entries WHERE transaction_id = checked
               GROUP BY currency HAVING sum(amount_minor) <> 0) THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to zero', checked USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$
"""

# A posted transaction is closed: no later database transaction adds entries to it. A guarded account's entry must
# carry the account's own version and balance, so that wallet = sum of entries cannot come apart.
_CLOSED = """
CREATE FUNCTION ledger_entry_guard() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opened bigint;
    account ledger_accounts%ROWTYPE;
    previous bigint;
BEGIN
    SELECT db_xid INTO opened FROM ledger_transactions WHERE id = NEW.transaction_id;
    IF opened IS DISTINCT FROM pg_current_xact_id()::text::bigint THEN
        RAISE EXCEPTION 'ledger transaction % is closed', NEW.transaction_id USING ERRCODE = 'check_violation';
    END IF;
    SELECT * INTO account FROM ledger_accounts WHERE id = NEW.account_id;
    IF account.guarded IS DISTINCT FROM (NEW.account_version IS NOT NULL) THEN
        RAISE EXCEPTION 'entry does not fit the kind of account %', NEW.account_id USING ERRCODE = 'check_violation';
    END IF;
    IF account.guarded THEN
        SELECT balance_after_minor INTO previous FROM ledger_entries
        WHERE account_id = NEW.account_id AND account_version = NEW.account_version - 1;
        IF (NEW.account_version > 1 AND previous IS NULL)
           OR coalesce(previous, 0) + NEW.amount_minor <> NEW.balance_after_minor THEN
            RAISE EXCEPTION 'entry % of account % does not follow the one before it', NEW.account_version,
                NEW.account_id USING ERRCODE = 'check_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$
"""

_IMMUTABLE = """
CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only: % on % refused; post a reversal', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'check_violation';
END $$
"""

# A guarded account's row and its last entry must agree when the transaction ends.
_ACCOUNT_AGREES = """
CREATE FUNCTION ledger_account_agrees() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account ledger_accounts%ROWTYPE;
BEGIN
    SELECT * INTO account FROM ledger_accounts WHERE id = NEW.id;
    IF account.guarded AND account.version > 0 AND NOT EXISTS (
        SELECT 1 FROM ledger_entries WHERE account_id = account.id AND account_version = account.version
        AND balance_after_minor = account.balance_minor) THEN
        RAISE EXCEPTION 'account % disagrees with its entries', account.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$
"""

_TRIGGERS = (
    """CREATE CONSTRAINT TRIGGER ledger_entries_zero_sum AFTER INSERT ON ledger_entries
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_zero_sum()""",
    """CREATE CONSTRAINT TRIGGER ledger_transactions_zero_sum AFTER INSERT ON ledger_transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_zero_sum()""",
    """CREATE CONSTRAINT TRIGGER ledger_accounts_agree AFTER UPDATE ON ledger_accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_account_agrees()""",
    """CREATE TRIGGER ledger_entries_guard BEFORE INSERT ON ledger_entries
    FOR EACH ROW EXECUTE FUNCTION ledger_entry_guard()""",
    """CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_transactions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_accounts_no_delete BEFORE DELETE OR TRUNCATE ON ledger_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
)


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('customers',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('phone', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('language', sa.Text(), server_default='en', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_customers')),
    sa.UniqueConstraint('phone', name=op.f('uq_customers_phone'))
    )
    op.create_table('ledger_accounts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('owner_id', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('guarded', sa.Boolean(), nullable=False),
    sa.Column('floor_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('balance_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='0', nullable=False),
    sa.CheckConstraint('guarded OR (balance_minor = 0 AND version = 0)', name=op.f('ck_ledger_accounts_open_keeps_no_balance')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_accounts')),
    sa.UniqueConstraint('id', 'currency', name=op.f('uq_ledger_accounts_id_currency')),
    sa.UniqueConstraint('kind', 'owner_id', 'currency', name=op.f('uq_ledger_accounts_kind_owner_id_currency'))
    )
    op.create_table('ledger_transactions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('reverses_id', sa.Text(), nullable=True),
    sa.Column('occurred_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('posted_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('db_xid', sa.BigInteger(), server_default=sa.text('(pg_current_xact_id()::text::bigint)'), nullable=False),
    sa.ForeignKeyConstraint(['reverses_id'], ['ledger_transactions.id'], name=op.f('fk_ledger_transactions_reverses_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_transactions')),
    sa.UniqueConstraint('key', name=op.f('uq_ledger_transactions_key')),
    sa.UniqueConstraint('reverses_id', name=op.f('uq_ledger_transactions_reverses_id'))
    )
    op.create_table('outbox_facts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('payload', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_outbox_facts'))
    )
    op.create_index('ix_outbox_facts_due', 'outbox_facts', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('provider_events',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('event_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('provider_ref', sa.Text(), nullable=True),
    sa.Column('reference', sa.Text(), nullable=True),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.Column('outcome', sa.Text(), nullable=True),
    sa.Column('received_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_provider_events')),
    sa.UniqueConstraint('provider', 'event_id', name=op.f('uq_provider_events_provider_event_id'))
    )
    op.create_index('ix_provider_events_due', 'provider_events', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('sign_in_codes',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('phone', sa.Text(), nullable=False),
    sa.Column('code_hash', sa.Text(), nullable=False),
    sa.Column('tries', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sign_in_codes'))
    )
    op.create_index('ix_sign_in_codes_phone', 'sign_in_codes', ['phone', 'created_at'], unique=False)
    op.create_table('utilities',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_utilities'))
    )
    op.create_table('devices',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('installation_id', sa.Text(), nullable=False),
    sa.Column('platform', sa.Text(), nullable=False),
    sa.Column('fcm_token', sa.Text(), nullable=True),
    sa.Column('fcm_fid', sa.Text(), nullable=True),
    sa.Column('language', sa.Text(), nullable=False),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.Column('app_version', sa.Text(), nullable=False),
    sa.Column('healthy', sa.Boolean(), server_default='true', nullable=False),
    sa.Column('last_seen_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_devices_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_devices')),
    sa.UniqueConstraint('customer_id', 'installation_id', name=op.f('uq_devices_customer_id_installation_id')),
    sa.UniqueConstraint('fcm_fid', name=op.f('uq_devices_fcm_fid')),
    sa.UniqueConstraint('fcm_token', name=op.f('uq_devices_fcm_token'))
    )
    op.create_table('households',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_households_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_households'))
    )
    op.create_table('ledger_entries',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('transaction_id', sa.Text(), nullable=False),
    sa.Column('account_id', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('account_version', sa.BigInteger(), nullable=True),
    sa.Column('balance_after_minor', sa.BigInteger(), nullable=True),
    sa.Column('floor_minor', sa.BigInteger(), nullable=True),
    sa.CheckConstraint('(account_version IS NULL) = (balance_after_minor IS NULL)', name=op.f('ck_ledger_entries_guarded_is_whole')),
    sa.CheckConstraint('amount_minor <> 0', name=op.f('ck_ledger_entries_amount_not_zero')),
    sa.CheckConstraint('floor_minor IS NULL OR amount_minor > 0 OR balance_after_minor >= floor_minor', name=op.f('ck_ledger_entries_floor_holds')),
    sa.ForeignKeyConstraint(['account_id', 'currency'], ['ledger_accounts.id', 'ledger_accounts.currency'], name=op.f('fk_ledger_entries_account_id_currency')),
    sa.ForeignKeyConstraint(['transaction_id'], ['ledger_transactions.id'], name=op.f('fk_ledger_entries_transaction_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_ledger_entries')),
    sa.UniqueConstraint('account_id', 'account_version', name=op.f('uq_ledger_entries_account_id_account_version'))
    )
    op.create_index('ix_ledger_entries_transaction_id', 'ledger_entries', ['transaction_id'], unique=False)
    op.create_table('tariffs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('basis', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_tariffs_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_tariffs')),
    sa.UniqueConstraint('utility_id', 'code', name=op.f('uq_tariffs_utility_id_code'))
    )
    op.create_table('memberships',
    sa.Column('household_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_memberships_customer_id')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_memberships_household_id')),
    sa.PrimaryKeyConstraint('household_id', 'customer_id', name=op.f('pk_memberships'))
    )
    op.create_index('ix_memberships_customer_id', 'memberships', ['customer_id'], unique=False)
    op.create_table('meters',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('serial', sa.Text(), nullable=False),
    sa.Column('label', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=True),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('wallet_kind', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.Column('initial_register_ml', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('installed_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('credit_granted_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_sequence', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('low_credit_threshold_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.CheckConstraint('credit_granted_minor >= 0', name=op.f('ck_meters_granted_not_negative')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_meters_household_id')),
    sa.ForeignKeyConstraint(['tariff_id'], ['tariffs.id'], name=op.f('fk_meters_tariff_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_meters_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_meters')),
    sa.UniqueConstraint('serial', name=op.f('uq_meters_serial'))
    )
    op.create_index(op.f('ix_meters_household_id'), 'meters', ['household_id'], unique=False)
    op.create_table('tariff_versions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('effective_from', sa.Date(), nullable=False),
    sa.Column('blocks', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.ForeignKeyConstraint(['tariff_id'], ['tariffs.id'], name=op.f('fk_tariff_versions_tariff_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_tariff_versions')),
    sa.UniqueConstraint('tariff_id', 'effective_from', name=op.f('uq_tariff_versions_tariff_id_effective_from'))
    )
    op.create_table('alert_states',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('level', sa.BigInteger(), nullable=True),
    sa.Column('crossings', sa.BigInteger(), server_default='0', nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_alert_states_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'kind', name=op.f('pk_alert_states'))
    )
    op.create_table('alerts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('business_key', sa.Text(), nullable=False),
    sa.Column('params', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('raised_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('cleared_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('read_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_alerts_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_alerts')),
    sa.UniqueConstraint('business_key', name=op.f('uq_alerts_business_key'))
    )
    op.create_index('ix_alerts_meter_id', 'alerts', ['meter_id', 'id'], unique=False)
    op.create_table('credit_grants',
    sa.Column('credit_key', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('source_id', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('total_after_minor', sa.BigInteger(), nullable=False),
    sa.Column('granted_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('sent_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('confirmed_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_credit_grants_amount_positive')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_credit_grants_meter_id')),
    sa.PrimaryKeyConstraint('credit_key', name=op.f('pk_credit_grants')),
    sa.UniqueConstraint('meter_id', 'total_after_minor', name=op.f('uq_credit_grants_meter_id_total_after_minor'))
    )
    op.create_index('ix_credit_grants_source_id', 'credit_grants', ['source_id'], unique=False)
    op.create_table('daily_usage',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('register_end_ml', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_daily_usage_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'day', name=op.f('pk_daily_usage'))
    )
    op.create_table('meter_commands',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('deadline_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('sent_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('acknowledged_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('confirmed_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_commands_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_meter_commands')),
    sa.UniqueConstraint('meter_id', 'sequence', name=op.f('uq_meter_commands_meter_id_sequence'))
    )
    op.create_index('ix_meter_commands_open', 'meter_commands', ['meter_id', 'sequence'], unique=False, postgresql_where=sa.text("status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')"))
    op.create_table('meter_credentials',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('transport_identity', sa.Text(), nullable=False),
    sa.Column('sealed_prepaid_key', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_credentials_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_credentials')),
    sa.UniqueConstraint('transport_identity', name=op.f('uq_meter_credentials_transport_identity'))
    )
    op.create_table('meter_registrations',
    sa.Column('location', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('remote', sa.Text(), nullable=False),
    sa.Column('queue_mode', sa.Boolean(), nullable=False),
    sa.Column('lifetime_s', sa.BigInteger(), nullable=False),
    sa.Column('objects', sa.Text(), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('awake_until', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_registrations_meter_id')),
    sa.PrimaryKeyConstraint('location', name=op.f('pk_meter_registrations')),
    sa.UniqueConstraint('meter_id', name=op.f('uq_meter_registrations_meter_id'))
    )
    op.create_index(op.f('ix_meter_registrations_remote'), 'meter_registrations', ['remote'], unique=False)
    op.create_table('meter_states',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('last_seen_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('battery_percent', sa.BigInteger(), nullable=True),
    sa.Column('report_counter', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_sequence', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('credit_accepted_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('credit_remaining_minor', sa.BigInteger(), nullable=True),
    sa.Column('stated_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('valve', sa.Text(), server_default='UNKNOWN', nullable=False),
    sa.Column('valve_reason', sa.Text(), server_default='UNKNOWN', nullable=False),
    sa.Column('valve_changed_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_states_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_states'))
    )
    op.create_table('period_charges',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('tariff_version_id', sa.Text(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_period_charges_meter_id')),
    sa.ForeignKeyConstraint(['tariff_version_id'], ['tariff_versions.id'], name=op.f('fk_period_charges_tariff_version_id')),
    sa.PrimaryKeyConstraint('meter_id', 'period_start', name=op.f('pk_period_charges'))
    )
    op.create_table('readings',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('read_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('register_ml', sa.BigInteger(), nullable=False),
    sa.Column('quality', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_readings_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'read_at', name=op.f('pk_readings'))
    )
    op.create_table('top_ups',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('provider', sa.Text(), nullable=False),
    sa.Column('provider_ref', sa.Text(), nullable=True),
    sa.Column('pay_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('idempotency_key', sa.Text(), nullable=False),
    sa.Column('request_hash', sa.Text(), nullable=False),
    sa.Column('return_url', sa.Text(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('failure_code', sa.Text(), nullable=True),
    sa.Column('failure_message', sa.Text(), nullable=True),
    sa.Column('next_action', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('captured_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('refunded_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('suspense_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('asked_real_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('started_real_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('pay_minor > 0', name=op.f('ck_top_ups_pay_positive')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_top_ups_customer_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_top_ups_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_top_ups')),
    sa.UniqueConstraint('customer_id', 'idempotency_key', name=op.f('uq_top_ups_customer_id_idempotency_key')),
    sa.UniqueConstraint('provider', 'provider_ref', name=op.f('uq_top_ups_provider_provider_ref'))
    )
    op.create_index('ix_top_ups_due', 'top_ups', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_top_ups_meter_id', 'top_ups', ['meter_id', 'id'], unique=False)
    op.create_table('deliveries',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('alert_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('device_id', sa.Text(), nullable=True),
    sa.Column('channel', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('provider_message_id', sa.Text(), nullable=True),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_deliveries_alert_id')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_deliveries_customer_id')),
    sa.ForeignKeyConstraint(['device_id'], ['devices.id'], name=op.f('fk_deliveries_device_id'), ondelete='SET NULL'),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_deliveries')),
    sa.UniqueConstraint('alert_id', 'customer_id', 'device_id', 'channel', name=op.f('uq_deliveries_alert_id_customer_id_device_id_channel'), postgresql_nulls_not_distinct=True)
    )
    op.create_index('ix_deliveries_due', 'deliveries', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('top_up_events',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('top_up_id', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_top_up_events_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_top_up_events'))
    )
    op.create_index('ix_top_up_events_top_up_id', 'top_up_events', ['top_up_id', 'id'], unique=False)
    op.execute(_ZERO_SUM)
    op.execute(_CLOSED)
    op.execute(_IMMUTABLE)
    op.execute(_ACCOUNT_AGREES)
    for statement in _TRIGGERS:
        op.execute(statement)
