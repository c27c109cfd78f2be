"""The tables of the first release, and the judges that live in the database.

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

_ENTRIES_HOLD = """
CREATE FUNCTION ledger_entries_hold() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong text;
BEGIN
    -- A posted transaction is closed: no later database transaction adds entries to it.
    SELECT f.transaction_id INTO wrong FROM fresh f LEFT JOIN ledger_transactions t ON t.id = f.transaction_id
    WHERE t.db_xid IS DISTINCT FROM pg_current_xact_id()::text::bigint LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % is closed', wrong USING ERRCODE = 'check_violation';
    END IF;

    SELECT e.transaction_id INTO wrong FROM ledger_entries e
    WHERE e.transaction_id IN (SELECT transaction_id FROM fresh)
    GROUP BY e.transaction_id, e.currency HAVING sum(e.amount_minor) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'ledger transaction % does not sum to zero', wrong USING ERRCODE = 'check_violation';
    END IF;

    -- A guarded account numbers its entries without a gap, each with the balance after it.
    SELECT f.account_id INTO wrong FROM fresh f JOIN ledger_accounts a ON a.id = f.account_id
    LEFT JOIN ledger_entries p ON p.account_id = f.account_id AND p.account_version = f.account_version - 1
    WHERE a.guarded IS DISTINCT FROM (f.account_version IS NOT NULL)
       OR (a.guarded AND (f.account_version < 1 OR (f.account_version > 1 AND p.id IS NULL)
                          OR coalesce(p.balance_after_minor, 0) + f.amount_minor <> f.balance_after_minor)) LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'an entry of account % does not follow the one before it', wrong
            USING ERRCODE = 'check_violation';
    END IF;

    -- And stands where the last of them says, so that wallet = sum of entries cannot come apart.
    SELECT a.id INTO wrong FROM ledger_accounts a JOIN (
        SELECT DISTINCT ON (account_id) account_id, account_version, balance_after_minor FROM fresh
        WHERE account_version IS NOT NULL ORDER BY account_id, account_version DESC) l ON l.account_id = a.id
    WHERE a.version <> l.account_version OR a.balance_minor <> l.balance_after_minor LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'account % disagrees with its entries', wrong USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$
"""

# Whatever adds entries leaves their transactions in balance: to have any is to have two.
_TRANSACTION_HOLDS = """
CREATE FUNCTION ledger_transaction_holds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM ledger_entries WHERE transaction_id = NEW.id) THEN
        RAISE EXCEPTION 'ledger transaction % has no entries', NEW.id USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$
"""

_LEDGER_STANDS = """
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

_AUDIT_STANDS = """
CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only: % on % refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'check_violation';
END $$
"""

_TARIFFS_STAND = """
CREATE FUNCTION tariff_versions_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'a published tariff version is never changed; publish another'
        USING ERRCODE = 'check_violation';
END $$
"""

# A VOLUME meter's water is paid for when it is bought, a MONEY meter's when it runs: a tariff says which it prices.
_WALLETS_FIT = """
CREATE FUNCTION wallet_fits_tariff() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    kind text;
BEGIN
    IF TG_TABLE_NAME = 'meters' THEN
        kind := NEW.wallet_kind;
        IF EXISTS (SELECT FROM supply_terms s JOIN tariffs t ON t.id = s.tariff_id
                   WHERE s.meter_id = NEW.id AND (t.basis = 'PURCHASE') <> (kind = 'VOLUME')) THEN
            RAISE EXCEPTION 'the supply terms of this meter do not fit a % wallet', kind
                USING ERRCODE = 'check_violation';
        END IF;
    ELSE
        SELECT wallet_kind INTO kind FROM meters WHERE id = NEW.meter_id;
    END IF;
    IF EXISTS (SELECT FROM tariffs WHERE id = NEW.tariff_id AND (basis = 'PURCHASE') <> (kind = 'VOLUME')) THEN
        RAISE EXCEPTION 'this tariff does not price a % wallet', kind USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$
"""

# Whatever makes a meter, it is due from its first moment.
_METERS_DUE = """
CREATE FUNCTION mark_new_meters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO meter_due (meter_id) SELECT id FROM made ORDER BY id ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$
"""

