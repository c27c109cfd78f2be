"""entries are judged by the statement

Revision: 0014, after: 0013

The ledger posts many transactions in one statement, and its judges look at all of its entries at once instead of one by
one. They are stricter than those before: whatever adds entries leaves each of their transactions in balance, and each
guarded account where its last entry says, at the end of the same statement.

Migrations only add, and the code deployed before this one must run on its result. A released migration is never
edited.
"""

from alembic import op

revision = '0014'
down_revision = '0013'
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


def upgrade() -> None:
    # Never queue behind a long transaction and so block every other one behind us: give up and be run again.
    op.execute("SET LOCAL lock_timeout = '5s'")
    op.execute(_ENTRIES_HOLD)
    op.execute(_TRANSACTION_HOLDS)
    op.execute("DROP TRIGGER ledger_entries_zero_sum ON ledger_entries")
    op.execute("DROP TRIGGER ledger_entries_guard ON ledger_entries")
    op.execute("DROP TRIGGER ledger_transactions_zero_sum ON ledger_transactions")
    op.execute("DROP FUNCTION ledger_zero_sum()")
    op.execute("DROP FUNCTION ledger_entry_guard()")
    op.execute(
        """CREATE TRIGGER ledger_entries_hold AFTER INSERT ON ledger_entries
        REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION ledger_entries_hold()"""
    )
    op.execute(
        """CREATE CONSTRAINT TRIGGER ledger_transactions_hold AFTER INSERT ON ledger_transactions
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION ledger_transaction_holds()"""
    )
