/**
 * `serve --takeover`: a new server goes on with the clients of the running one, which notice
 * nothing; and whatever goes wrong on the way, there is one server afterwards and no write is lost.
 * Clients with something of their own (TLS, extended headers, rules) are in
 * takeover-clients.test.ts.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, type TestContext, test } from 'vitest';
import { closeDescriptor, connectUnixDescriptor } from '../../src/engine/index.js';
import { MessageChannel, TAKEOVER_PROTOCOL } from '../../src/takeover/messages.js';
import { takeoverPath } from '../../src/takeover/taker.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { CMD, request } from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import { RawSocket } from '../helpers/raw-socket.js';
import { requires } from '../helpers/requires.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';
import { connections, next } from '../helpers/takeover.js';
import { VerifiedHost } from '../helpers/verified-host.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const WAIT = { deadlineMs: 30_000 };
/** Far above what it takes (it is printed): other tests share the machine. */
const MOST_STALL_MS = 5_000;

/** A new server that is only this test: it says what the test wants. */
async function greet(server: Server, protocol = TAKEOVER_PROTOCOL): Promise<MessageChannel> {
  const channel = new MessageChannel(connectUnixDescriptor(takeoverPath(server.data)));
  await channel.send('hello', { protocol, version: 'test', pid: process.pid });
  return channel;
}

/** Whether a greeting is answered, now that nobody else greets. */
async function greeted(server: Server): Promise<boolean> {
  const channel = new MessageChannel(connectUnixDescriptor(takeoverPath(server.data)));
  try {
    await channel.send('hello', { protocol: TAKEOVER_PROTOCOL + 1, version: 'test', pid: 1 });
    await channel.receive(['refused']);
    return true;
  } catch {
    return false;
  } finally {
    channel.close();
  }
}

/** The same, when an earlier one may not be over yet. */
async function offered(server: Server): Promise<MessageChannel> {
  return until(
    'an offer',
    async () => {
      const channel = await greet(server);
      const { kind } = await channel.receive(['offer', 'refused']);
      if (kind === 'offer') return channel;
      channel.close();
      return undefined;
    },
    WAIT,
  );
}

async function receiveAll(channel: MessageChannel) {
  for (const counts = { listeners: 0, connections: 0 }; ; ) {
    const message = await channel.receive(['listener', 'connection', 'complete']);
    for (const descriptor of message.descriptors) closeDescriptor(descriptor);
    if (message.kind === 'complete') return counts;
    counts[message.kind === 'listener' ? 'listeners' : 'connections'] += 1;
  }
}

/** A client whose I/O shows whether the server that has its connection still serves. */
async function attached(scope: Scope, server: Server): Promise<NbdClient> {
  const { serial } = await server.api.createVolume('12', 16 * MIB);
  const client = await NbdClient.open({ path: server.unixPath }, serial);
  scope.defer('close the client', () => client.close());
  await client.write(0, Buffer.alloc(4096, 7));
  return client;
}

/** After the death of a server: the next one has what was written. */
async function servesAgain(scope: Scope, dead: Server, args: string[] = []): Promise<void> {
  const again = await startServer(scope, { data: dead.data, args });
  const fresh = await NbdClient.open({ path: again.unixPath }, '1200');
  scope.defer('close the client', () => fresh.close());
  expect((await fresh.read(0, 4096)).every((byte) => byte === 7)).toBe(true);
}

async function stillServes(server: Server, client: NbdClient): Promise<void> {
  expect((await client.read(0, 4096)).every((byte) => byte === 7)).toBe(true);
  await client.write(4096, Buffer.alloc(4096, 8));
  // An HTTP connection that was kept alive is closed when a takeover begins; whoever was just going
  // to use it asks again.
  const { serial } = await until(
    'the API',
    () => server.api.createVolume('13', MIB).catch(() => undefined),
    WAIT,
  );
  const other = await NbdClient.open(server.tcp, serial);
  await other.write(0, Buffer.alloc(512, 1));
  other.close();
}

async function host(scope: Scope, server: Server, transport: 'tcp' | 'unix', seed: number) {
  const { serial } = await server.api.createVolume('12', 64 * MIB);
  const address = transport === 'tcp' ? server.tcp : { path: server.unixPath };
  const client = await NbdClient.open(address, serial);
  scope.defer('close a host', () => client.close());
  return new VerifiedHost(client, { seed, firstBlock: 0, slots: 512 });
}

