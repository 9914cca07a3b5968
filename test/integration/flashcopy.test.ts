/** The verbs and options of FlashCopy through the API and the command line, on the real server. */
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec } from '../helpers/exec.js';
import { ConnectionLost, NbdClient, NbdError } from '../helpers/nbd-client.js';
import { requires } from '../helpers/requires.js';
import { FLASHLUN, type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const TRACK = 65_536;
const TRACKS = 32;
const WAIT = { deadlineMs: 30_000 };
const KEPT = { persistent: true, record: true };
const AB = { source: '1200', target: '1300' };

interface View {
  readonly id: string;
  readonly state: string;
  readonly outOfSyncTracks: number;
  readonly recording: boolean;
  readonly persistent: boolean;
  readonly paused: boolean;
  readonly activeCopy: boolean;
  readonly establishedAt: string;
  readonly freeze: string;
}

/** A server with 1200 and 1201 in LSS 12, 1300 and 1301 in LSS 13. */
async function arrayOf(scope: Scope, args: readonly string[] = []): Promise<Server> {
  const server = await startServer(scope, { args: ['--no-demo', ...args] });
  for (const lss of ['12', '12', '13', '13']) await server.api.createVolume(lss, TRACKS * TRACK);
  return server;
}

async function attach(scope: Scope, server: Server, name: string): Promise<NbdClient> {
  const client = await NbdClient.open({ path: server.unixPath }, name);
  scope.defer('close a client', () => client.close());
  return client;
}

function fill(client: NbdClient, track: number, byte: string, tracks = 1): Promise<void> {
  return client.write(track * TRACK, Buffer.alloc(tracks * TRACK, byte));
}

async function holds(client: NbdClient, track: number, byte: string): Promise<void> {
  const content = await client.read(track * TRACK, TRACK);
  expect(content.equals(Buffer.alloc(TRACK, byte))).toBe(true);
}

function establish(server: Server, pairs: readonly object[], options: object): Promise<unknown> {
  return server.api.call('POST', '/v1/flashcopies', { pairs, options });
}

function verb(server: Server, name: string, options?: object): Promise<View> {
  const body = options && { options };
  return server.api.call<View>('POST', `/v1/flashcopies/1200:1300/${name}`, body);
}

function show(server: Server, pair = '1200:1300'): Promise<View> {
  return server.api.call<View>('GET', `/v1/flashcopies/${pair}`);
}

async function idle(server: Server, pair = '1200:1300'): Promise<void> {
  await until('the end of the copy', async () => (await show(server, pair)).state === 'idle', WAIT);
}

async function refused(server: Server, path: string, body?: object): Promise<string> {
  const reply = await server.api.request('POST', path, body);
  expect(reply.status).toBeGreaterThanOrEqual(400);
  const { code, message } = reply.body as { code: string; message: string };
  expect(message).not.toContain('\n');
  return code;
}

test('oracle 6 and 8: a resync copies what changed on either side, and its options replace', () =>
  scoped(async (scope) => {
    let server = await arrayOf(scope, ['--copy-rate', '200']);
    let a = await attach(scope, server, '1200');
    await fill(a, 0, 'a', 20);
    await establish(server, [AB], KEPT);
    await idle(server);
    const b = await attach(scope, server, '1300');
    for (const track of [1, 2, 3]) await fill(a, track, 's');
    for (const track of [3, 9]) await fill(b, track, 't');
    // Kept over the death of the server.
    await server.kill9();
    server = await startServer(scope, { data: server.data, args: ['--copy-rate', '200'] });
    await verb(server, 'resync', { ...KEPT, noCopy: true });
    expect(await show(server)).toMatchObject({ outOfSyncTracks: 4, state: 'nocopy' });
    a = await attach(scope, server, '1200');
    await fill(a, 15, 'n');
    await verb(server, 'copy');
    await idle(server);
    const copy = await attach(scope, server, '1300');
    for (const track of [1, 2, 3]) await holds(copy, track, 's');
    for (const track of [0, 9, 15]) await holds(copy, track, 'a');
    // Without --record --persistent both are dropped, and the relationship ends with the copy.
    expect(await verb(server, 'resync')).toMatchObject({
      recording: false,
      persistent: false,
      outOfSyncTracks: 1,
    });
    await server.api.copied('1200:1300');
    await holds(copy, 15, 'n');
  }));

test('oracle 7: reverse while copying is refused; then the pair answers as target:source', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const a = await attach(scope, server, '1200');
    await fill(a, 0, 'a', TRACKS);
    await establish(server, [AB], KEPT);
    await idle(server);
    await fill(a, 2, 's', 20);
    await verb(server, 'resync', { ...KEPT, copyBytesPerSecond: TRACK });
    await verb(server, 'pause');
    expect(await refused(server, '/v1/flashcopies/1200:1300/reverse')).toBe('FC_COPY_RUNNING');
    await server.api.call('PATCH', '/v1/flashcopies/1200:1300', { copyBytesPerSecond: 0 });
    await verb(server, 'resume');
    await idle(server);
    await fill(a, 5, 'x');
    expect(await verb(server, 'reverse', KEPT)).toMatchObject({ id: '1300:1200' });
    expect(await refused(server, '/v1/flashcopies/1200:1300/reverse')).toBe(
      'RELATIONSHIP_NOT_FOUND',
    );
    await idle(server, '1300:1200');
    await holds(a, 5, 's');
    await holds(a, 0, 'a');
    await server.api.call('POST', '/v1/flashcopies/1300:1200/reverse', {
      options: { fast: true, noCopy: true },
    });
    expect(await show(server)).toMatchObject({ state: 'nocopy' });
  }));

