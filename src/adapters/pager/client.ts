import { readFile } from 'node:fs/promises'
import { TabibError } from '../../errors.ts'
import type { Fetch } from '../http/client.ts'

export interface PagerOptions {
  fetch: Fetch
  /** Base URL of Alertmanager; its API v2 is used. */
  alertmanagerUrl?: string | undefined
  /** Takes one JSON object a page by POST. */
  webhookUrl?: string | undefined
  /** Read at every call, so that a rotated token is taken up. */
  webhookTokenFile?: string | undefined
  timeoutMs?: number
}

/** What a pager is told of an incident: ids and words, never personal data. */
export interface Page {
  incidentId: string
  mode: string
  severity: string
  service: string | null
  title: string
  runbook: string | null
  occurrences: number
  startedAt: Date
  /** Teams that must hear of it besides whoever is on call: `['ops', 'compliance']`. */
  notify: string[]
}

/** Both calls may be repeated: receivers see one alert for one incident id. */
export interface Pager {
  /** Hosts that pages go to; empty when none is configured. */
  readonly targets: string[]
  /** @throws TabibError PAGER_UNREACHABLE when a target did not take it. */
  raise(page: Page): Promise<void>
  /** @throws TabibError PAGER_UNREACHABLE when a target did not take it. */
  resolve(page: Page, resolvedAt: Date): Promise<void>
}

// Alertmanager ends an alert that nobody repeats after `resolve_timeout`; ours is raised once and ends when we say so.
const NEVER_ENDS_MS = 10 * 365 * 86_400_000

/** The only client of whoever wakes people: Alertmanager, a webhook, or both. Opens nothing until it is used. */
export function openPager(options: PagerOptions): Pager {
  const { fetch, alertmanagerUrl, webhookUrl, webhookTokenFile, timeoutMs = 5_000 } = options
  const send = async (page: Page, resolvedAt: Date | undefined) => {
    const calls: Promise<void>[] = []
    if (alertmanagerUrl !== undefined) {
      const url = `${alertmanagerUrl.replace(/\/+$/, '')}/api/v2/alerts`
      calls.push(post({ fetch, url, body: [alertOf(page, resolvedAt)], headers: {}, timeoutMs }))
    }
    if (webhookUrl !== undefined) {
      const status = resolvedAt === undefined ? 'firing' : 'resolved'
      const headers: Record<string, string> = { 'idempotency-key': `${page.incidentId}:${status}` }
      if (webhookTokenFile !== undefined)
        headers.authorization = `Bearer ${await readToken(webhookTokenFile)}`
      const body = { status, ...page, resolvedAt: resolvedAt ?? null }
      calls.push(post({ fetch, url: webhookUrl, body, headers, timeoutMs }))
    }
    const failed = (await Promise.allSettled(calls)).find((call) => call.status === 'rejected')
    if (failed) throw failed.reason
  }
  return {
    targets: [alertmanagerUrl, webhookUrl].filter((url) => url !== undefined).map((url) => new URL(url).host),
    raise: (page) => send(page, undefined),
    resolve: (page, resolvedAt) => send(page, resolvedAt),
  }
}

/** An alert of Alertmanager's API v2. Its labels are its identity: the same for raising and resolving. */
function alertOf(page: Page, resolvedAt: Date | undefined) {
  return {
    labels: {
      alertname: page.mode,
      incident: page.incidentId,
      severity: page.severity,
      ...(page.service === null ? {} : { service: page.service }),
      ...(page.notify.length === 0 ? {} : { notify: page.notify.join(',') }),
    },
    annotations: {
      summary: page.title,
      occurrences: String(page.occurrences),
      command: `tabib incident show ${page.incidentId}`,
      ...(page.runbook === null ? {} : { runbook: page.runbook }),
    },
    startsAt: page.startedAt,
    endsAt: resolvedAt ?? new Date(page.startedAt.getTime() + NEVER_ENDS_MS),
  }
}

async function post(request: {
  fetch: Fetch
  url: string
  body: unknown
  headers: Record<string, string>
  timeoutMs: number
}): Promise<void> {
  const { host } = new URL(request.url)
  let response: Response
  try {
    response = await request.fetch(request.url, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...request.headers },
      body: JSON.stringify(request.body),
      signal: AbortSignal.timeout(request.timeoutMs),
      redirect: 'error',
    })
  } catch (cause) {
    throw unreachable(`the pager at ${host} is unreachable: ${reasonOf(cause, request.timeoutMs)}`, cause)
  }
  const answer = await response.text().catch(() => '')
  if (!response.ok) {
    throw unreachable(
      `the pager at ${host} refused the page: HTTP ${response.status} ${answer.slice(0, 200)}`.trim(),
    )
  }
}

async function readToken(file: string): Promise<string> {
  try {
    return (await readFile(file, 'utf8')).trim()
  } catch (cause) {
    throw unreachable(
      `the pager's token cannot be read from ${file}: ${(cause as NodeJS.ErrnoException).code}`,
      cause,
    )
  }
}

function reasonOf(cause: unknown, timeoutMs: number): string {
  if (!(cause instanceof Error)) return String(cause)
  if (cause.name === 'TimeoutError') return `no answer within ${timeoutMs} ms`
  const { cause: deeper } = cause
  return deeper instanceof Error
    ? deeper.message || String((deeper as { code?: string }).code)
    : cause.message
}

function unreachable(message: string, cause?: unknown): TabibError {
  return new TabibError('PAGER_UNREACHABLE', message, {
    cause,
    suggestions: ['tabib incident list', 'tabib doctor'],
  })
}