test('clients see no error and no long stall in three takeovers in a row', () =>
  scoped(async (scope) => {
    let server = await startServer(scope, { args: ['--no-demo'] });
    const hosts = [
      await host(scope, server, 'tcp', 1),
      await host(scope, server, 'unix', 2),
      await host(scope, server, 'tcp', 3),
    ];
    const runs = hosts.map((each, index) => each.run([16, 8, 1][index]!));
    const before = await connections(server);
    for (let round = 1; round <= 3; round += 1) {
      const done = hosts.map((each) => each.requests);
      await until('load', () => hosts.every((each, at) => each.requests > done[at]! + 50), WAIT);
      const idle = Math.max(...hosts.map((each) => each.takeLongestMs()));
      const { tcp, unixPath } = server;
      server = await next(scope, server);
      expect(server.tcp).toEqual(tcp);
      expect(server.unixPath).toBe(unixPath);
      const during = hosts.map((each) => each.requests);
      await until('I/O', () => hosts.every((each, at) => each.requests > during[at]! + 50), WAIT);
      const stall = Math.max(...hosts.map((each) => each.takeLongestMs()));
      console.log(`takeover ${round}: ${stall.toFixed(0)} ms (${idle.toFixed(0)} ms before)`);
      expect(stall).toBeLessThan(MOST_STALL_MS);
    }
    const after = await connections(server);
    expect(after.map(({ id }) => id)).toEqual(before.map(({ id }) => id));
    for (const each of hosts) each.stop();
    for (const report of await Promise.all(runs)) expect(report.requests).toBeGreaterThan(300);
    const counted = after.map(({ requests }) => requests.read + requests.write);
    expect(Math.min(...counted)).toBeGreaterThan(100);
  }));

test('nbdcopy with four connections and qemu-img go on over takeovers', (context: TestContext) =>
  scoped(async (scope) => {
    requires(context, 'nbdcopy', 'qemu-img');
    let server = await startServer(scope, { args: ['--no-demo'] });
    const { serial } = await server.api.createVolume('12', 192 * MIB);
    const image = join(await scope.tempDir(), 'image');
    await writeFile(image, new Random(5).bytes(192 * MIB));
    const uri = server.unixUri(serial);
    const state = { copying: true };
    const copies = (async () => {
      for (let round = 0; round < 3; round += 1) {
        const copy = await exec('nbdcopy', ['-C4', '--flush', image, uri]);
        expect(copy.stderr).toBe('');
        const compare = await exec('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
        expect(compare.stdout).toContain('Images are identical');
      }
    })().finally(() => {
      state.copying = false;
    });
    let takeovers = 0;
    while (state.copying && takeovers < 10) {
      await until(
        'clients',
        async () => !state.copying || (await connections(server)).length > 0,
        WAIT,
      );
      server = await next(scope, server);
      takeovers += 1;
    }
    await copies;
    expect(takeovers).toBeGreaterThan(0);
  }));

test('a request that is half here, and one that nobody has read, are not lost', () =>
  scoped(async (scope) => {
    const old = await startServer(scope, { args: ['--no-demo'] });
    const { serial } = await old.api.createVolume('12', 16 * MIB);
    const peers = await Promise.all([
      NbdPeer.attach(old.tcp, serial),
      NbdPeer.attach({ path: old.unixPath }, serial),
    ]);
    for (const peer of peers) scope.defer('close a client', () => peer.close());
    const data = new Random(9).bytes(100_000);
    const wires = peers.map((_, at) => request({ type: CMD.write, offset: at * MIB, data }));
    peers.forEach((peer, at) => peer.raw.send(wires[at]!.subarray(0, 20 + at * 50_000)));
    const server = await next(scope, old);
    peers.forEach((peer, at) => peer.raw.send(wires[at]!.subarray(20 + at * 50_000)));
    for (const [at, peer] of peers.entries()) {
      expect(await peer.answer()).toMatchObject({ errno: 0 });
      const read = { type: CMD.read, offset: at * MIB, length: data.length };
      expect((await peer.ask(read)).data.equals(data)).toBe(true);
    }
    expect(await connections(server)).toHaveLength(2);
  }));

test('without a server to take over from it just starts', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--takeover', '--no-demo'] });
    await stillServes(server, await attached(scope, server));
    await server.kill9();
    // Its socket is still there, and nobody behind it.
    const again = await startServer(scope, { data: server.data, args: ['--takeover'] });
    expect(await again.api.volume('1300')).toMatchObject({ sizeBytes: MIB });
  }));