test('a revertible resync can be taken back, or committed', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const a = await attach(scope, server, '1200');
    const b = await attach(scope, server, '1300');
    await fill(a, 0, 'a', 4);
    await establish(server, [AB], KEPT);
    await idle(server);
    const { establishedAt } = await show(server);
    expect(await refused(server, '/v1/flashcopies/1200:1300/revert')).toBe('FC_NOT_REVERTIBLE');
    await fill(a, 1, 'n');
    expect(await verb(server, 'set-revertible')).toMatchObject({ state: 'revertible' });
    await holds(b, 1, 'n');
    expect(await refused(server, '/v1/flashcopies/1200:1300/resync')).toBe('FC_REVERTIBLE');
    expect(await verb(server, 'revert')).toMatchObject({ establishedAt });
    await holds(b, 1, 'a');
    await idle(server);
    await verb(server, 'set-revertible');
    await verb(server, 'commit');
    await holds(b, 1, 'n');
    await server.api.withdraw('1200:1300');
    const volumes = await server.api.call<{ volumes: unknown[] }>('GET', '/v1/volumes');
    expect(volumes.volumes).toHaveLength(4);
  }));

test('an inhibited target refuses writes at once, and says so to new clients', (context) =>
  scoped(async (scope) => {
    requires(context, 'nbdinfo');
    const server = await arrayOf(scope);
    const a = await attach(scope, server, '1200');
    const b = await attach(scope, server, '1300');
    await fill(b, 0, 'b');
    await establish(server, [AB], { noCopy: true, inhibitTargetWrites: true, force: true });
    const write = fill(b, 0, 'x');
    await expect(write).rejects.toBeInstanceOf(NbdError);
    await expect(write).rejects.toMatchObject({ errno: 1 });
    await fill(a, 0, 'y');
    await holds(b, 0, '\0');
    const isReadOnly = ['--is', 'read-only', server.unixUri('1300')];
    expect(await exec('nbdinfo', isReadOnly)).toMatchObject({ code: 0 });
    await server.api.withdraw('1200:1300');
    await fill(b, 0, 'z');
  }));

