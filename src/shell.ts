/** A word as a POSIX shell reads it back, for a command that is printed to be pasted. */
export const quote = (word: string): string =>
  /^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`
