// Times in cron form, also when clocks change.
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { nextTime, parseCron } from '../../../src/base/cron.js';

/** The next `count` times after `after`, as ISO 8601 without seconds. */
function times(text: string, after: string, count: number, zone = 'UTC'): string[] {
  const cron = parseCron(text, zone);
  const found: string[] = [];
  let at = Date.parse(after);
  for (let index = 0; index < count; index += 1) {
    const next = nextTime(cron, at);
    if (next === undefined) break;
    found.push(new Date(next).toISOString().slice(0, 16));
    at = next;
  }
  return found;
}

describe('times', () => {
  test.each<[string, string, string[]]>([
    ['* * * * *', '2026-01-01T00:00:30Z', ['2026-01-01T00:01', '2026-01-01T00:02']],
    ['*/15 * * * *', '2026-01-01T23:30:00Z', ['2026-01-01T23:45', '2026-01-02T00:00']],
    ['30 2 * * *', '2026-01-31T02:30:00Z', ['2026-02-01T02:30', '2026-02-02T02:30']],
    ['0 9-17/4 * * mon-fri', '2026-01-02T14:00:00Z', ['2026-01-02T17:00', '2026-01-05T09:00']],
    ['0 0 29 feb *', '2026-01-01T00:00:00Z', ['2028-02-29T00:00', '2032-02-29T00:00']],
    ['0 0 31 * *', '2026-01-31T00:00:00Z', ['2026-03-31T00:00', '2026-05-31T00:00']],
    // Day of month or weekday, when both are given.
    ['0 0 13 * fri', '2026-02-01T00:00:00Z', ['2026-02-06T00:00', '2026-02-13T00:00']],
    ['0 0 * * 7', '2026-01-01T00:00:00Z', ['2026-01-04T00:00', '2026-01-11T00:00']],
    ['5/20 1,3 * JAN Sun', '2026-01-04T01:10:00Z', ['2026-01-04T01:25', '2026-01-04T01:45']],
    ['@yearly', '2026-06-01T00:00:00Z', ['2027-01-01T00:00', '2028-01-01T00:00']],
  ])('%s', (text, after, expected) => {
    expect(times(text, after, expected.length)).toEqual(expected);
  });

  test('in a time zone', () => {
    expect(times('30 2 * * *', '2026-07-01T00:00:00Z', 2, 'Europe/Berlin')).toEqual([
      '2026-07-01T00:30',
      '2026-07-02T00:30',
    ]);
    expect(times('0 12 * * *', '2026-01-01T00:00:00Z', 1, 'Asia/Kolkata')).toEqual([
      '2026-01-01T06:30',
    ]);
  });
});

describe('when clocks change', () => {
  // Europe/Berlin: 2026-03-29 02:00 -> 03:00, 2026-10-25 03:00 -> 02:00.
  test('a time of day that is skipped comes at the change', () => {
    expect(times('30 2 * * *', '2026-03-28T00:00:00Z', 3, 'Europe/Berlin')).toEqual([
      '2026-03-28T01:30',
      '2026-03-29T01:00',
      '2026-03-30T00:30',
    ]);
  });

  test('one that comes twice is used once, the first time', () => {
    expect(times('30 2 * * *', '2026-10-24T12:00:00Z', 2, 'Europe/Berlin')).toEqual([
      '2026-10-25T00:30',
      '2026-10-26T01:30',
    ]);
  });

  test('every hour goes by elapsed time', () => {
    expect(times('30 * * * *', '2026-10-24T23:00:00Z', 4, 'Europe/Berlin')).toEqual([
      '2026-10-24T23:30',
      '2026-10-25T00:30',
      '2026-10-25T01:30',
      '2026-10-25T02:30',
    ]);
    expect(times('30 * * * *', '2026-03-29T00:00:00Z', 2, 'Europe/Berlin')).toEqual([
      '2026-03-29T00:30',
      '2026-03-29T01:30',
    ]);
  });

  test('half an hour, on the other side of the world', () => {
    // Lord Howe: 2026-10-04 02:00 -> 02:30, 2026-04-05 02:00 -> 01:30.
    expect(times('15 2 * * *', '2026-10-02T20:00:00Z', 2, 'Australia/Lord_Howe')).toEqual([
      '2026-10-03T15:30',
      '2026-10-04T15:15',
    ]);
    expect(times('45 1 * * *', '2026-04-04T00:00:00Z', 2, 'Australia/Lord_Howe')).toEqual([
      '2026-04-04T14:45',
      '2026-04-05T15:15',
    ]);
  });
});