_TRIGGERS = (
    """CREATE TRIGGER ledger_entries_hold AFTER INSERT ON ledger_entries
    REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_hold()""",
    """CREATE CONSTRAINT TRIGGER ledger_transactions_hold AFTER INSERT ON ledger_transactions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_transaction_holds()""",
    """CREATE CONSTRAINT TRIGGER ledger_accounts_agree AFTER UPDATE ON ledger_accounts
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_account_agrees()""",
    """CREATE TRIGGER ledger_entries_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_transactions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER ledger_accounts_no_delete BEFORE DELETE OR TRUNCATE ON ledger_accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()""",
    """CREATE TRIGGER operator_actions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operator_actions
    FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only()""",
    """CREATE TRIGGER tariff_versions_stand BEFORE UPDATE ON tariff_versions
    FOR EACH STATEMENT EXECUTE FUNCTION tariff_versions_stand()""",
    """CREATE TRIGGER wallet_fits_tariff BEFORE INSERT OR UPDATE OF tariff_id, wallet_kind ON meters
    FOR EACH ROW EXECUTE FUNCTION wallet_fits_tariff()""",
    """CREATE TRIGGER wallet_fits_tariff BEFORE INSERT OR UPDATE ON supply_terms
    FOR EACH ROW EXECUTE FUNCTION wallet_fits_tariff()""",
    """CREATE TRIGGER meters_are_due AFTER INSERT ON meters REFERENCING NEW TABLE AS made
    FOR EACH STATEMENT EXECUTE FUNCTION mark_new_meters()""",
)

