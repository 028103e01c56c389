/** The CLI's promise: every outcome has one exit code (docs/cli.md). */
export const EXIT = {
  ok: 0,
  findings: 1,
  usage: 2,
  unreachable: 3,
  unauthorised: 4,
  refused: 5,
  stalePlan: 6,
  partial: 7,
  timedOut: 8,
  bug: 70,
  interrupted: 130,
} as const

/**
 * Every error code with the exit code it ends a command with. A code is a promise to scripts: add, never rename.
 * `docs/errors.md` lists the same codes; a test holds the two together.
 */
export const ERROR_CODES = {
  USAGE: EXIT.usage,
  CONFIG_INVALID: EXIT.usage,
  NOT_FOUND: EXIT.usage,
  TENANT_INVALID: EXIT.usage,
  STATEMENT_INVALID: EXIT.usage,
