import type { Queryable } from '../../adapters/postgres/client.ts'

/** What guards the ledger inside the database, as one digest, and what of it is out of force. */
export interface Guards {
  digest: string
  disabled: string[]
}

/**
 * Triggers, constraints, policies, rules, functions and who may write: of the ledger's tables. A change between two seals that no migration made
 * shows in the digest; what is switched off is named.
 */
export async function readGuards(db: Queryable): Promise<Guards> {
  const [row] = await db.query<Guards>(
    `with held as (
       select c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity
       from pg_class c where c.oid = any(array['billing.entry', 'billing.journal_transaction', 'billing.balance',
         'billing.account', 'billing.mended_fault']::regclass[])
     ), guard as (
       select 'trigger ' || t.tgname || ' on ' || held.relname as name, t.tgenabled in ('O', 'A') as in_force,
         pg_get_triggerdef(t.oid) as definition
       from pg_trigger t join held on held.oid = t.tgrelid
       union all
       select 'constraint ' || c.conname || ' on ' || held.relname, c.convalidated, pg_get_constraintdef(c.oid)
       from pg_constraint c join held on held.oid = c.conrelid
       union all
       select 'policy ' || p.polname || ' on ' || held.relname, true,
         concat_ws(' ', p.polcmd, p.polroles::text, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid))
       from pg_policy p join held on held.oid = p.polrelid
       union all
       select 'rule ' || r.rulename || ' on ' || held.relname, true, pg_get_ruledef(r.oid)
       from pg_rewrite r join held on held.oid = r.ev_class
       union all
       select concat_ws(' ', 'grant of', g.privilege_type, 'on', c.relname, 'to', g.grantee::regrole), true, ''
       from pg_class c join held on held.oid = c.oid, aclexplode(c.relacl) g
       where g.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER')
       union all
       select 'row-level security of ' || relname, relrowsecurity and relforcerowsecurity, '' from held
       union all
       select 'function ' || p.proname, true, pg_get_functiondef(p.oid)
       from pg_proc p where p.pronamespace = 'billing'::regnamespace and p.prokind = 'f'
     )
     select coalesce(array_agg(name order by name) filter (where not in_force), '{}') as disabled,
       encode(sha256(convert_to(string_agg(name || in_force || definition, E'\\n' order by name collate "C", definition), 'UTF8')), 'hex') as digest
     from guard`,
  )
  return row!
}
