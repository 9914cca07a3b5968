/** The registration strings against the transcripts of the white paper (ess.md 5.1). */
import { expect, test } from 'vitest';
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
])('%j has no reply', (request) =>
  scoped(async (scope) => {
    const registration = new Registration(new CounterRepository(await openTestDatabase(scope)));
    expect(() => registration.handle(request)).toThrow(/registration refused/);
  }),
);
