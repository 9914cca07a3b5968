/**
 * Times of schedules in cron form: `MINUTE HOUR DAY MONTH WEEKDAY`, with lists, ranges, steps,
 * names of months and weekdays, and `@hourly` and its kin. As in cron(8), a day matches when day of
 * month or weekday does, if both are restricted.
 *
 * When clocks change, as cron does it: a time of day that is skipped is run at the change, one that
 * comes twice is run the first time. Schedules of every hour (`*`) go by elapsed time.
 */

import { FlashlunError } from './errors.js';
import { LIMITS } from './limits.js';
import { shorten } from './shorten.js';

export interface Cron {
  readonly text: string;
  /** IANA name, or UTC. */
  readonly timeZone: string;
  readonly minutes: ReadonlySet<number>;
  readonly hours: ReadonlySet<number>;
  readonly days: ReadonlySet<number>;
  readonly months: ReadonlySet<number>;
  /** 0 is Sunday. */
  readonly weekdays: ReadonlySet<number>;
  /** Which of the fields are not `*`. */
  readonly restricted: {
    readonly hours: boolean;
    readonly days: boolean;
    readonly weekdays: boolean;
  };
}

const MACROS: Readonly<Record<string, string>> = {
  '@hourly': '0 * * * *',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@weekly': '0 0 * * 0',
  '@monthly': '0 0 1 * *',
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
};

interface Field {
  readonly name: string;
  readonly first: number;
  readonly last: number;
  readonly names?: readonly string[];
}

const MONTHS = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const WEEKDAYS = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const FIELDS: readonly Field[] = [
  { name: 'minute', first: 0, last: 59 },
  { name: 'hour', first: 0, last: 23 },
  { name: 'day of month', first: 1, last: 31 },
  { name: 'month', first: 1, last: 12, names: MONTHS },
  { name: 'weekday', first: 0, last: 7, names: WEEKDAYS },
];

const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
/** The 29th of February comes within eight years. */
const SEARCH_MS = 9 * 366 * DAY_MS;

/** @throws FlashlunError INVALID_ARGUMENT: not such a text, no such time zone, or never */
export function parseCron(text: string, timeZone: string): Cron {
  checkTimeZone(timeZone);
  const cron = compileCron(text, timeZone);
  if (nextTime(cron, Date.UTC(2000, 0, 1)) === undefined) throw refused(text, 'it never comes');
  return cron;
}

/** The same of what was parsed before. */
export function compileCron(text: string, timeZone: string): Cron {
  const plain = text.trim().toLowerCase();
  const words = (MACROS[plain] ?? plain).split(/\s+/);
  if (words.length !== FIELDS.length || text.length > LIMITS.cronChars) {
    throw refused(text, 'it takes five fields (minute hour day month weekday), or @daily');
  }
  const [minutes, hours, days, months, weekdays] = FIELDS.map((field, index) =>
    parseField(text, field, words[index] ?? ''),
  ) as [Set<number>, Set<number>, Set<number>, Set<number>, Set<number>];
  if (weekdays.delete(7)) weekdays.add(0);
  const isAny = (index: number): boolean => /^\*(\/1)?$/.test(words[index] ?? '');
  const restricted = { hours: !isAny(1), days: !isAny(2), weekdays: !isAny(4) };
  return { text: text.trim(), timeZone, minutes, hours, days, months, weekdays, restricted };
}

/** The first time after `afterMs` (milliseconds since 1970), or undefined when there is none. */
export function nextTime(cron: Cron, afterMs: number): number | undefined {
  const zone = zoneOf(cron.timeZone);
  let at = Math.floor(afterMs / MINUTE_MS) * MINUTE_MS + MINUTE_MS;
  const endMs = at + SEARCH_MS;
  while (at < endMs) {
    const offset = zone(at);
    const wall = new Date(at + offset);
    const gap = offset - zone(at - MINUTE_MS);
    if (gap > 0 && cron.restricted.hours && matchesWithin(cron, at + offset - gap, gap)) return at;
    if (matches(cron, wall) && !(cron.restricted.hours && isRepeated(zone, at, offset))) return at;
    at += stepFrom(cron, wall);
  }
  return undefined;
}

/** Whether the text names a zone this Node.js knows. @throws FlashlunError INVALID_ARGUMENT */
function checkTimeZone(timeZone: string): void {
  try {
    zoneOf(timeZone)(0);
  } catch (error) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `time zone '${shorten(timeZone)}' is not known. Write for example UTC or Europe/Berlin.`,
      { cause: error },
    );
  }
}

