/** Tables as rsList2105s prints them: a header, a run of dashes under each title, rows. */

/** Names stand in the first 19 columns, serials begin at column 20 (white paper 6.2.1). */
export const NAME_COLUMN = 19;

const GAP = 2;

/**
 * The lines of a table. Columns are as wide as their widest cell and two blanks, the first one at
 * least `firstColumn`; the last one is not padded.
 */
export function table(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  firstColumn = 0,
): string[] {
  const widths = header.map((title, column) => {
    const widest = Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)) + GAP;
    return column === 0 ? Math.max(widest, firstColumn) : widest;
  });
  const dashes = header.map((title) => '-'.repeat(title.length));
  return [header, dashes, ...rows].map((row) =>
    row
      .map((text, column) => text.padEnd(widths[column] ?? 0))
      .join('')
      .trimEnd(),
  );
}
