import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import {
  ERRORS,
  exitCodeOf,
  FlashlunError,
  fromNative,
  httpStatusOf,
  isErrorCode,
  NATIVE_CODES,
} from '../../../src/base/errors.js';

function native(code: string, message = 'it failed'): Error {
  return Object.assign(new Error(message), { code });
}

describe('the table', () => {
  test.each(Object.entries(ERRORS))('%s has a usable status and exit code', (code, entry) => {
    expect(code).toMatch(/^[A-Z]+(_[A-Z]+)*$/);
    expect(entry.http).toBeGreaterThanOrEqual(400);
    expect(entry.http).toBeLessThan(600);
    expect([2, 3, 4, 5, 6]).toContain(entry.exit);
  });

  test.each([
    ['USAGE', 400, 2],
    ['UNAUTHENTICATED', 401, 5],
    ['VOLUME_NOT_FOUND', 404, 6],
    ['FC_TARGET_IN_USE', 409, 6],
    ['NO_SPACE', 507, 4],
    ['ADDRESS_IN_USE', 500, 4],
  ] as const)('%s is %d and exits %d', (code, http, exit) => {
    const error = new FlashlunError(code, 'text');
    expect(httpStatusOf(error)).toBe(http);
    expect(exitCodeOf(error)).toBe(exit);
  });

  test('a client that cannot connect exits 3', () => {
    expect(exitCodeOf(new FlashlunError('CANNOT_CONNECT', 'no server'))).toBe(3);
  });

  test.each([new Error('x'), 'text', undefined, null, 7])('%s counts as INTERNAL', (thrown) => {
    expect(httpStatusOf(thrown)).toBe(500);
    expect(exitCodeOf(thrown)).toBe(4);
  });

  test.each([
    ['NO_SPACE', true],
    ['toString', false],
    ['__proto__', false],
    ['', false],
    [7, false],
    [undefined, false],
  ])('isErrorCode(%s) is %s', (value, expected) => {
    expect(isErrorCode(value)).toBe(expected);
  });
});

describe('FlashlunError', () => {
  test('keeps code, message, details and cause', () => {
    const cause = new Error('why');
    const error = new FlashlunError('VOLUME_IN_USE', '1203 is attached', {
      details: { volume: '1203' },
      cause,
    });
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      name: 'FlashlunError',
      code: 'VOLUME_IN_USE',
      message: '1203 is attached',
      details: { volume: '1203' },
      cause,
    });
  });

  test('leaves out what was not given', () => {
    const error = new FlashlunError('INTERNAL', 'text');
    expect('details' in error).toBe(false);
    expect('cause' in error).toBe(false);
  });

  test('an empty message becomes the one of the table, or the code', () => {
    expect(new FlashlunError('NO_SPACE', '').message).toBe('the pool is full');
    expect(new FlashlunError('LSS_FULL', '').message).toBe('LSS_FULL');
  });
});

describe('fromNative', () => {
  test.each(Object.entries(NATIVE_CODES))('%s becomes %s', (nativeCode, code) => {
    const cause = native(nativeCode);
    const error = fromNative(cause, 'create 1203');
    expect(error).toMatchObject({ code, message: 'create 1203: it failed', cause });
  });

  test('knows every code of native/core/status.h', () => {
    const header = readFileSync(new URL('../../../native/core/status.h', import.meta.url), 'utf8');
    const body = /enum class Code[^{]*\{([^}]*)\}/.exec(header)?.[1] ?? '';
    const codes = [...body.matchAll(/^\s*k([A-Za-z]+),/gm)]
      .map((match) => (match[1] ?? '').replace(/(?<=[a-z])(?=[A-Z])/g, '_').toUpperCase())
      .filter((code) => code !== 'OK');
    expect(codes.length).toBeGreaterThan(5);
    expect(Object.keys(NATIVE_CODES).sort()).toEqual(codes.sort());
  });

  test('a FlashlunError passes unchanged', () => {
    const error = new FlashlunError('LSS_FULL', 'LSS 12 is full');
    expect(fromNative(error, 'create')).toBe(error);
  });

  test('an empty context adds nothing', () => {
    expect(fromNative(native('IO'), '').message).toBe('it failed');
  });

  test.each([
    [native('ENOENT'), 'ctx: it failed'],
    [native('toString'), 'ctx: it failed'],
    [new TypeError('bug'), 'ctx: bug'],
    ['thrown text', 'ctx: thrown text'],
    [undefined, 'ctx: undefined'],
    [null, 'ctx: null'],
  ])('%s is INTERNAL', (thrown, message) => {
    expect(fromNative(thrown, 'ctx')).toMatchObject({ code: 'INTERNAL', message });
  });
});
