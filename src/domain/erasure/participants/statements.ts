import { openStore } from '../../statements/store.ts'
import type { Participant, Rows, Subject } from '../participant.ts'

/** Statements name whom they are for: the PDFs go first, then what the rows say of them. That there was one stays. */
export const statements: Participant = {
  id: 'statements',
  stage: 2,
  async erase(tx, subject, stores) {
    const { tenantId } = subject
    // Whoever renders one of these waits, and then has nothing to do.
    const found = await tx.query<{ key: string }>(
      `select coalesce(s.object_key, s.tenant_id || '/' || r.period || '/' || s.account_id || '.pdf') as key
       from billing.statement s join billing.statement_run r on (r.tenant_id, r.id) = (s.tenant_id, s.run_id)
       where ${OF_SUBJECT} for no key update of s`,
      [codes(subject)],
      'find_statements',
    )
    if (found.length === 0) return { statement: 0 }
    const store = await openStore(stores, tenantId)
    for (const { key } of found) await store.remove(key)
    const erased = await tx.query(
      `update billing.statement s
       set state = 'erased', reason = null, detail = null, sha256 = null, pages = null, bytes = null, object_key = null,
         settled_at = coalesce(settled_at, clock_timestamp())
       where ${OF_SUBJECT} returning 1`,
      [codes(subject)],
      'erase_statements',
    )
    return { statement: erased.length }
  },
  async count(tx, subject) {
    const [rows] = await tx.query<Rows>(
      `select count(*)::int as statement from billing.statement s where ${OF_SUBJECT}`,
      [codes(subject)],
      'count_statements',
    )
    return rows!
  },
}

/** Of their accounts, whether billing has come to them already or not. */
const codes = ({ identifiers: { subjectId }, pseudonyms }: Subject): string[] =>
  [subjectId, ...pseudonyms].map((id) => `receivable:${id}`)

const OF_SUBJECT = `s.state <> 'erased' and s.account_id in (select id from billing.account where code = any($1))`
