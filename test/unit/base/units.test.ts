import { describe, expect, test } from 'vitest';
import { FlashlunError } from '../../../src/base/errors.js';
import { formatSize, parseSize } from '../../../src/base/units.js';

describe('parseSize', () => {
  test.each([
    ['0', 0],
    ['65536', 65536],
    ['512B', 512],
    ['1K', 1024],
    ['64KiB', 65536],
    ['512M', 512 * 2 ** 20],
    ['10G', 10 * 2 ** 30],
    ['10GiB', 10 * 2 ** 30],
    ['10 GiB', 10 * 2 ** 30],
    ['10gib', 10 * 2 ** 30],
    [' 1t ', 2 ** 40],
    ['1.5T', 1.5 * 2 ** 40],
    ['64T', 64 * 2 ** 40],
    ['7P', 7 * 2 ** 50],
  ])('%s is %d bytes', (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  test.each([
    '',
    ' ',
    'G',
    'ten',
    '-1',
    '+1',
    '1e3',
    '0x10',
    '10GB',
    '10kb',
    '10iB',
    '10X',
    '10G5',
    '1..5G',
    '.5G',
    '0.0001K',
    '1.5',
    '9P',
    '99999999999999999999',
    `1${'0'.repeat(400)}`,
    'NaN',
    'Infinity',
    '10\0G',
  ])('refuses %j', (text) => {
    expect(() => parseSize(text)).toThrow(FlashlunError);
    expect(() => parseSize(text)).toThrow(/size/);
  });
});

describe('formatSize', () => {
  test.each([
    [0, '0 B'],
    [1023, '1023 B'],
    [1024, '1.0 KiB'],
    [65536, '64.0 KiB'],
    [2 ** 20 - 1, '1.0 MiB'],
    [1.5 * 2 ** 20, '1.5 MiB'],
    [10 * 2 ** 30, '10.0 GiB'],
    [2 ** 40 - 1, '1.0 TiB'],
    [64 * 2 ** 40, '64.0 TiB'],
    [8 * 2 ** 50, '8.0 PiB'],
  ])('%d is %s', (bytes, text) => {
    expect(formatSize(bytes)).toBe(text);
  });
});
