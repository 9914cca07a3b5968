/** The registration strings against the transcripts of the white paper (ess.md 5.1). */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { LIMITS } from '../../../src/base/limits.js';
import { FlashlunError } from '../../../src/base/errors.js';
import { Registration } from '../../../src/copyservices/registration.js';
import { CounterRepository } from '../../../src/metadata/counters.js';
import { scoped } from '../../helpers/cleanup.js';
import { openTestDatabase } from '../metadata/open.js';

const MASK = '7ffb00bf007f';
const ACKNOWLEDGED = 'fffb00bf007f';

test('the transcripts T1, T2 and T3, id for id', () =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    const exchange: readonly (readonly [string, string])[] = [
      [
        '102,3,7ffb00bf007f,rich-w2k-os-1,192.168.10.2,false,false',
        '102,513,fffb00bf007f,339454995,0',
      ],
      [
        '102,3,7ffb00bf007f,RICH-W2K-OS-2,192.168.10.3,false,false',
        '102,513,fffb00bf007f,339454996,0',
      ],
      [
        '102,3,7ffb00bf007f,rich-w2k-os-1,192.168.10.2,false,false',
        '102,513,fffb00bf007f,339454997,0',
      ],
      ['101,3,7ffb00bf007f,339454997', '101,516,fffb00bf007f,339454997,0'],
    ];
    for (const [request, reply] of exchange) expect(registration.handle(request)).toBe(reply);
  }));

test('ids go on after a restart, and clients of the earlier process are unknown', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const request = `102,3,${MASK},host,10.0.0.1,false,false`;
    new Registration(new CounterRepository(db)).handle(request);
    const restarted = new Registration(new CounterRepository(db));
    expect(restarted.handle(request)).toBe(`102,513,${ACKNOWLEDGED},339454996,0`);
    expect(restarted.handle(`101,3,${MASK},339454995`)).toBe(`101,516,${MASK},339454995,1`);
    expect(restarted.handle(`101,3,${MASK},339454996`)).toBe(`101,516,${ACKNOWLEDGED},339454996,0`);
  }));

test.each([
  ['blanks around fields', ` 102 , 3 , ${MASK} , host , 10.0.0.1 , false , false\n`, 0],
  ['an upper case mask', '102,3,7FFB00BF007F,host,10.0.0.1,true,true', 0],
  ['a comma in the host name', `102,3,${MASK},ho,st,10.0.0.1,false,false`, 2],
  ['an empty host name', `102,3,${MASK},,10.0.0.1,false,false`, 2],
  ['a missing field', `102,3,${MASK},host,10.0.0.1,false`, 2],
  ['a host name of 300 characters', `102,3,${MASK},${'h'.repeat(300)},10.0.0.1,false,false`, 2],
  ['a host name with a blank inside', `102,3,${MASK},my host,10.0.0.1,false,false`, 2],
  ['flags that are none', `102,3,${MASK},host,10.0.0.1,yes,no`, 2],
  ['a kind that is no number', `102,x,${MASK},host,10.0.0.1,false,false`, 2],
  ['an id that is no number', `101,3,${MASK},x`, 2],
  ['an id nobody has', `101,3,${MASK},5`, 1],
])('%s', (_what, request, rc) =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    const reply = registration.handle(request).split(',');
    expect(reply).toHaveLength(5);
    expect(reply[4]).toBe(String(rc));
    if (request.startsWith('102') && rc !== 0) expect(reply[3]).toBe('0');
  }),
);

test('a refused registration consumes no id', () =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    registration.handle(`102,3,${MASK},,10.0.0.1,false,false`);
    const reply = registration.handle(`102,3,${MASK},host,10.0.0.1,false,false`);
    expect(reply).toBe(`102,513,${ACKNOWLEDGED},339454995,0`);
  }));

