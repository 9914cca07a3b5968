import { closeSync, openSync } from 'node:fs';
import { PassThrough } from 'node:stream';
import { expect, test } from 'vitest';
import { fileWriter, LossyLog, streamWriter } from '../../../src/base/log-sink.js';

test('lost lines are counted, and the count is told when there is room again', () => {
  const lines: string[] = [];
  let hasRoom = true;
  const log = new LossyLog((line) => hasRoom && lines.push(line) > 0);
  log.write('a\n');
  hasRoom = false;
  log.write('b\n');
  log.write('c\n');
  hasRoom = true;
  log.write('d\n');
  log.write('e\n');
  expect(lines.map((line) => line.length)).toEqual([2, lines[1]!.length, 2, 2]);
  expect(JSON.parse(lines[1]!)).toMatchObject({ level: 'warn', dropped: 2 });
  expect(lines.slice(2)).toEqual(['d\n', 'e\n']);
});

test('a full disk refuses a line without an exception', () => {
  const files = ['/dev/full', '/dev/null'].map((path) => openSync(path, 'w'));
  expect(files.map((fd) => fileWriter(fd)('a\n'))).toEqual([false, true]);
  for (const fd of files) closeSync(fd);
});

test('a stalled reader costs a bounded queue', () => {
  const stream = new PassThrough({ highWaterMark: 1 });
  stream.cork();
  const write = streamWriter(stream as unknown as NodeJS.WriteStream, 100);
  const taken = Array.from({ length: 20 }, () => write('123456789\n')).filter(Boolean);
  expect(taken).toHaveLength(10);
});
