// Which server, user and password win, and that a password never goes to a server it does not
// belong to.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { parseServerUrl } from '../../../src/base/api-client.js';
import { FlashlunError } from '../../../src/base/errors.js';
import { type ConnectionFlags, resolveConnection } from '../../../src/cli/connection.js';

let cwd: string;

beforeEach(() => {
  cwd = mkdtempSync(path.join(os.tmpdir(), 'flashlun-connection-'));
});

afterEach(() => {
  rmSync(cwd, { recursive: true, force: true });
});

/** A data directory as a running server leaves it. */
function dataDir(name: string, http: string, password: string | undefined): string {
  const dir = path.join(cwd, name);
  mkdirSync(dir);
  writeFileSync(path.join(dir, 'flashlun.json'), JSON.stringify({ pid: 1, http }));
  if (password !== undefined) writeFileSync(path.join(dir, 'admin-password'), `${password}\n`);
  return dir;
}

function codeOf(flags: ConnectionFlags, env: NodeJS.ProcessEnv = {}): string {
  try {
    resolveConnection(flags, env, cwd);
  } catch (error) {
    return error instanceof FlashlunError ? error.code : String(error);
  }
  return 'ok';
}

describe('parseServerUrl', () => {
  test.each([
    ['127.0.0.1', 'http://127.0.0.1:8452'],
    ['ess.example', 'http://ess.example:8452'],
    ['ess.example:80', 'http://ess.example'],
    ['[::1]', 'http://[::1]:8452'],
    ['[::1]:9000', 'http://[::1]:9000'],
    ['http://127.0.0.1:8452/', 'http://127.0.0.1:8452'],
    ['https://ess.example', 'https://ess.example'],
    ['https://ess.example:8452/array/', 'https://ess.example:8452/array'],
  ])('%s is %s', (text, url) => {
    expect(parseServerUrl(text)).toBe(url);
  });

  test.each(['', ' ', 'ftp://x', 'http://user:secret@x', 'http://x?y', 'a b', 'x:99999'])(
    'refuses %j',
    (text) => {
      expect(() => parseServerUrl(text)).toThrow(/is not a server address/);
    },
  );
});

describe('resolveConnection', () => {
  test('without anything: the usual address, admin, and a complaint about the password', () => {
    expect(codeOf({})).toBe('UNAUTHENTICATED');
    expect(resolveConnection({ password: 'p' }, {}, cwd)).toEqual({
      server: 'http://127.0.0.1:8452',
      user: 'admin',
      password: 'p',
    });
  });

  test('./data of the current folder gives all three', () => {
    dataDir('data', 'http://127.0.0.1:7001', 'from-file');
    expect(resolveConnection({}, {}, cwd)).toEqual({
      server: 'http://127.0.0.1:7001',
      user: 'admin',
      password: 'from-file',
    });
  });

  test('the environment wins over ./data, and then its password stays here', () => {
    dataDir('data', 'http://127.0.0.1:7001', 'from-file');
    const env = { FLASHLUN_SERVER: 'other', FLASHLUN_PASSWORD: 'from-env' };
    expect(resolveConnection({}, env, cwd)).toEqual({
      server: 'http://other:8452',
      user: 'admin',
      password: 'from-env',
    });
    expect(codeOf({}, { FLASHLUN_SERVER: 'other' })).toBe('UNAUTHENTICATED');
    expect(codeOf({ server: 'other' })).toBe('UNAUTHENTICATED');
  });

  test('--data wins over the environment', () => {
    const dir = dataDir('elsewhere', 'http://127.0.0.1:7002', 'from-file');
    const env = { FLASHLUN_SERVER: 'other', FLASHLUN_PASSWORD: 'from-env' };
    expect(resolveConnection({ data: dir }, env, cwd)).toEqual({
      server: 'http://127.0.0.1:7002',
      user: 'admin',
      password: 'from-file',
    });
  });

  test('flags win over everything', () => {
    const dir = dataDir('elsewhere', 'http://127.0.0.1:7002', 'from-file');
    const flags = { data: dir, server: 'flag:1', user: 'op', password: 'flag' };
    const env = { FLASHLUN_SERVER: 's', FLASHLUN_USER: 'u', FLASHLUN_PASSWORD: 'p' };
    expect(resolveConnection(flags, env, cwd)).toEqual({
      server: 'http://flag:1',
      user: 'op',
      password: 'flag',
    });
  });

  test("the administrator's password is not used for another user", () => {
    const dir = dataDir('elsewhere', 'http://127.0.0.1:7002', 'from-file');
    expect(codeOf({ data: dir, user: 'op' })).toBe('UNAUTHENTICATED');
  });

  test('FLASHLUN_DATA names a data directory too', () => {
    const dir = dataDir('elsewhere', 'http://127.0.0.1:7002', 'from-file');
    expect(resolveConnection({}, { FLASHLUN_DATA: dir }, cwd).server).toBe('http://127.0.0.1:7002');
  });

  test('a data directory without a server is one that cannot be reached', () => {
    expect(codeOf({ data: path.join(cwd, 'none') })).toBe('CANNOT_CONNECT');
    writeFileSync(path.join(dataDir('torn', 'x', 'p'), 'flashlun.json'), '{"pid": 1, "ht');
    expect(codeOf({ data: path.join(cwd, 'torn') })).toBe('CANNOT_CONNECT');
  });

  test('@FILE reads the password without its final newline', () => {
    writeFileSync(path.join(cwd, 'secret'), 'two words\n');
    const flags = { password: `@${path.join(cwd, 'secret')}` };
    expect(resolveConnection(flags, {}, cwd).password).toBe('two words');
    expect(codeOf({ password: `@${path.join(cwd, 'missing')}` })).toBe('USAGE');
  });
});