# Two years of months ahead. What is older than this month, and what a wrong clock tells of a far future, have their own.
_PARTITIONS = """
DO $$
DECLARE
    first_month timestamptz;
    month timestamptz;
BEGIN
    SET LOCAL timezone TO 'UTC';
    first_month := date_trunc('month', now()) + interval '1 month';
    CREATE TABLE readings_rest PARTITION OF readings DEFAULT;
    EXECUTE format('CREATE TABLE readings_first PARTITION OF readings FOR VALUES FROM (MINVALUE) TO (%L)', first_month);
    FOR step IN 0..23 LOOP
        month := first_month + make_interval(months => step);
        EXECUTE format('CREATE TABLE %I PARTITION OF readings FOR VALUES FROM (%L) TO (%L)',
                       to_char(month, '"readings_"YYYY_MM'), month, month + interval '1 month');
    END LOOP;
END $$
"""


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.create_table('async_results',
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('conversation_id', sa.Text(), nullable=False),
    sa.Column('topic', sa.Text(), nullable=False),
    sa.Column('asked_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('answered_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('body', sa.LargeBinary(), nullable=True),
    sa.PrimaryKeyConstraint('rail', 'conversation_id', name=op.f('pk_async_results'))
    )
    op.create_index('ix_async_results_topic', 'async_results', ['rail', 'topic', 'asked_at'], unique=False)
    op.create_table('attempts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_attempts'))
    )
    op.create_index('ix_attempts_at', 'attempts', ['at'], unique=False)
    op.create_index('ix_attempts_kind', 'attempts', ['kind', 'key', 'at'], unique=False)
    op.create_table('customers',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('phone', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('language', sa.Text(), server_default='en', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True),
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
    sa.Column('role', sa.Text(), server_default='ADMIN', nullable=False),
    sa.Column('password_hash', sa.Text(), nullable=True),
    sa.Column('totp_sealed', sa.Text(), nullable=True),
    sa.Column('totp_step', sa.BigInteger(), nullable=True),
    sa.Column('totp_confirmed_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_operators')),
    sa.UniqueConstraint('key_hash', name=op.f('uq_operators_key_hash')),
    sa.UniqueConstraint('name', name=op.f('uq_operators_name'))
    )
    op.create_table('outbox_facts',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('payload', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_outbox_facts'))
    )
    op.create_index('ix_outbox_facts_due', 'outbox_facts', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('rail_events',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('event_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('rail_ref', sa.Text(), nullable=True),
    sa.Column('reference', sa.Text(), nullable=True),
    sa.Column('subject', sa.Text(), server_default='PAYMENT', nullable=False),
    sa.Column('answer_to', sa.Text(), nullable=True),
    sa.Column('receipt_ref', sa.Text(), nullable=True),
    sa.Column('body', sa.LargeBinary(), nullable=False),
    sa.Column('outcome', sa.Text(), nullable=True),
    sa.Column('received_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_rail_events')),
    sa.UniqueConstraint('rail', 'event_id', name=op.f('uq_rail_events_rail_event_id'))
    )
    op.create_index('ix_rail_events_due', 'rail_events', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_table('settlement_marks',
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('what', sa.Text(), nullable=False),
    sa.Column('read_until', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('rail', 'what', name=op.f('pk_settlement_marks'))
    )
    op.create_table('sign_in_codes',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('phone', sa.Text(), nullable=False),
    sa.Column('code_hash', sa.Text(), nullable=False),
    sa.Column('tries', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('expires_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('used_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('address', sa.Text(), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_sign_in_codes'))
    )
    op.create_index('ix_sign_in_codes_created_at', 'sign_in_codes', ['created_at'], unique=False)
    op.create_index('ix_sign_in_codes_phone', 'sign_in_codes', ['phone', 'created_at'], unique=False)
    op.create_table('storage_horizons',
    sa.Column('what', sa.Text(), nullable=False),
    sa.Column('before', sa.DateTime(timezone=True), nullable=False),
    sa.PrimaryKeyConstraint('what', name=op.f('pk_storage_horizons'))
    )
    op.create_table('trusted_documents',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('body', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), server_default='', nullable=False),
    sa.Column('client', sa.Text(), server_default='', nullable=False),
    sa.Column('added_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.CheckConstraint("id ~ '^[0-9a-f]{64}$'", name=op.f('ck_trusted_documents_id_is_sha256')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_trusted_documents'))
    )
    op.create_table('utilities',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.Column('debt_share_percent', sa.BigInteger(), server_default='25', nullable=False),
    sa.Column('debt_weekly_cap_minor', sa.BigInteger(), nullable=True),
    sa.Column('guaranteed_ml', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('emergency_credit_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('emergency_threshold_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('cut_off', sa.Text(), server_default='DISCONNECT', nullable=False),
    sa.Column('friendly', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('released_reason', sa.Text(), nullable=True),
    sa.Column('released_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('statement_after_days', sa.BigInteger(), server_default='3', nullable=False),
    sa.CheckConstraint('debt_share_percent BETWEEN 0 AND 100', name=op.f('ck_utilities_debt_share_is_percent')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_utilities'))
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
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('setup_ref', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('done_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_card_setups_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_card_setups')),
    sa.UniqueConstraint('rail', 'setup_ref', name=op.f('uq_card_setups_rail_setup_ref'))
    )
    op.create_table('customer_classes',
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('cut_off', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_customer_classes_utility_id')),
    sa.PrimaryKeyConstraint('utility_id', 'code', name=op.f('pk_customer_classes'))
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
    sa.Column('label', sa.Text(), server_default='', nullable=False),
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
    op.create_table('payment_customers',
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('rail_ref', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_payment_customers_customer_id')),
    sa.PrimaryKeyConstraint('customer_id', 'rail', name=op.f('pk_payment_customers')),
    sa.UniqueConstraint('rail', 'rail_ref', name=op.f('uq_payment_customers_rail_rail_ref'))
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
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('rail_ref', sa.Text(), nullable=False),
    sa.Column('brand', sa.Text(), nullable=False),
    sa.Column('last4', sa.Text(), nullable=False),
    sa.Column('expires', sa.Text(), nullable=True),
    sa.Column('usable', sa.Boolean(), server_default='true', nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_saved_methods_customer_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_saved_methods')),
    sa.UniqueConstraint('rail', 'rail_ref', name=op.f('uq_saved_methods_rail_rail_ref'))
    )
    op.create_index('ix_saved_methods_customer_id', 'saved_methods', ['customer_id'], unique=False)
    op.create_table('statement_counters',
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('last_number', sa.BigInteger(), server_default='0', nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_statement_counters_utility_id')),
    sa.PrimaryKeyConstraint('utility_id', name=op.f('pk_statement_counters'))
    )
    op.create_table('tariffs',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('code', sa.Text(), nullable=False),
    sa.Column('name', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('basis', sa.Text(), nullable=False),
    sa.Column('customer_class', sa.Text(), server_default='domestic', nullable=False),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_tariffs_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_tariffs')),
    sa.UniqueConstraint('utility_id', 'code', name=op.f('uq_tariffs_utility_id_code'))
    )
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
    op.create_table('memberships',
    sa.Column('id', sa.Text(), server_default=sa.text("'mem_' || left(replace(gen_random_uuid()::text, '-', ''), 26)"), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('role', sa.Text(), nullable=False),
    sa.Column('joined_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_memberships_customer_id')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_memberships_household_id')),
    sa.PrimaryKeyConstraint('household_id', 'customer_id', name=op.f('pk_memberships')),
    sa.UniqueConstraint('id', name=op.f('uq_memberships_id'))
    )
    op.create_index('ix_memberships_customer_id', 'memberships', ['customer_id'], unique=False)
    op.create_table('meters',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('serial', sa.Text(), nullable=False),
    sa.Column('account_number', sa.Text(), sa.Computed("ltrim(upper(regexp_replace(serial, '[^A-Za-z0-9]', '', 'g')), '0')", persisted=True), nullable=True),
    sa.Column('closed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('label', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=True),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('wallet_kind', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('unit', sa.Text(), sa.Computed("CASE wallet_kind WHEN 'VOLUME' THEN 'VOL' ELSE currency END", persisted=True), nullable=False),
    sa.Column('time_zone', sa.Text(), nullable=False),
    sa.Column('initial_register_ml', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('installed_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('credit_granted', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_sequence', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('register_max_ml', sa.BigInteger(), nullable=True),
    sa.Column('at_zero', sa.Text(), nullable=True),
    sa.CheckConstraint('credit_granted >= 0', name=op.f('ck_meters_granted_not_negative')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_meters_household_id')),
    sa.ForeignKeyConstraint(['tariff_id'], ['tariffs.id'], name=op.f('fk_meters_tariff_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_meters_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_meters')),
    sa.UniqueConstraint('serial', name=op.f('uq_meters_serial'))
    )
    op.create_index('ix_meters_account_number', 'meters', ['account_number'], unique=False)
    op.create_index(op.f('ix_meters_household_id'), 'meters', ['household_id'], unique=False)
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
    op.create_table('tariff_versions',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('effective_from', sa.Date(), nullable=False),
    sa.Column('blocks', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('document', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('published_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
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
    op.create_table('credit_grants',
    sa.Column('credit_key', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('source_id', sa.Text(), nullable=False),
    sa.Column('unit', sa.Text(), nullable=False),
    sa.Column('amount', sa.BigInteger(), nullable=False),
    sa.Column('total_after', sa.BigInteger(), nullable=False),
    sa.Column('revoked', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('granted_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('sent_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('confirmed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('tid', sa.BigInteger(), nullable=True),
    sa.Column('offered_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('token_issued_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('typed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.CheckConstraint('amount > 0', name=op.f('ck_credit_grants_amount_positive')),
    sa.CheckConstraint('revoked BETWEEN 0 AND amount', name=op.f('ck_credit_grants_revoked_within')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_credit_grants_meter_id')),
    sa.PrimaryKeyConstraint('credit_key', name=op.f('pk_credit_grants'))
    )
    op.create_index('ix_credit_grants_meter_id', 'credit_grants', ['meter_id', 'total_after'], unique=False)
    op.create_index('ix_credit_grants_source_id', 'credit_grants', ['source_id'], unique=False)
    op.create_index('ix_credit_grants_to_offer', 'credit_grants', ['granted_at'], unique=False, postgresql_where=sa.text('tid IS NOT NULL AND confirmed_at IS NULL AND offered_at IS NULL'))
    op.create_table('daily_usage',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('register_end_ml', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_daily_usage_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'day', name=op.f('pk_daily_usage'))
    )
    op.create_table('dlms_meters',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('profile', sa.Text(), nullable=False),
    sa.Column('system_title', sa.Text(), nullable=False),
    sa.Column('device_name', sa.Text(), nullable=False),
    sa.Column('sealed_keys', sa.Text(), nullable=False),
    sa.Column('client_counter', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('meter_counter', sa.BigInteger(), server_default='-1', nullable=False),
    sa.Column('report_number', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('base_units', sa.BigInteger(), nullable=True),
    sa.Column('paid_units', sa.BigInteger(), nullable=True),
    sa.Column('profile_read_to', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('client_counter BETWEEN 0 AND 4294967296', name=op.f('ck_dlms_meters_client_counter_fits')),
    sa.CheckConstraint('meter_counter BETWEEN -1 AND 4294967295', name=op.f('ck_dlms_meters_meter_counter_fits')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_dlms_meters_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_dlms_meters')),
    sa.UniqueConstraint('device_name', name=op.f('uq_dlms_meters_device_name')),
    sa.UniqueConstraint('system_title', name=op.f('uq_dlms_meters_system_title'))
    )
    op.create_table('meter_commands',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('sequence', sa.BigInteger(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.Column('tid_mark', sa.BigInteger(), nullable=True),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('deadline_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('void_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('sent_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('acknowledged_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('confirmed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('body', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('after_report', sa.BigInteger(), nullable=True),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_commands_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_meter_commands')),
    sa.UniqueConstraint('meter_id', 'sequence', name=op.f('uq_meter_commands_meter_id_sequence'))
    )
    op.create_index('ix_meter_commands_open', 'meter_commands', ['meter_id', 'sequence'], unique=False, postgresql_where=sa.text("status IN ('QUEUED', 'SENT', 'ACKNOWLEDGED', 'UNKNOWN')"))
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
    op.create_index('ix_meter_conditions_raised', 'meter_conditions', ['kind', 'raised_at'], unique=False, postgresql_where=sa.text('is_raised'))
    op.create_table('meter_credentials',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('transport_identity', sa.Text(), nullable=False),
    sa.Column('sealed_prepaid_key', sa.Text(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_credentials_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_credentials')),
    sa.UniqueConstraint('transport_identity', name=op.f('uq_meter_credentials_transport_identity'))
    )
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
    op.create_table('meter_due',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('marks', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('marked_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('due_next_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('reprice_from', sa.Date(), nullable=True),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('rated_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('accrued_through', sa.Date(), nullable=True),
    sa.Column('guaranteed_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('close_month', sa.Date(), nullable=True),
    sa.Column('close_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_due_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_due'))
    )
    op.create_index('ix_meter_due_close_at', 'meter_due', ['close_at'], unique=False, postgresql_where=sa.text('close_month IS NOT NULL'))
    op.create_index('ix_meter_due_due_next_at', 'meter_due', ['due_next_at'], unique=False, postgresql_where=sa.text('due_next_at IS NOT NULL'))
    op.create_index('ix_meter_due_failing', 'meter_due', ['meter_id'], unique=False, postgresql_where=sa.text('last_error IS NOT NULL'))
    op.create_index('ix_meter_due_marked_at', 'meter_due', ['marked_at'], unique=False, postgresql_where=sa.text('marked_at IS NOT NULL'))
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
    op.create_table('meter_measures',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('value', sa.BigInteger(), nullable=False),
    sa.Column('told_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_measures_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'kind', name=op.f('pk_meter_measures'))
    )
    op.create_table('meter_registrations',
    sa.Column('location', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('remote', sa.Text(), nullable=False),
    sa.Column('queue_mode', sa.Boolean(), nullable=False),
    sa.Column('lifetime_s', sa.BigInteger(), nullable=False),
    sa.Column('objects', sa.Text(), nullable=False),
    sa.Column('lwm2m', sa.Text(), server_default='1.0', nullable=False),
    sa.Column('sends', sa.Boolean(), server_default='false', nullable=False),
    sa.Column('updates', sa.BigInteger(), server_default='0', nullable=False),
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
    sa.Column('credit_accepted', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('credit_remaining', sa.BigInteger(), nullable=True),
    sa.Column('stated_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('clock_error_s', sa.BigInteger(), nullable=True),
    sa.Column('valve', sa.Text(), server_default='UNKNOWN', nullable=False),
    sa.Column('valve_reason', sa.Text(), server_default='UNKNOWN', nullable=False),
    sa.Column('valve_changed_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('credit_typed', sa.BigInteger(), server_default='0', nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_meter_states_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_meter_states'))
    )
    op.create_table('monthly_usage',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('month', sa.Date(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('days', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_monthly_usage_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'month', name=op.f('pk_monthly_usage'))
    )
    op.create_index('ix_monthly_usage_month', 'monthly_usage', ['month'], unique=False)
    op.create_table('period_charges',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('tariff_version_id', sa.Text(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_period_charges_meter_id')),
    sa.ForeignKeyConstraint(['tariff_version_id'], ['tariff_versions.id'], name=op.f('fk_period_charges_tariff_version_id')),
    sa.PrimaryKeyConstraint('meter_id', 'period_start', name=op.f('pk_period_charges'))
    )
    op.create_table('raw_reports',
    sa.Column('arrival', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('clock_wrong', sa.Boolean(), nullable=False),
    sa.Column('stated_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('read_at', sa.ARRAY(sa.DateTime(timezone=True)), nullable=False),
    sa.Column('register_ml', sa.ARRAY(sa.BigInteger()), nullable=False),
    sa.Column('empty_pipe', sa.ARRAY(sa.Boolean()), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_raw_reports_meter_id')),
    sa.PrimaryKeyConstraint('arrival', name=op.f('pk_raw_reports'))
    )
    op.create_index('ix_raw_reports_meter_id', 'raw_reports', ['meter_id', 'arrival'], unique=False)
    op.create_table('readings',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('read_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('arrival', sa.BigInteger(), server_default='0', autoincrement=False, nullable=False),
    sa.Column('register_ml', sa.BigInteger(), nullable=False),
    sa.Column('quality', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('received_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('counted_ml', sa.BigInteger(), nullable=True),
    sa.Column('corrected_ml', sa.BigInteger(), nullable=True),
    sa.Column('claimed_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_readings_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'read_at', 'arrival', name=op.f('pk_readings')),
    postgresql_partition_by='RANGE (read_at)'
    )
    op.create_index('ix_readings_claimed', 'readings', ['meter_id', 'claimed_at'], unique=False, postgresql_where=sa.text('claimed_at IS NOT NULL'))
    op.create_index('ix_readings_held', 'readings', ['meter_id', 'read_at'], unique=False, postgresql_where=sa.text("quality = 'HELD'"))
    op.create_table('standing_charged',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('revision', sa.BigInteger(), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_standing_charged_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', 'period_start', name=op.f('pk_standing_charged'))
    )
    op.create_table('statements',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('period_start', sa.Date(), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('body', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_statements_meter_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_statements_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_statements')),
    sa.UniqueConstraint('meter_id', 'period_start', name=op.f('uq_statements_meter_id_period_start')),
    sa.UniqueConstraint('utility_id', 'number', name=op.f('uq_statements_utility_id_number'))
    )
    op.create_table('supply_terms',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('from_day', sa.Date(), nullable=False),
    sa.Column('tariff_id', sa.Text(), nullable=False),
    sa.Column('household_id', sa.Text(), nullable=True),
    sa.Column('households', sa.BigInteger(), server_default='1', nullable=False),
    sa.Column('groups', postgresql.JSONB(astext_type=sa.Text()), server_default='[]', nullable=False),
    sa.Column('cut_off', sa.Text(), nullable=True),
    sa.Column('came_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('households BETWEEN 1 AND 10000', name=op.f('ck_supply_terms_households_within')),
    sa.ForeignKeyConstraint(['household_id'], ['households.id'], name=op.f('fk_supply_terms_household_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_supply_terms_meter_id')),
    sa.ForeignKeyConstraint(['tariff_id'], ['tariffs.id'], name=op.f('fk_supply_terms_tariff_id')),
    sa.PrimaryKeyConstraint('meter_id', 'from_day', name=op.f('pk_supply_terms'))
    )
    op.create_table('top_ups',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=True),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('origin', sa.Text(), server_default='CUSTOMER', nullable=False),
    sa.Column('method_id', sa.Text(), nullable=True),
    sa.Column('pay_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('fee_agreed_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('agreed', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('funder_id', sa.Text(), nullable=True),
    sa.Column('saved_method_id', sa.Text(), nullable=True),
    sa.Column('phone', sa.Text(), nullable=True),
    sa.Column('return_url', sa.Text(), nullable=True),
    sa.Column('idempotency_key', sa.Text(), nullable=False),
    sa.Column('request_hash', sa.Text(), nullable=False),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('traceparent', sa.Text(), nullable=True),
    sa.CheckConstraint('pay_minor > 0', name=op.f('ck_top_ups_pay_positive')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_top_ups_customer_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_top_ups_meter_id')),
    sa.ForeignKeyConstraint(['saved_method_id'], ['saved_methods.id'], name=op.f('fk_top_ups_saved_method_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_top_ups')),
    sa.UniqueConstraint('customer_id', 'idempotency_key', name=op.f('uq_top_ups_customer_id_idempotency_key'))
    )
    op.create_index('ix_top_ups_meter_id', 'top_ups', ['meter_id', 'id'], unique=False)
    op.create_index('uq_top_ups_guest', 'top_ups', ['idempotency_key'], unique=True, postgresql_where=sa.text("origin = 'GUEST'"))
    op.create_table('volume_purchases',
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('source_id', sa.Text(), nullable=False),
    sa.Column('day', sa.Date(), nullable=False),
    sa.Column('tariff_version_id', sa.Text(), nullable=False),
    sa.Column('volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('period_volume_ml', sa.BigInteger(), nullable=False),
    sa.Column('period_charged_minor', sa.BigInteger(), nullable=False),
    sa.Column('accounts', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('reverses_key', sa.Text(), nullable=True),
    sa.Column('bought_at', sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint('(volume_ml < 0) = (reverses_key IS NOT NULL)', name=op.f('ck_volume_purchases_only_reversals_fall')),
    sa.CheckConstraint('volume_ml <> 0', name=op.f('ck_volume_purchases_volume_not_zero')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_volume_purchases_meter_id')),
    sa.ForeignKeyConstraint(['reverses_key'], ['volume_purchases.key'], name=op.f('fk_volume_purchases_reverses_key')),
    sa.ForeignKeyConstraint(['tariff_version_id'], ['tariff_versions.id'], name=op.f('fk_volume_purchases_tariff_version_id')),
    sa.PrimaryKeyConstraint('key', name=op.f('pk_volume_purchases')),
    sa.UniqueConstraint('reverses_key', name=op.f('uq_volume_purchases_reverses_key'))
    )
    op.create_index('ix_volume_purchases_meter_id', 'volume_purchases', ['meter_id', 'day'], unique=False)
    op.create_index('ix_volume_purchases_source_id', 'volume_purchases', ['source_id'], unique=False)
    op.create_table('alert_reads',
    sa.Column('alert_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('read_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['alert_id'], ['alerts.id'], name=op.f('fk_alert_reads_alert_id')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_alert_reads_customer_id')),
    sa.PrimaryKeyConstraint('alert_id', 'customer_id', name=op.f('pk_alert_reads'))
    )
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
    sa.ForeignKeyConstraint(['awaiting_top_up_id'], ['top_ups.id'], name=op.f('fk_auto_top_ups_awaiting_top_up_id')),
    sa.ForeignKeyConstraint(['customer_id'], ['customers.id'], name=op.f('fk_auto_top_ups_customer_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['meters.id'], name=op.f('fk_auto_top_ups_meter_id')),
    sa.ForeignKeyConstraint(['saved_method_id'], ['saved_methods.id'], name=op.f('fk_auto_top_ups_saved_method_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_auto_top_ups')),
    sa.UniqueConstraint('meter_id', name=op.f('uq_auto_top_ups_meter_id'))
    )
    op.create_table('deliveries',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('alert_id', sa.Text(), nullable=False),
    sa.Column('customer_id', sa.Text(), nullable=False),
    sa.Column('device_id', sa.Text(), nullable=True),
    sa.Column('channel', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('provider_message_id', sa.Text(), nullable=True),
    sa.Column('updated_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('traceparent', sa.Text(), nullable=True),
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
    op.create_table('lora_devices',
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('dev_eui', sa.Text(), nullable=False),
    sa.Column('device_class', sa.Text(), nullable=False),
    sa.Column('region', sa.Text(), nullable=False),
    sa.Column('application_id', sa.Text(), nullable=True),
    sa.Column('last_deduplication_id', sa.Text(), nullable=True),
    sa.Column('last_uplink_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('alarms', postgresql.JSONB(astext_type=sa.Text()), server_default='[]', nullable=False),
    sa.CheckConstraint("dev_eui ~ '^[0-9a-f]{16}$'", name=op.f('ck_lora_devices_dev_eui_is_hex')),
    sa.CheckConstraint("device_class IN ('A', 'C')", name=op.f('ck_lora_devices_device_class_known')),
    sa.ForeignKeyConstraint(['meter_id'], ['meter_credentials.meter_id'], name=op.f('fk_lora_devices_meter_id')),
    sa.PrimaryKeyConstraint('meter_id', name=op.f('pk_lora_devices')),
    sa.UniqueConstraint('dev_eui', name=op.f('uq_lora_devices_dev_eui'))
    )
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
    op.create_table('payments',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('top_up_id', sa.Text(), nullable=False),
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('rail_ref', sa.Text(), nullable=True),
    sa.Column('alias_ref', sa.Text(), nullable=True),
    sa.Column('receipt_ref', sa.Text(), nullable=True),
    sa.Column('account_reference', sa.Text(), nullable=True),
    sa.Column('payer_ref', sa.Text(), nullable=True),
    sa.Column('asked_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('failure_code', sa.Text(), nullable=True),
    sa.Column('failure_message', sa.Text(), nullable=True),
    sa.Column('next_action', postgresql.JSONB(astext_type=sa.Text()), nullable=True),
    sa.Column('captured_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('refunded_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('suspense_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('debt_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('fee_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('emergency_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('standing_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('disputed_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('dispute_fee_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('dispute', sa.Text(), nullable=True),
    sa.Column('held_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('taken_back_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('owed_minor', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('version', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('asked_real_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('started_real_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('asked_minor > 0', name=op.f('ck_payments_asked_positive')),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_payments_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_payments')),
    sa.UniqueConstraint('account_reference', name=op.f('uq_payments_account_reference')),
    sa.UniqueConstraint('rail', 'alias_ref', name=op.f('uq_payments_rail_alias_ref')),
    sa.UniqueConstraint('rail', 'rail_ref', name=op.f('uq_payments_rail_rail_ref')),
    sa.UniqueConstraint('rail', 'receipt_ref', name=op.f('uq_payments_rail_receipt_ref'))
    )
    op.create_index('ix_payments_dispute', 'payments', ['top_up_id'], unique=False, postgresql_where=sa.text('dispute IS NOT NULL'))
    op.create_index('ix_payments_due', 'payments', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_payments_top_up_id', 'payments', ['top_up_id'], unique=False)
    op.create_table('top_up_events',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('top_up_id', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['top_up_id'], ['top_ups.id'], name=op.f('fk_top_up_events_top_up_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_top_up_events'))
    )
    op.create_index('ix_top_up_events_top_up_id', 'top_up_events', ['top_up_id', 'id'], unique=False)
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
    op.create_table('lora_downlinks',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('meter_id', sa.Text(), nullable=False),
    sa.Column('command_id', sa.Text(), nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('queue_item_id', sa.Text(), nullable=True),
    sa.Column('f_cnt_down', sa.BigInteger(), nullable=True),
    sa.Column('uplinks', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('reason', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.Column('queued_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('tx_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('ended_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.ForeignKeyConstraint(['command_id'], ['meter_commands.id'], name=op.f('fk_lora_downlinks_command_id')),
    sa.ForeignKeyConstraint(['meter_id'], ['lora_devices.meter_id'], name=op.f('fk_lora_downlinks_meter_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_lora_downlinks')),
    sa.UniqueConstraint('queue_item_id', name=op.f('uq_lora_downlinks_queue_item_id'))
    )
    op.create_index(op.f('ix_lora_downlinks_command_id'), 'lora_downlinks', ['command_id'], unique=False)
    op.create_index('ix_lora_downlinks_due', 'lora_downlinks', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('uq_lora_downlinks_open', 'lora_downlinks', ['meter_id'], unique=True, postgresql_where=sa.text("state IN ('SENDING', 'QUEUED', 'TX', 'ACK')"))
    op.create_table('receipts',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('utility_id', sa.Text(), nullable=False),
    sa.Column('number', sa.BigInteger(), nullable=False),
    sa.Column('payment_id', sa.Text(), nullable=False),
    sa.Column('source_key', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('paid_minor', sa.BigInteger(), nullable=False),
    sa.Column('lines', postgresql.JSONB(astext_type=sa.Text()), nullable=False),
    sa.Column('issued_at', sa.DateTime(timezone=True), nullable=False),
    sa.ForeignKeyConstraint(['payment_id'], ['payments.id'], name=op.f('fk_receipts_payment_id')),
    sa.ForeignKeyConstraint(['utility_id'], ['utilities.id'], name=op.f('fk_receipts_utility_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_receipts')),
    sa.UniqueConstraint('source_key', name=op.f('uq_receipts_source_key')),
    sa.UniqueConstraint('utility_id', 'number', name=op.f('uq_receipts_utility_id_number'))
    )
    op.create_index('ix_receipts_payment_id', 'receipts', ['payment_id'], unique=False)
    op.create_table('refunds',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('payment_id', sa.Text(), nullable=False),
    sa.Column('request_key', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('status', sa.Text(), nullable=False),
    sa.Column('requested_by', sa.Text(), nullable=False),
    sa.Column('approved_by', sa.Text(), nullable=True),
    sa.Column('rail_ref', sa.Text(), nullable=True),
    sa.Column('failure_code', sa.Text(), nullable=True),
    sa.Column('created_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('updated_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('due_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=True),
    sa.Column('attempts', sa.BigInteger(), server_default='0', nullable=False),
    sa.Column('last_error', sa.Text(), nullable=True),
    sa.Column('dead_at', sa.DateTime(timezone=True), nullable=True),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_refunds_amount_positive')),
    sa.CheckConstraint('approved_by <> requested_by', name=op.f('ck_refunds_two_persons')),
    sa.ForeignKeyConstraint(['payment_id'], ['payments.id'], name=op.f('fk_refunds_payment_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_refunds')),
    sa.UniqueConstraint('payment_id', 'request_key', name=op.f('uq_refunds_payment_id_request_key'))
    )
    op.create_index('ix_refunds_due', 'refunds', ['due_at'], unique=False, postgresql_where=sa.text('due_at IS NOT NULL'))
    op.create_index('ix_refunds_payment_id', 'refunds', ['payment_id'], unique=False)
    op.create_table('settlement_entries',
    sa.Column('id', sa.BigInteger(), sa.Identity(always=False), nullable=False),
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('external_id', sa.Text(), nullable=False),
    sa.Column('kind', sa.Text(), nullable=False),
    sa.Column('payment_ref', sa.Text(), nullable=True),
    sa.Column('payout_ref', sa.Text(), nullable=True),
    sa.Column('payment_id', sa.Text(), nullable=True),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('gross_minor', sa.BigInteger(), nullable=False),
    sa.Column('fee_minor', sa.BigInteger(), nullable=False),
    sa.Column('occurred_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('description', sa.Text(), server_default='', nullable=False),
    sa.Column('state', sa.Text(), nullable=False),
    sa.Column('imported_at', sa.DateTime(timezone=True), server_default=sa.text('now()'), nullable=False),
    sa.ForeignKeyConstraint(['payment_id'], ['payments.id'], name=op.f('fk_settlement_entries_payment_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_settlement_entries')),
    sa.UniqueConstraint('rail', 'external_id', name=op.f('uq_settlement_entries_rail_external_id'))
    )
    op.create_index('ix_settlement_entries_payment_id', 'settlement_entries', ['payment_id'], unique=False, postgresql_where=sa.text('payment_id IS NOT NULL'))
    op.create_index('ix_settlement_entries_state', 'settlement_entries', ['rail', 'state'], unique=False)
    op.create_table('suspense_items',
    sa.Column('id', sa.Text(), nullable=False),
    sa.Column('key', sa.Text(), nullable=False),
    sa.Column('rail', sa.Text(), nullable=False),
    sa.Column('rail_ref', sa.Text(), nullable=False),
    sa.Column('currency', sa.Text(), nullable=False),
    sa.Column('amount_minor', sa.BigInteger(), nullable=False),
    sa.Column('reason', sa.Text(), nullable=False),
    sa.Column('account_reference', sa.Text(), nullable=True),
    sa.Column('payer', sa.Text(), nullable=True),
    sa.Column('payment_id', sa.Text(), nullable=True),
    sa.Column('status', sa.Text(), server_default='OPEN', nullable=False),
    sa.Column('opened_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('resolved_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('resolved_by', sa.Text(), nullable=True),
    sa.CheckConstraint('amount_minor > 0', name=op.f('ck_suspense_items_amount_positive')),
    sa.ForeignKeyConstraint(['payment_id'], ['payments.id'], name=op.f('fk_suspense_items_payment_id')),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_suspense_items')),
    sa.UniqueConstraint('key', name=op.f('uq_suspense_items_key'))
    )
    op.create_index('ix_suspense_items_status', 'suspense_items', ['status', 'opened_at'], unique=False)
    op.execute(_PARTITIONS)
    for function in (
        _ENTRIES_HOLD,
        _TRANSACTION_HOLDS,
        _LEDGER_STANDS,
        _ACCOUNT_AGREES,
        _AUDIT_STANDS,
        _TARIFFS_STAND,
        _WALLETS_FIT,
        _METERS_DUE,
        *_TRIGGERS,
    ):
        op.execute(function)