test('what hosts wrote asks for force, and can be brought back', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const b = await attach(scope, server, '1300');
    await fill(b, 3, 'b');
    const request = { pairs: [AB], options: { noCopy: true } };
    expect(await refused(server, '/v1/flashcopies', request)).toBe('FC_TARGET_WRITTEN');
    expect(await refused(server, '/v1/volumes/1300/undo')).toBe('FC_NOTHING_TO_UNDO');
    await holds(b, 3, 'b');
    await establish(server, [AB], { noCopy: true, force: true });
    await holds(b, 3, '\0');
    await server.api.withdraw('1200:1300');
    await establish(server, [AB], { noCopy: true }); // nothing was written since
    await server.kill9();
    const next = await startServer(scope, { data: server.data });
    const undo = await next.api.call<{ undo: object[] }>('GET', '/v1/undo');
    expect(undo.undo).toMatchObject([{ volume: '1300', pair: '1200:1300' }]);
    await next.api.call('POST', '/v1/volumes/1300/undo');
    await holds(await attach(scope, next, '1300'), 3, 'b');
    expect(await next.api.flashcopies()).toEqual([]);
    expect(await refused(next, '/v1/volumes/1300/undo')).toBe('FC_NOTHING_TO_UNDO');
  }));

test('target online: refuse, or disconnect so that caches are not believed', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const b = await attach(scope, server, '1300');
    const request = { pairs: [AB], options: { noCopy: true, targetOnline: 'refuse' } };
    expect(await refused(server, '/v1/flashcopies', request)).toBe('FC_TARGET_ONLINE');
    await b.read(0, 512);
    await establish(server, [AB], { noCopy: true, targetOnline: 'disconnect' });
    await expect(b.read(0, 512)).rejects.toBeInstanceOf(ConnectionLost);
  }));

test('oracle 9: thawing one LSS leaves the other frozen; the timer is recorded and reported', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const pairs = [
      { source: '1200', target: '1201' },
      { source: '1300', target: '1301' },
    ];
    await server.api.call('PATCH', '/v1/lss/13', { freezeTimeout: 2 });
    await establish(server, pairs, { noCopy: true, freeze: true });
    expect(await server.api.call('GET', '/v1/lss/12')).toMatchObject({
      freezeTimeout: 120,
      frozen: ['1200'],
    });
    const first = await attach(scope, server, '1200');
    const second = await attach(scope, server, '1300');
    const writes = [fill(first, 0, 'x'), fill(second, 0, 'y')];
    let done = 0;
    for (const write of writes) void write.then(() => (done += 1));
    await first.read(0, 512); // reads go on
    const thawed = await exec(FLASHLUN, ['--data', server.data, 'flashcopy', 'unfreeze', '12']);
    expect(thawed).toMatchObject({ code: 0 });
    expect(thawed.stdout).toMatch(/^LSS 12: unfrozen after \d+\.\d{3} s, 1 of 1 sources held\.\n$/);
    await writes[0];
    expect(done).toBe(1);
    expect(await show(server, '1200:1201')).toMatchObject({ freeze: 'created' });
    await writes[1]; // by the timer
    const late = await exec(FLASHLUN, ['--data', server.data, 'flashcopy', 'unfreeze', '13']);
    expect(late).toMatchObject({ code: 6 });
    expect(late.stderr).toMatch(/the time limit had thawed 1300 before/);
    expect(await show(server, '1300:1301')).toMatchObject({ freeze: 'expired' });
    expect(server.log).toContain('thawed by its timer');
  }));

