/**
 * A statement without its literals, comments and white space: what a patient's name or number may stand in. Also of a
 * text that was cut off, as `track_activity_query_size` cuts it: a literal that does not end is one to the end.
 *
 * Lexical rules: PostgreSQL 15, section 4.1. What may be read in two ways (a backslash before a quote, which
 * `standard_conforming_strings` decides) is left out to the end.
 */
export function redactSql(text: string): string {
  const shown = text.replace(
    TOKEN,
    (token, escapes?: string, plain?: string, tag?: string, other?: string) => {
      if (plain !== undefined && /\\'/.test(token)) return DOUBT
      if (escapes !== undefined || plain !== undefined || tag !== undefined) return '?'
      // Comments nest.
      if (other !== undefined) return other.indexOf('/*', 2) > 0 ? DOUBT : ' '
      return /^\d|^\.\d/.test(token) ? '?' : token
    },
  )
  return shown
    .replace(new RegExp(`${DOUBT}.*$`, 's'), '? …')
    .replace(/\s+/g, ' ')
    .replace(/\?(?:, ?\?)+/g, '?, …')
    .trim()
}

const DOUBT = '\u0000'

const TOKEN = new RegExp(
  [
    // E'…', where a backslash escapes.
    String.raw`\b([eE]'(?:[^'\\]|''|\\[\s\S])*(?:'|\\?$))`,
    // '…', also U&'…', B'…', X'…', N'…'.
    String.raw`((?:\b[uU]&|\b[bBxXnN])?'(?:[^']|'')*(?:'|$))`,
    // $tag$…$tag$
    String.raw`(?<![\w$\u0080-\uffff])\$((?:[A-Za-z_\u0080-\uffff][\w\u0080-\uffff]*)?)\$(?:[\s\S]*?\$\3\$|[\s\S]*$)`,
    String.raw`(--[^\n]*|\/\*[\s\S]*?(?:\*\/|$))`,
    // Parameters, identifiers and quoted identifiers stay; a number goes.
    String.raw`\$\d+`,
    '"(?:[^"]|"")*(?:"|$)',
    String.raw`[A-Za-z_\u0080-\uffff][\w$\u0080-\uffff]*`,
    String.raw`\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?`,
  ].join('|'),
  'g',
)
