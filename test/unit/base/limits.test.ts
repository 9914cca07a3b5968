import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';

/** Both files of the native side. */
const HEADER = ['core', 'nbd']
  .map((part) => readFileSync(new URL(`../../../native/${part}/limits.h`, import.meta.url), 'utf8'))
  .join('\n');

/** The value of a constant of limits.h that is a number, a shift, or the name of another one. */
function nativeLimit(name: string): number {
  const text = new RegExp(`\\b${name} = ([^;]+);`).exec(HEADER)?.[1]?.trim();
  if (text === undefined) throw new Error(`limits.h has no ${name}`);
  const shift = /^(?:uint64_t\{)?(\d+)u?\}? << (\w+)$/.exec(text);
  if (shift?.[1] !== undefined && shift[2] !== undefined) {
    const by = /^\d+$/.test(shift[2]) ? Number(shift[2]) : nativeLimit(shift[2]);
    return Number(shift[1]) * 2 ** by;
  }
  return /^\d+$/.test(text) ? Number(text) : nativeLimit(text);
}

test.each([
  ['minVolumeBytes', 'kMinVolumeBytes'],
  ['maxVolumeBytes', 'kMaxVolumeBytes'],
  ['volumeNameBytes', 'kMaxNameBytes'],
  ['pairsPerEstablish', 'kMaxPairsPerEstablish'],
  ['nbdPayloadBytes', 'kMaxPayloadBytes'],
  ['nbdContexts', 'kMaxContexts'],
] as const)('%s equals %s of limits.h', (key, name) => {
  expect(LIMITS[key]).toBe(nativeLimit(name));
});

test('the limits of connections are those of native/nbd/limits.h', () => {
  const header = new URL('../../../native/nbd/limits.h', import.meta.url);
  const text = readFileSync(header, 'utf8');
  const mib = Number(/ kSharedBufferBytes = size_t\{(\d+)\} << 20;/.exec(text)?.[1]);
  expect(LIMITS.nbdMemoryBytes).toBe(mib * 2 ** 20);
  expect(LIMITS.nbdPeerTimeoutSeconds).toBe(Number(/ kPeerTimeout\{(\d+)\};/.exec(text)?.[1]));
  expect(text).toContain('kMaxConnections = kMaxOpSlots - kMaxAsyncOps - 64;');
  expect(HEADER).toContain('kMaxOpSlots = 1024 + kMaxAsyncOps;');
  expect(LIMITS.nbdConnections).toBe(1024 - 64);
});

test('every limit is a positive number', () => {
  for (const [name, value] of Object.entries(LIMITS)) {
    expect(Number.isFinite(value) && value > 0, name).toBe(true);
  }
});

test('limits that build on each other fit', () => {
  // A GO with a name of the longest allowed length must be parsed, not refused as too big.
  expect(LIMITS.nbdOptionDataBytes).toBeGreaterThan(LIMITS.nbdStringBytes + 4 + 2 + 2 * 1024);
  expect(LIMITS.nbdOptionDrainBytes).toBeGreaterThan(LIMITS.nbdOptionDataBytes);
  expect(LIMITS.volumeNameBytes).toBeLessThan(LIMITS.nbdStringBytes);
  // One LIST of a full array: header, length, serial and the longest description of 4096 volumes.
  expect(LIMITS.nbdListBytesPerConnection).toBeGreaterThan(4096 * (20 + 4 + 8 + 256));
});