test.each([
  ['', /five fields/],
  ['* * * *', /five fields/],
  ['* * * * * *', /five fields/],
  ['60 * * * *', /'60' is no minute/],
  ['* 24 * * *', /is no hour/],
  ['* * 0 * *', /is no day of month/],
  ['* * * 13 *', /is no month/],
  ['* * * * 8', /is no weekday/],
  ['* * * * funday', /is no weekday/],
  ['5-1 * * * *', /is no minute/],
  ['*/0 * * * *', /is no minute/],
  ['1,,2 * * * *', /is no minute/],
  ['1- * * * *', /is no minute/],
  ['*-5 * * * *', /is no minute/],
  ['0 0 30 2 *', /never comes/],
  [`${'1,'.repeat(400)}1 * * * *`, /five fields/],
  ['@never', /five fields/],
])('%j is refused', (text, message) => {
  expect(() => parseCron(text, 'UTC')).toThrow(message);
});

test('an unknown time zone is refused', () => {
  expect(() => parseCron('@daily', 'Mars/Olympus')).toThrow(
    /time zone 'Mars\/Olympus' is not known/,
  );
});

/** Every minute looked at, with the rules of cron(8) written anew. */
function bruteForce(fields: readonly number[][], restricted: [boolean, boolean], after: number) {
  const [minutes, hours, days, months, weekdays] = fields as [
    number[],
    number[],
    number[],
    number[],
    number[],
  ];
  for (let at = after + 60_000; at < after + 400 * 86_400_000; at += 60_000) {
    const time = new Date(at);
    const inDay = days.includes(time.getUTCDate());
    const inWeek = weekdays.includes(time.getUTCDay());
    const isDay = restricted.every(Boolean) ? inDay || inWeek : inDay && inWeek;
    const isTime = minutes.includes(time.getUTCMinutes()) && hours.includes(time.getUTCHours());
    if (isTime && isDay && months.includes(time.getUTCMonth() + 1)) return at;
  }
  return undefined;
}

test('the next time is that which looking at every minute finds', () => {
  const all = (first: number, last: number): number[] =>
    Array.from({ length: last - first + 1 }, (_, index) => first + index);
  const field = (first: number, last: number, open = last) =>
    fc.oneof(
      fc.constant({ text: '*', values: all(first, open) }),
      fc
        .uniqueArray(fc.integer({ min: first, max: last }), { minLength: 1, maxLength: 4 })
        .map((values) => ({ text: values.join(','), values })),
    );
  const fields = fc.tuple(field(0, 59), field(0, 23), field(1, 28, 31), field(1, 12), field(0, 6));
  const start = fc.integer({ min: 0, max: 20 * 365 * 1440 });
  fc.assert(
    fc.property(fields, start, (parts, minutes) => {
      const after = Date.UTC(2020, 0, 1) + minutes * 60_000;
      const cron = parseCron(parts.map(({ text }) => text).join(' '), 'UTC');
      const restricted: [boolean, boolean] = [parts[2].text !== '*', parts[4].text !== '*'];
      const values = parts.map((part) => part.values);
      const expected = bruteForce(values, restricted, after);
      const found = nextTime(cron, after);
      if (expected === undefined) expect(found).toBeGreaterThan(after + 399 * 86_400_000);
      else expect(found).toBe(expected);
    }),
    { numRuns: 60 },
  );
});