function refused(text: string, reason: string): FlashlunError {
  return new FlashlunError(
    'INVALID_ARGUMENT',
    `schedule '${shorten(text)}' refused: ${reason}. For example "30 2 * * mon-fri".`,
  );
}

/** `1-5`, `*`, `0,30`, `8-18/2`, `mon`. */
function parseField(text: string, field: Field, word: string): Set<number> {
  const found = new Set<number>();
  for (const part of word.split(',')) {
    const match = /^(\*|[a-z0-9]+)(?:-([a-z0-9]+))?(?:\/(\d{1,2}))?$/.exec(part);
    const [, from = '', to, stepText] = match ?? [];
    const step = stepText === undefined ? 1 : Number(stepText);
    const first = from === '*' ? field.first : numberOf(field, from);
    // "5/10" is "5-59/10".
    const open = from === '*' || (stepText !== undefined && to === undefined);
    const last = to === undefined ? (open ? field.last : first) : numberOf(field, to);
    const wrong = match === null || first === undefined || last === undefined || step === 0;
    if (wrong || last < first || (from === '*' && to !== undefined)) {
      throw refused(text, `'${shorten(part)}' is no ${field.name}`);
    }
    for (let value = first; value <= last; value += step) found.add(value);
  }
  return found;
}

function numberOf({ first, last, names }: Field, text: string): number | undefined {
  const named = names?.indexOf(text) ?? -1;
  if (named >= 0) return named + first;
  const value = /^\d{1,2}$/.test(text) ? Number(text) : Number.NaN;
  return value >= first && value <= last ? value : undefined;
}

function matchesDate(cron: Cron, wall: Date): boolean {
  if (!cron.months.has(wall.getUTCMonth() + 1)) return false;
  const day = cron.days.has(wall.getUTCDate());
  const weekday = cron.weekdays.has(wall.getUTCDay());
  const { days, weekdays } = cron.restricted;
  return days && weekdays ? day || weekday : day && weekday;
}

function matches(cron: Cron, wall: Date): boolean {
  return (
    cron.minutes.has(wall.getUTCMinutes()) &&
    cron.hours.has(wall.getUTCHours()) &&
    matchesDate(cron, wall)
  );
}

/** Whether one of the minutes that the clocks skipped would have been a time. */
function matchesWithin(cron: Cron, wallMs: number, lengthMs: number): boolean {
  for (let at = wallMs; at < wallMs + lengthMs; at += MINUTE_MS) {
    if (matches(cron, new Date(at))) return true;
  }
  return false;
}

/** Whether the clocks showed this time before, because they were put back meanwhile. */
function isRepeated(zone: Zone, at: number, offset: number): boolean {
  const before = zone(at - 3 * HOUR_MS);
  if (before <= offset) return false;
  const earlier = at + offset - before;
  return earlier < at && zone(earlier) === before;
}

/** How far the next minute is that is worth looking at; never over a change of the clocks. */
function stepFrom(cron: Cron, wall: Date): number {
  const minute = wall.getUTCMinutes();
  const hour = wall.getUTCHours();
  const toHour = (60 - minute) * MINUTE_MS;
  if (!matchesDate(cron, wall))
    return hour < 23 ? (23 - hour) * HOUR_MS - minute * MINUTE_MS : toHour;
  if (!cron.hours.has(hour)) return toHour;
  for (let next = minute + 1; next < 60; next += 1) {
    if (cron.minutes.has(next)) return (next - minute) * MINUTE_MS;
  }
  return toHour;
}

/** Milliseconds that the clocks of a zone are ahead of UTC. */
type Zone = (atMs: number) => number;

const zones = new Map<string, Zone>();

/** Formatters are expensive to make and there are few zones. */
function zoneOf(timeZone: string): Zone {
  const known = zones.get(timeZone);
  if (known !== undefined) return known;
  const zone = timeZone === 'UTC' ? () => 0 : formattedZone(timeZone);
  if (zones.size >= LIMITS.timeZonesKept) zones.clear();
  zones.set(timeZone, zone);
  return zone;
}

/** @throws RangeError no such zone */
function formattedZone(timeZone: string): Zone {
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone,
    hourCycle: 'h23',
    year: 'numeric',
    month: 'numeric',
    day: 'numeric',
    hour: 'numeric',
    minute: 'numeric',
  });
  return (atMs) => {
    const parts = new Map(format.formatToParts(atMs).map(({ type, value }) => [type, value]));
    const part = (type: Intl.DateTimeFormatPartTypes): number => Number(parts.get(type));
    const date = [part('year'), part('month') - 1, part('day')] as const;
    return (
      Date.UTC(...date, part('hour'), part('minute')) - Math.floor(atMs / MINUTE_MS) * MINUTE_MS
    );
  };
}