test.each([
  '',
  'hello',
  '102',
  '102,3',
  '102,3,7ffb',
  `103,3,${MASK},x`,
  '102,3,zzzzzzzzzzzz,h,a,b,c',
  `102,3,0x${MASK.slice(2)},h,a,false,false`,
  `102,3,${MASK}0,h,a,false,false`,
  `102,3,${MASK},${'h'.repeat(2000)},a,false,false`,
  `102,3,${MASK},h,a,false,false\n\n102,3,${MASK},h,a,false,false`,
  `${`101,3,${MASK},5\n`.repeat(65)}`,
])('%j has no reply', (request) =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    expect(() => registration.handle(request)).toThrow(/registration refused/);
  }),
);

test('several strings are answered line by line, or none of them', () =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    const request = `102,3,${MASK},host,10.0.0.1,false,false`;
    const lines = [request, `101,3,${MASK},339454995`, `101,3,${MASK},7`, request];
    expect(() => registration.handle(`${request}\nhello\n`)).toThrow(/'hello' is neither/);
    expect(registration.handle(`${lines.join('\r\n')}\r\n`).split('\n')).toEqual([
      `102,513,${ACKNOWLEDGED},339454995,0`,
      `101,516,${ACKNOWLEDGED},339454995,0`,
      `101,516,${MASK},7,1`,
      `102,513,${ACKNOWLEDGED},339454996,0`,
    ]);
  }));

test('one address that registers in a flood is held up, the others are not', () =>
  scoped(async (scope) => {
    let nowMs = 0;
    const counters = new CounterRepository(await openTestDatabase(scope));
    const registration = new Registration(counters, () => nowMs);
    const rc = (from: string): string =>
      registration.handle(`102,3,${MASK},host,10.0.0.1,false,false`, from).split(',')[4]!;
    const flood = Array.from({ length: LIMITS.registrationBurst + 5 }, () => rc('10.0.0.9'));
    expect(flood.filter((each) => each === '0')).toHaveLength(LIMITS.registrationBurst);
    expect(flood.at(-1)).toBe('3');
    expect(rc('10.0.0.8')).toBe('0');
    nowMs += 1000;
    const later = Array.from({ length: 20 }, () => rc('10.0.0.9'));
    expect(later.filter((each) => each === '0')).toHaveLength(LIMITS.registrationsPerSecond);
    // What was refused has used no id up.
    expect(counters.next('client-id', 0)).toBe(339_454_995 + LIMITS.registrationBurst + 11);
  }));

test('who registered is known by the id; the oldest are forgotten', () =>
  scoped(async (scope) => {
    const db = await openTestDatabase(scope);
    const registration = new Registration(new CounterRepository(db));
    for (let index = 0; index <= LIMITS.registeredClients; index += 1) {
      registration.handle(`102,3,${MASK},h${index},10.0.0.1,false,false`, `a${index}`);
    }
    expect(registration.client(339_454_996)).toEqual({ host: 'h1', address: '10.0.0.1' });
    expect(() => registration.client(339_454_995)).toThrow(/client 339454995 is not registered/);
  }));

test('whatever is sent is answered line by line, or refused in one short line', () =>
  scoped(async (scope) => {
    const counters = new CounterRepository(await openTestDatabase(scope));
    const field = fc.oneof(
      fc.constantFrom('101', '102', '3', MASK, 'host', '10.0.0.1', 'true', 'false', '339454995'),
      fc.string({ unit: 'binary', maxLength: 20 }),
    );
    const line = fc.array(field, { maxLength: 9 }).map((fields) => fields.join(','));
    const text = fc.array(line, { maxLength: 4 }).map((lines) => lines.join('\n'));
    fc.assert(
      fc.property(text, (request) => {
        const registration = new Registration(counters, () => 0);
        try {
          for (const reply of registration.handle(request).split('\n')) {
            expect(reply).toMatch(/^(102,513|101,516),[0-9a-f]{12},\d{1,15},[0-3]$/i);
          }
        } catch (error) {
          if (!(error instanceof FlashlunError)) throw error;
          expect(error.code).toBe('INVALID_ARGUMENT');
          expect(error.message).toMatch(/^registration refused: [^\p{Cc}]{1,250}$/u);
        }
      }),
      { numRuns: 500 },
    );
  }));
