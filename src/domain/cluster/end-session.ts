import { setTimeout as delay } from 'node:timers/promises'
import type { Queryable } from '../../adapters/postgres/client.ts'
import { TabibError } from '../../errors.ts'
import { isIdleInTransaction, listSessions, type Session } from './sessions.ts'

/** How a session is ended: its statement alone, or all of it. */
export type EndBy = 'cancel' | 'terminate'

/** Which sessions are to be ended, each as it was when that was decided. */
export interface EndPlan {
  by: EndBy
  sessions: EndTarget[]
}

/** By these four it is the same session, in the same transaction; a statement, for what cancels one. */
export interface EndTarget {
  pid: number
  backendStart: string
  xactStart: string | null
  /** Null where the whole session ends, whatever it is at. */
  queryStart: string | null
}

export interface Ended extends EndTarget {
  /** `moved-on`: it ended by itself, or is at something else; nothing was done to it. */
  outcome: 'ended' | 'moved-on' | 'still-there'
}

/**
 * Plans to end one session, or every one that has been idle in a transaction for `idleForS`. tabib's own workers and
 * replication are left alone unless `protectedToo`; the session that asks, always.
 *
 * @throws TabibError NOT_FOUND for a process that is no session, CLUSTER_REFUSED for one that is to be left alone or has
 * nothing to cancel, NOT_AUTHORISED where the role may not see or end it, NOT_NEEDED when nobody is idle for so long.
 */
export async function planEnd(
  { db }: { db: Queryable },
  {
    by,
    which,
    idleForS,
    protectedToo = false,
  }: { by: EndBy; which: number | 'idle'; idleForS: number; protectedToo?: boolean },
): Promise<{ plan: EndPlan; sessions: Session[]; spared: Session[] }> {
  const all = await listSessions(db)
  const chosen =
    which === 'idle'
      ? all.filter((one) => isIdleInTransaction(one) && (one.forS ?? 0) >= idleForS)
      : all.filter(({ pid }) => pid === which)
  if (chosen.length === 0) throw nobody(which, idleForS)
  const isSpared = ({ kind }: Session) => kind === 'own' || (kind !== 'client' && !protectedToo)
  const [spared, sessions] = [chosen.filter(isSpared), chosen.filter((one) => !isSpared(one))]
  const [first] = spared
  if (sessions.length === 0 && first) throw leftAlone(first, by)
  for (const one of sessions) assertMayEnd(one, by)
  await assertAllowed(db, sessions)
  return {
    sessions,
    spared,
    plan: {
      by,
      sessions: sessions.map(({ pid, backendStart, xactStart, queryStart }) => ({
        pid,
        backendStart: backendStart!,
        xactStart,
        queryStart: by === 'cancel' ? queryStart : null,
      })),
    },
  }
}

const GONE_WITHIN_MS = 5_000

/**
 * Ends what was planned, each only if it still is what it was: Postgres compares and signals in one statement, so that a
 * process number that another session has by now, or a pooled connection that is at another client's work, is not hit.
 * Waits until they are gone, for 5 s.
 */
export async function applyEnd({ db }: { db: Queryable }, { by, sessions }: EndPlan): Promise<Ended[]> {
  const values = [
    sessions.map(({ pid }) => pid),
    sessions.map(({ backendStart }) => backendStart),
    sessions.map(({ xactStart }) => xactStart),
    sessions.map(({ queryStart }) => queryStart),
  ]
  const signal = by === 'cancel' ? 'pg_cancel_backend' : 'pg_terminate_backend'
  const rows = await db.query<{ pid: number }>(`${SAME} select pid, ${signal}(pid) from same`, values)
  const hit = new Set(rows.map(({ pid }) => pid))
  const deadline = performance.now() + GONE_WITHIN_MS
  for (;;) {
    const left = await db.query<{ pid: number }>(`${SAME} select pid from same`, values)
    const still = new Set(left.map(({ pid }) => pid))
    if (still.size === 0 || performance.now() > deadline) {
      return sessions.map((one) => ({
        ...one,
        outcome: !hit.has(one.pid) ? 'moved-on' : still.has(one.pid) ? 'still-there' : 'ended',
      }))
    }
    await delay(50)
  }
}

// Materialized: a planner that is free to may signal first and compare afterwards.
const SAME = `
  with same as materialized (
    select pid from pg_stat_activity
    join unnest($1::int[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[])
      as planned (pid, backend_start, xact_start, query_start) using (pid, backend_start)
    where pg_stat_activity.xact_start is not distinct from planned.xact_start
      and (planned.query_start is null
        or (pg_stat_activity.query_start = planned.query_start and state = 'active'))
  )`

const nobody = (which: number | 'idle', idleForS: number): TabibError =>
  which === 'idle'
    ? new TabibError('NOT_NEEDED', `no session has been idle in a transaction for ${idleForS} s`, {
        suggestions: ['tabib cluster pool'],
      })
    : new TabibError('NOT_FOUND', `no session has the process ${which} any more`, {
        suggestions: ['tabib cluster pool'],
      })

function leftAlone({ pid, kind, application }: Session, by: EndBy): TabibError {
  const what = {
    own: 'the session that asks',
    replication: `replication (${application}): a standby would lag`,
    worker: `a worker of tabib (${application}); it is stopped by SIGTERM, and takes up its work again by itself`,
    client: 'a client',
  }[kind]
  return new TabibError('CLUSTER_REFUSED', `process ${pid} is ${what}`, {
    suggestions: kind === 'own' ? ['tabib cluster pool'] : [`tabib cluster pool --${by} ${pid} --protected`],
  })
}

function assertMayEnd({ pid, user, state, backendStart }: Session, by: EndBy): void {
  if (backendStart === undefined || state === undefined) {
    throw new TabibError(
      'NOT_AUTHORISED',
      `process ${pid} of ${user} shows this role nothing but that it is there`,
      {
        suggestions: ['grant pg_monitor to tabib', 'docs/cluster.md'],
      },
    )
  }
  if (by === 'cancel' && state !== 'active') {
    throw new TabibError('CLUSTER_REFUSED', `process ${pid} is ${state}: there is no statement to cancel`, {
      suggestions: [`tabib cluster pool --terminate ${pid} --dry-run`],
    })
  }
}

/** What Postgres would refuse with the first of them is refused for all, before anything is done. */
async function assertAllowed(db: Queryable, sessions: readonly Session[]): Promise<void> {
  const refused = await db.query<{ user: string; superuser: boolean }>(
    `select rolname as user, rolsuper as superuser from pg_roles
     where rolname = any($1) and not (select rolsuper from pg_roles where rolname = current_user)
       and (rolsuper or not (pg_has_role(current_user, oid, 'usage')
         or pg_has_role(current_user, 'pg_signal_backend', 'usage')))`,
    [[...new Set(sessions.map(({ user }) => user))]],
  )
  const [first] = refused
  if (!first) return
  throw new TabibError(
    'NOT_AUTHORISED',
    first.superuser
      ? `${first.user} is a superuser, whose sessions only another one may end`
      : `this role may not end sessions of ${first.user}`,
    {
      suggestions: first.superuser
        ? ['docs/cluster.md']
        : ['grant pg_signal_backend to tabib', 'docs/cluster.md'],
    },
  )
}
