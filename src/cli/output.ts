/**
 * What people read: tables and field lists. Programs read `--json`, which is the API's answer
 * unchanged.
 */

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string | number;
}

const GAP = '  ';

/**
 * A table with a header line and columns as wide as their widest cell; columns of numbers are
 * aligned to the right. Ends with a newline. No rows: the header alone, so that scripts which
 * skip one line keep working.
 */
export function formatTable<Row>(columns: readonly Column<Row>[], rows: readonly Row[]): string {
  const cells = rows.map((row) => columns.map((column) => cellText(column.value(row))));
  const layout = columns.map((column, index) => ({
    width: Math.max(column.title.length, ...cells.map((line) => line[index]?.length ?? 0)),
    right: rows.length > 0 && rows.every((row) => isMeasure(column.value(row))),
  }));
  const lines = [columns.map((column) => column.title), ...cells].map((line) =>
    line
      .map((text, index) => pad(text, layout[index]))
      .join(GAP)
      .trimEnd(),
  );
  return `${lines.join('\n')}\n`;
}

/** `name  value` lines with the values in one column. */
export function formatFields(fields: readonly (readonly [string, string | number])[]): string {
  const width = Math.max(...fields.map(([name]) => name.length));
  const lines = fields.map(([name, value]) =>
    `${name.padEnd(width)}${GAP}${cellText(value)}`.trimEnd(),
  );
  return `${lines.join('\n')}\n`;
}

/** One JSON document, indented, with a final newline. */
export function formatJson(value: unknown): string {
  return `${JSON.stringify(value, undefined, 2)}\n`;
}

/**
 * `2026-11-22T10:40:11.123Z` -> `2026-11-22 10:40:11` in local time; what is no time passes
 * unchanged.
 */
export function formatTime(iso: string): string {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return iso;
  const date = [time.getFullYear(), time.getMonth() + 1, time.getDate()];
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()];
  return `${date.map(twoDigits).join('-')} ${clock.map(twoDigits).join(':')}`;
}

/** Whole percent, rounded down: "100 %" must not appear before the last track is there. */
export function formatPercent(percent: number): string {
  return `${Math.floor(percent)} %`;
}

function twoDigits(value: number): string {
  return String(value).padStart(2, '0');
}

/** Text from users and files may hold control characters, which could rewrite the terminal. */
function cellText(value: string | number): string {
  return String(value).replace(/\p{Cc}/gu, '?');
}

function isMeasure(value: string | number): boolean {
  return typeof value === 'number' || /^[\d.]+ (B|[KMGTP]iB|%)$/.test(value);
}

function pad(text: string, layout: { width: number; right: boolean } | undefined): string {
  if (layout === undefined) return text;
  return layout.right ? text.padStart(layout.width) : text.padEnd(layout.width);
}
