/**
 * Freezing volumes, and what the API and the command line say of connections, with the real server
 * and real clients.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import type { ConnectionsView, ConnectionView } from '../../src/cli/api-types.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec, killGroup } from '../helpers/exec.js';
import { COMMAND, NbdClient } from '../helpers/nbd-client.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const WAIT = { deadlineMs: 30_000 };

async function list(server: Server): Promise<ConnectionView[]> {
  return (await server.api.call<ConnectionsView>('GET', '/v1/connections')).connections;
}

async function attach(scope: Scope, server: Server, tcp = false): Promise<NbdClient> {
  const client = await NbdClient.open(tcp ? server.tcp : { path: server.unixPath }, '1200');
  scope.defer('close a client', () => client.close());
  return client;
}

async function withVolume(scope: Scope, ...more: string[]): Promise<Server> {
  const server = await startServer(scope, { args: ['--no-demo', ...more] });
  await server.api.createVolume('12', 64 * MIB);
  return server;
}

function held(server: Server, count: number): Promise<boolean> {
  return until(
    `${count} held requests`,
    async () => (await list(server)).reduce((sum, each) => sum + each.held, 0) === count,
    WAIT,
  );
}

test('a frozen volume answers reads and holds writes until the thaw', () =>
  scoped(async (scope) => {
    const server = await withVolume(scope);
    const client = await attach(scope, server);
    await client.write(0, Buffer.alloc(4096, 1));
    const frozen = await server.flashlun('volume', 'freeze', '1200', '--seconds', '60');
    expect(frozen.stdout).toMatch(/^Volume 1200 is frozen until \d{4}-/);
    expect((await server.flashlun('volume', 'show', '1200')).stdout).toMatch(/frozen +until /);
    const metrics = await fetch(`${server.addresses.http}/metrics`);
    expect(await metrics.text()).toContain('flashlun_volume_frozen{volume="1200"} 1');
    let answered = false;
    const write = client.write(0, Buffer.alloc(4096, 2)).then(() => {
      answered = true;
    });
    const trim = client.request({ command: COMMAND.trim, offset: MIB, length: MIB });
    await held(server, 2);
    await client.flush();
    expect((await client.read(0, 4096))[0]).toBe(1);
    // Neither does a client that connects again get around it.
    const other = await attach(scope, server, true);
    const zeroes = other.request({ command: COMMAND.writeZeroes, offset: 0, length: 4096 });
    await held(server, 3);
    expect(answered).toBe(false);
    expect((await server.api.request('POST', '/v1/volumes/1200/freeze')).body).toMatchObject({
      code: 'VOLUME_FROZEN',
    });
    const thawed = await server.flashlun('volume', 'thaw', '1200');
    expect(thawed.stdout).toBe('Thawed volume 1200.\n');
    await Promise.all([write, trim, zeroes]);
    const again = await server.api.call('POST', '/v1/volumes/1200/thaw');
    expect(again).toMatchObject({ wasFrozen: false, volume: { frozenUntil: null } });
  }));

test('a freeze ends by itself, at a restart too', () =>
  scoped(async (scope) => {
    const server = await withVolume(scope);
    const client = await attach(scope, server);
    await server.api.call('POST', '/v1/volumes/1200/freeze', { seconds: 0.3 });
    await client.write(0, Buffer.alloc(4096, 3));
    const metrics = await fetch(`${server.addresses.http}/metrics`);
    expect(await metrics.text()).toContain('flashlun_freezes_expired_total 1');
    for (const seconds of [0, -1, 4000]) {
      const refused = await server.api.request('POST', '/v1/volumes/1200/freeze', { seconds });
      expect(refused.body).toMatchObject({ code: 'INVALID_ARGUMENT' });
    }
    await server.api.call('POST', '/v1/volumes/1200/freeze');
    const lost = client.write(0, Buffer.alloc(4096, 4)).catch((error: unknown) => String(error));
    await held(server, 1);
    await server.stop();
    expect(await lost).toContain('connection ended');
    const restarted = await startServer(scope, { data: server.data });
    const fresh = await attach(scope, restarted);
    expect((await fresh.read(0, 4096))[0]).toBe(3); // what was not answered was not executed
    await fresh.write(0, Buffer.alloc(4096, 5));
  }));

test('connections are listed with who they are and what they did, and can be ended', () =>
  scoped(async (scope) => {
    const server = await withVolume(scope);
    const unix = await attach(scope, server);
    const tcp = await attach(scope, server, true);
    await unix.write(0, Buffer.alloc(4096, 1));
    await tcp.read(0, 8192);
    await tcp.flush();
    await expect(tcp.request({ command: 99, length: 0 })).rejects.toThrow('NBD error 22');
    const [first, second] = await list(server);
    expect(first).toMatchObject({
      volume: '1200',
      export: '1200',
      transport: 'unix',
      pid: process.pid,
      uid: process.getuid?.(),
      tlsIdentity: null,
      features: [],
      requests: { read: 0, write: 1, flush: 0, trim: 0, writeZeroes: 0, other: 0 },
      errors: 0,
      bytesIn: 28 + 4096,
      bytesOut: 16,
    });
    expect(second).toMatchObject({
      transport: 'tcp',
      pid: null,
      requests: { read: 1, write: 0, flush: 1, trim: 0, writeZeroes: 0, other: 1 },
      errors: 1,
      inFlight: 0,
    });
    expect(second?.peer).toMatch(/^127\.0\.0\.1:\d+$/);
    const id = String(first?.id);
    const table = await server.flashlun('connection', 'list');
    expect(table.stdout).toContain(`unix, process ${process.pid}`);
    const shown = await server.flashlun('connection', 'show', id);
    expect(shown.stdout).toMatch(/requests +0 read, 1 write/);
    expect((await server.flashlun('connection', 'disconnect', id)).code).toBe(0);
    await expect(unix.read(0, 512)).rejects.toThrow('connection');
    await until('one is left', async () => (await list(server)).length === 1, WAIT);
    expect((await server.flashlun('connection', 'disconnect', id)).code).toBe(6);
    expect((await server.flashlun('connection', 'show', 'x')).code).toBe(2);
    await tcp.read(0, 512);
  }));

test('a list of hundreds of connections costs milliseconds', () =>
  scoped(async (scope) => {
    const count = 300;
    const server = await withVolume(scope, '--nbd-connections-per-export', String(count));
    for (let at = 0; at < count; at += 1) await attach(scope, server);
    await until('all', async () => (await list(server)).length === count, WAIT);
    const begun = performance.now();
    for (let round = 0; round < 10; round += 1) await list(server);
    const each = (performance.now() - begun) / 10;
    console.log(`GET /v1/connections with ${count}: ${each.toFixed(1)} ms`);
    expect(each).toBeLessThan(500);
  }));

/** qemu-io with its commands one by one; `say` resolves with what it answered. */
function qemuIo(scope: Scope, image: string) {
  const child = spawn('qemu-io', ['--image-opts', image], {
    stdio: ['pipe', 'pipe', 'pipe'],
    detached: true,
  });
  scope.defer('end qemu-io', () => child.pid !== undefined && killGroup(child.pid));
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      output += chunk;
    });
  }
  return {
    send: (command: string) => {
      output = '';
      child.stdin.write(`${command}\n`);
    },
    answered: (pattern: RegExp) =>
      until(`qemu-io's answer ${pattern}`, () => pattern.test(output), {
        ...WAIT,
        diagnosis: () => output,
      }),
  };
}

test('without a takeover QEMU’s reconnect-delay bridges a restart', (context) =>
  scoped(async (scope) => {
    requires(context, 'qemu-io');
    const server = await withVolume(scope);
    const io = qemuIo(
      scope,
      `driver=nbd,server.type=unix,server.path=${server.unixPath},export=1200,reconnect-delay=60`,
    );
    io.send('write -P 17 0 64k');
    await io.answered(/wrote 65536\/65536/);
    await server.stop();
    io.send('write -P 18 64k 64k');
    const restarted = await startServer(scope, { data: server.data });
    await io.answered(/wrote 65536\/65536/);
    io.send('read -P 17 0 64k');
    await io.answered(/read 65536\/65536/);
    const uri = restarted.unixUri('1200');
    const check = await exec('qemu-io', ['-f', 'raw', '-c', 'read -P 18 64k 64k', uri]);
    expect(check.stdout).toContain('read 65536/65536');
    expect(join(server.data, 'nbd.sock')).toBe(restarted.unixPath);
  }));
