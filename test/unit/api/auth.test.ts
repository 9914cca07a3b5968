import { expect, test } from 'vitest';
import { Auth } from '../../../src/api/auth.js';
import { FailureCounter } from '../../../src/api/failure-counter.js';
import { Places } from '../../../src/api/places.js';
import { LIMITS } from '../../../src/base/limits.js';
import type { MetadataDatabase } from '../../../src/metadata/database.js';
import { SessionRepository, UserRepository } from '../../../src/metadata/users.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestDatabase } from '../metadata/open.js';

const CHEAP = { ln: 4, r: 8, p: 1 };
const HERE = '127.0.0.1';

async function makeAuth(db: MetadataDatabase) {
  const clock = { nowMs: 1_000_000 };
  const slept: number[] = [];
  const auth = new Auth({
    users: new UserRepository(db),
    sessions: new SessionRepository(db, 10),
    now: () => clock.nowMs,
    sleep: (ms) => Promise.resolve(slept.push(ms)),
    cost: CHEAP,
  });
  await auth.addUser('admin', 'right', 'admin');
  return { auth, clock, slept };
}

test('a session works until it is ended or expires', () =>
  scoped(async (scope) => {
    const { auth, clock } = await makeAuth(await openTestDatabase(scope));
    const session = await auth.login('admin', 'right', HERE);
    const header = `Bearer ${session.token}`;
    expect(session).toMatchObject({ user: 'admin', role: 'admin' });
    expect(auth.authenticate(header)).toEqual({ user: 'admin', role: 'admin' });
    clock.nowMs += LIMITS.sessionMs;
    expect(() => auth.authenticate(header)).toThrow(/session has ended/);
    const next = await auth.login('admin', 'right', HERE);
    auth.logout(`Bearer ${next.token}`);
    expect(() => auth.authenticate(`Bearer ${next.token}`)).toThrow(/session has ended/);
  }));

test.each([
  ['a wrong password', 'admin', 'wrong'],
  ['an unknown user', 'nobody', 'right'],
  ['another case', 'Admin', 'right'],
])('%s is refused, with the same words', (_what, user, password) =>
  scoped(async (scope) => {
    const { auth } = await makeAuth(await openTestDatabase(scope));
    const login = auth.login(user, password, HERE);
    await expect(login).rejects.toMatchObject({ code: 'UNAUTHENTICATED' });
    await expect(auth.login(user, password, HERE)).rejects.toThrow(/^wrong user or password\./);
  }),
);

test.each([undefined, '', 'Bearer', 'Basic abc', `Bearer ${'x'.repeat(200)}`, 'Bearer a b'])(
  'Authorization %j is not a log-in',
  (header) =>
    scoped(async (scope) => {
      const { auth } = await makeAuth(await openTestDatabase(scope));
      expect(() => auth.authenticate(header)).toThrow(/not logged in/);
    }),
);

test('guessing is slowed, for that user and address only, and for a minute', () =>
  scoped(async (scope) => {
    const { auth, clock, slept } = await makeAuth(await openTestDatabase(scope));
    for (let attempt = 0; attempt < LIMITS.loginFailuresPerMinute; attempt += 1) {
      await expect(auth.login('admin', 'wrong', HERE)).rejects.toThrow(/wrong user/);
    }
    await auth.login('admin', 'right', '10.0.0.9');
    expect(slept).toEqual([]);
    // The right password is not locked out by the wrong ones.
    await auth.login('admin', 'right', HERE);
    expect(slept).toEqual([LIMITS.loginSpacingMs]);
    clock.nowMs += 60_000;
    await auth.login('admin', 'right', HERE);
    expect(slept).toHaveLength(1);
  }));

test('attempts at the same time are all counted, and few wait for their turn', () =>
  scoped(async (scope) => {
    const { auth, slept } = await makeAuth(await openTestDatabase(scope));
    const attempts = Array.from({ length: 34 }, () => auth.login('admin', 'wrong', HERE));
    const results = await Promise.allSettled(attempts);
    const codes = results.map((it) => it.status === 'rejected' && it.reason.code);
    const waiting = LIMITS.loginWaitMs / LIMITS.loginSpacingMs;
    const tried = LIMITS.loginFailuresPerMinute + waiting;
    expect(codes.filter((code) => code === 'UNAUTHENTICATED')).toHaveLength(tried);
    expect(codes.filter((code) => code === 'RATE_LIMITED')).toHaveLength(34 - tried);
    expect(slept).toEqual([1, 2, 3, 4].map((turn) => turn * LIMITS.loginSpacingMs));
  }));

test('right log-ins are not counted', () =>
  scoped(async (scope) => {
    const { auth, slept } = await makeAuth(await openTestDatabase(scope));
    for (let attempt = 0; attempt < 3 * LIMITS.loginFailuresPerMinute; attempt += 1) {
      await auth.login('admin', 'right', HERE);
    }
    expect(slept).toEqual([]);
  }));

test('a new password ends the sessions of the old one', () =>
  scoped(async (scope) => {
    const { auth } = await makeAuth(await openTestDatabase(scope));
    const { token } = await auth.login('admin', 'right', HERE);
    await auth.setPassword('admin', 'right');
    auth.authenticate(`Bearer ${token}`);
    await auth.setPassword('admin', 'newer');
    expect(() => auth.authenticate(`Bearer ${token}`)).toThrow(/session has ended/);
    await expect(auth.login('admin', 'right', HERE)).rejects.toThrow(/wrong user/);
    await auth.login('admin', 'newer', HERE);
  }));

test('the database holds no token and no password', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const { auth } = await makeAuth(db);
    const { token } = await auth.login('admin', 'right', HERE);
    const image = db.serialize();
    expect(image.includes(token)).toBe(false);
    expect(image.includes(Buffer.from(token, 'base64url'))).toBe(false);
    expect(image.includes('right')).toBe(false);
  }));

test('failures are remembered for a bounded number of keys', () => {
  const counter = new FailureCounter(1, () => 0);
  expect(counter.begin('first')).toBe(0);
  expect(counter.begin('first')).toBe(LIMITS.loginSpacingMs);
  for (let key = 0; key < LIMITS.loginFailuresRemembered; key += 1) counter.begin(`key ${key}`);
  expect(counter.begin('key 1')).toBe(LIMITS.loginSpacingMs);
  expect(counter.begin('first')).toBe(0);
});

test('places are passed on in order, and the queue before them has an end', async () => {
  const places = new Places(1, 1);
  const order: string[] = [];
  let finish: () => void = () => undefined;
  const first = places.run(async () => {
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
    order.push('first');
  });
  const second = places.run(() => Promise.resolve(order.push('second')));
  await expect(places.run(() => Promise.resolve())).rejects.toMatchObject({ code: 'RATE_LIMITED' });
  finish();
  await Promise.all([first, second]);
  expect(order).toEqual(['first', 'second']);
  await expect(places.run(() => Promise.reject(new Error('work failed')))).rejects.toThrow(
    'failed',
  );
  await places.run(() => Promise.resolve());
});
