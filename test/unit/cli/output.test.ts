// What people read: alignment, control characters, times.
import { describe, expect, test } from 'vitest';
import {
  formatFields,
  formatJson,
  formatPercent,
  formatTable,
  formatTime,
} from '../../../src/cli/output.js';

interface Row {
  readonly id: string;
  readonly size: string;
  readonly clients: number;
  readonly name: string;
}

const COLUMNS = [
  { title: 'ID', value: (row: Row) => row.id },
  { title: 'SIZE', value: (row: Row) => row.size },
  { title: 'CLIENTS', value: (row: Row) => row.clients },
  { title: 'NAME', value: (row: Row) => row.name },
];

describe('formatTable', () => {
  test('aligns numbers and sizes to the right, text to the left, without blanks at the end', () => {
    const rows = [
      { id: '1203', size: '1.0 GiB', clients: 0, name: '' },
      { id: '1204', size: '512.0 MiB', clients: 12, name: 'db' },
    ];
    expect(formatTable(COLUMNS, rows)).toBe(
      [
        'ID         SIZE  CLIENTS  NAME',
        '1203    1.0 GiB        0',
        '1204  512.0 MiB       12  db',
        '',
      ].join('\n'),
    );
  });

  test('prints the header alone when there are no rows', () => {
    expect(formatTable(COLUMNS, [])).toBe('ID  SIZE  CLIENTS  NAME\n');
  });

  test('a name cannot send control sequences to the terminal', () => {
    const rows = [{ id: '1203', size: '1.0 GiB', clients: 0, name: 'x\x1b[2J\ny' }];
    expect(formatTable(COLUMNS, rows)).toContain('x?[2J?y\n');
  });
});

test('formatFields puts the values in one column', () => {
  const fields = [
    ['id', '1203'],
    ['clients', 0],
    ['name', ''],
  ] as const;
  expect(formatFields(fields)).toBe('id       1203\nclients  0\nname\n');
});

test('formatJson prints one document with a final newline', () => {
  expect(formatJson({ volumes: [] })).toBe('{\n  "volumes": []\n}\n');
});

test.each([
  [0, '0 %'],
  [99.99, '99 %'],
  [100, '100 %'],
])('formatPercent(%f) is %s: never 100 before the end', (percent, text) => {
  expect(formatPercent(percent)).toBe(text);
});

test('formatTime prints local time, and what is no time unchanged', () => {
  const local = new Date(2026, 10, 2, 3, 4, 5);
  expect(formatTime(local.toISOString())).toBe('2026-11-02 03:04:05');
  expect(formatTime('yesterday')).toBe('yesterday');
});