test('what is not a new server is turned away', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const path = takeoverPath(server.data);
    const other = Buffer.from('FLTO\x09\0\0\0\0\0\0\0\0\0\0\0', 'latin1');
    for (const bytes of [Buffer.from('GET / HTTP/1.1\r\n\r\n'), Buffer.alloc(64), other]) {
      const raw = await RawSocket.open({ path });
      raw.send(bytes);
      expect(await raw.receiveUntilClosed()).toHaveLength(0);
    }
    const wrong = await greet(server, TAKEOVER_PROTOCOL + 1);
    const answer = await wrong.receive(['refused']);
    expect(answer.body.reason).toContain('version');
    wrong.close();
    await stillServes(server, client);
  }));

test('whoever connects and says nothing holds up nobody', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const path = takeoverPath(server.data);
    for (let count = 0; count < 12; count += 1) {
      const silent = await RawSocket.open({ path });
      scope.defer('close a silent one', () => silent.close());
    }
    // Each may take 5 s, on a thread that commands need too.
    const begun = performance.now();
    await stillServes(server, client);
    expect(performance.now() - begun).toBeLessThan(4_000);
    await until('their end', () => greeted(server), WAIT);
    await next(scope, server);
  }));

test('a new server that dies before it has everything leaves all to the old one', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const afterHello = await offered(server);
    afterHello.close();
    await stillServes(server, client);

    const afterReady = await offered(server);
    await afterReady.send('ready', {});
    afterReady.close();
    await stillServes(server, client);

    const afterAll = await offered(server);
    await afterAll.send('ready', {});
    const { connections: count } = await receiveAll(afterAll);
    expect(count).toBe(1);
    const waiting = client.read(0, 4096);
    await afterAll.send('received', { listeners: 0, connections: 0 });
    expect((await afterAll.receive(['refused'])).body.reason).toContain('not received everything');
    afterAll.close();
    expect((await waiting)[0]).toBe(7);
    await stillServes(server, client);
    await next(scope, server);
  }));

test('one takeover at a time', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const first = await offered(server);
    const second = await refusedStart(server.data, { args: ['--takeover'] });
    expect(second.code).toBe(6);
    expect(second.stderr).toContain('another takeover is under way');
    first.close();
    await stillServes(server, client);
  }));

test('a frozen volume keeps its server', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    await server.api.call('POST', '/v1/volumes/1200/freeze', { seconds: 60 });
    const refused = await refusedStart(server.data, { args: ['--takeover'] });
    expect(refused.code).toBe(6);
    expect(refused.stderr).toContain('volume 1200 is frozen');
    await server.api.call('POST', '/v1/volumes/1200/thaw');
    await stillServes(server, client);
  }));

test('after the new server has died with everything, a start finds every write', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const taker = await offered(server);
    await taker.send('ready', {});
    await taker.send('received', await receiveAll(taker));
    await taker.receive(['released'], 20_000);
    expect(await server.endedByItself()).toBe(0);
    taker.close();
    await servesAgain(scope, server);
    client.close();
  }));

test('the old server killed in the middle leaves a pool that opens', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--no-demo'] });
    const client = await attached(scope, server);
    const taker = await offered(server);
    await taker.send('ready', {});
    const { descriptors } = await taker.receive(['listener']);
    for (const descriptor of descriptors) closeDescriptor(descriptor);
    await server.kill9();
    await expect(receiveAll(taker).then(() => taker.receive(['released']))).rejects.toThrow(
      'takeover failed',
    );
    taker.close();
    await servesAgain(scope, server, ['--takeover']);
    client.close();
  }));

test('the files that say where the server is are the new one’s', () =>
  scoped(async (scope) => {
    const old = await startServer(scope, { args: ['--no-demo'] });
    const server = await next(scope, old);
    const facts = JSON.parse(await readFile(join(server.data, 'flashlun.json'), 'utf8')) as {
      pid: number;
    };
    expect(facts.pid).toBe(server.pid);
    const listed = await server.flashlun('connection', 'list');
    expect(listed.code).toBe(0);
  }));