test('a source that somebody thawed is frozen again, but its group did not hold', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const frozen = { noCopy: true, freeze: true };
    await establish(server, [{ source: '1200', target: '1201' }], frozen);
    await server.api.call('POST', '/v1/volumes/1200/thaw');
    await establish(server, [AB], frozen);
    expect(await server.api.call('GET', '/v1/lss/12')).toMatchObject({ frozen: ['1200'] });
    const unfreeze = () =>
      server.api.call('POST', '/v1/consistency-groups/unfreeze', { lss: ['12'] });
    expect(await unfreeze()).toMatchObject({ lss: [{ expired: ['1200'], consistent: false }] });
    expect(await show(server, '1200:1201')).toMatchObject({ freeze: 'expired' });
    expect(await unfreeze()).toMatchObject({ lss: [{ released: [], consistent: true }] });
    // Frozen by an operator: no group.
    await server.api.call('POST', '/v1/volumes/1300/freeze', { seconds: 30 });
    const other = { pairs: [{ source: '1300', target: '1301' }], options: frozen };
    expect(await refused(server, '/v1/flashcopies', other)).toBe('VOLUME_FROZEN');
    await server.api.call('POST', '/v1/volumes/1300/thaw');
    expect(await server.api.flashcopies()).toHaveLength(2);
  }));

test('a pause holds over a restart; priority and the limit of active copies decide', () =>
  scoped(async (scope) => {
    const args = ['--active-copies', '1', '--copy-rate', '0.2'];
    const server = await arrayOf(scope, args);
    const a = await attach(scope, server, '1200');
    await fill(a, 0, 'a', TRACKS);
    await establish(server, [AB], { persistent: true });
    await establish(server, [{ source: '1200', target: '1301' }], {
      persistent: true,
      priority: 3,
    });
    await until('the first is active', async () => (await show(server)).activeCopy, WAIT);
    expect(await show(server, '1200:1301')).toMatchObject({ activeCopy: false, state: 'copying' });
    expect(await verb(server, 'pause')).toMatchObject({ paused: true });
    const second = async () => (await show(server, '1200:1301')).activeCopy;
    await until('the second is active', second, WAIT);
    await server.kill9();
    const next = await startServer(scope, { data: server.data });
    expect(await show(next)).toMatchObject({ paused: true, state: 'copying' });
    await idle(next, '1200:1301');
    expect((await show(next)).outOfSyncTracks).toBeGreaterThan(0);
    await verb(next, 'resume');
    await idle(next);
  }));

test('withdraw --complete copies what is left, and then there is no relationship', () =>
  scoped(async (scope) => {
    const server = await arrayOf(scope);
    const a = await attach(scope, server, '1200');
    await fill(a, 0, 'a', 5);
    await establish(server, [AB], { noCopy: true });
    await server.api.call('DELETE', '/v1/flashcopies/1200:1300?complete=true');
    await server.api.copied('1200:1300');
    await holds(await attach(scope, server, '1300'), 4, 'a');
  }));

test('oracle 5: 12 targets, a 13th and a cascade only without --strict', () =>
  scoped(async (scope) => {
    for (const strict of [true, false]) {
      const server = await arrayOf(scope, strict ? ['--strict'] : []);
      const targets: string[] = [];
      for (let n = 0; n < 13; n++) {
        targets.push((await server.api.createVolume('14', TRACKS * TRACK)).id);
      }
      const pairs = targets.map((target) => ({ source: '1200', target }));
      await establish(server, pairs.slice(0, 12), { noCopy: true });
      const more = { pairs: pairs.slice(12), options: { noCopy: true } };
      const cascade = { pairs: [{ source: '1400', target: '1300' }], options: { noCopy: true } };
      if (strict) {
        expect(await refused(server, '/v1/flashcopies', more)).toBe('FC_TARGET_LIMIT');
        expect(await refused(server, '/v1/flashcopies', cascade)).toBe('FC_CASCADE');
        const again = '/v1/flashcopies/1200:1400/resync';
        expect(await refused(server, again)).toBe('FC_NOT_RECORDING');
      } else {
        await server.api.call('POST', '/v1/flashcopies', more);
        await server.api.call('POST', '/v1/flashcopies', cascade);
      }
      await server.stop();
    }
  }));
