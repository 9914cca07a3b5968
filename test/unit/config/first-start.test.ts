import { existsSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { checkCapacity, makeDataDir, writeFileAtomically } from '../../../src/first-start.js';
import { scoped } from '../../helpers/cleanup.js';

test('a full disk is said so, with a way out, and leaves no half file', () =>
  scoped(async (scope) => {
    const file = join(await scope.tempDir(), 'flashlun.json');
    const temporary = `${file}.${process.pid}.tmp`;
    symlinkSync('/dev/full', temporary);
    const write = () => {
      writeFileAtomically(file, 'x');
    };
    expect(write).toThrow(/cannot write .*flashlun.json: no space is left. Free some space/);
    symlinkSync('/dev/full', temporary);
    expect(write).toThrow(expect.objectContaining({ code: 'NO_SPACE' }) as Error);
    expect(existsSync(file)).toBe(false);
  }));

test('a data directory is made with those above it', () =>
  scoped(async (scope) => {
    const dir = join(await scope.tempDir(), 'a/b/c');
    makeDataDir(dir);
    makeDataDir(dir);
    expect(existsSync(dir)).toBe(true);
  }));

test.each(['/proc/xx', '/proc/xx/yy', '/etc/passwd', '/etc/passwd/x'])('%s is refused', (dir) => {
  expect(() => {
    makeDataDir(dir);
  }).toThrow(/^cannot make the data directory \/[^:]*: [^:]*\. Give --data a directory that/);
});

test('the capacity of a pool is fixed', () => {
  checkCapacity(undefined, 1024);
  checkCapacity(1024 * 65_536 + 1, 1024);
  checkCapacity(2 ** 52, 2 ** 32);
  expect(() => {
    checkCapacity(2 ** 30, 1024);
  }).toThrow(/--pool-capacity 1073741824 refused: .*first start, to 67108864 bytes/);
});
