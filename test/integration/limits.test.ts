/** Limits of connections and rates with real clients; and whoever dies leaves nothing behind. */
import { readdir } from 'node:fs/promises';
import type { NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { clientFlags, CMD, CMD_FLAG, go, OPT, option, request } from '../helpers/nbd-wire.js';
import { Random, testSeed } from '../helpers/random.js';
import { RawSocket } from '../helpers/raw-socket.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const WAIT = { deadlineMs: 20_000 };

/** A sample of /metrics; 0 when it is not there. */
async function metric(server: Server, sample: string): Promise<number> {
  const text = await (await fetch(`${server.addresses.http}/metrics`)).text();
  const line = text.split('\n').find((each) => each.startsWith(`${sample} `));
  return Number(line?.slice(sample.length + 1) ?? 0);
}

async function attach(scope: Scope, address: NetConnectOpts, name = '1203'): Promise<NbdPeer> {
  const peer = await NbdPeer.attach(address, name);
  scope.defer('close the client', () => peer.close());
  return peer;
}

async function limit(server: Server, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun('volume', 'limit', '1203', ...args);
  if (code !== 0) throw new Error(`volume limit: ${code} ${stderr}`);
  return stdout;
}

/** Seconds until `count` reads that are all sent at once have been answered. */
async function timeReads(peer: NbdPeer, count: number): Promise<number> {
  const begin = performance.now();
  peer.send(...Array.from({ length: count }, () => ({ type: CMD.read, length: 512 })));
  for (let i = 0; i < count; i += 1) expect((await peer.answer(512)).errno).toBe(0);
  return (performance.now() - begin) / 1000;
}

// Connections -------------------------------------------------------------------------------------

test('connections of a LUN, of a client, in all: one more is refused', (context) => {
  requires(context, 'qemu-io');
  return scoped(async (scope) => {
    const server = await startServer(scope, {
      args: [
        ...['--nbd-connections-per-export', '2', '--nbd-connections-per-client', '3'],
        ...['--nbd-connections', '5'],
      ],
    });
    const first = await attach(scope, server.tcp);
    await attach(scope, server.tcp);
    // Of the LUN, in words.
    const full = await exec('qemu-io', ['-f', 'raw', '-c', 'read 0 512', server.tcpUri('1203')]);
    expect(full.code).not.toBe(0);
    expect(full.stderr).toContain('volume 1203 has as many connections as it may have');
    // Of the client: it is closed without a word.
    const third = await attach(scope, server.tcp, '1204');
    const fourth = await RawSocket.open(server.tcp);
    expect(await fourth.receiveUntilClosed()).toHaveLength(0);
    // The unix socket's user is another client; then all places are taken.
    await attach(scope, { path: server.unixPath }, '1204');
    await attach(scope, { path: server.unixPath }, '1205');
    const sixth = await RawSocket.open({ path: server.unixPath });
    expect(await sixth.receiveUntilClosed()).toHaveLength(0);
    for (const reason of ['export', 'client', 'total']) {
      expect(await metric(server, `flashlun_nbd_refused_total{reason="${reason}"}`)).toBe(1);
    }
    first.close();
    third.close();
    const placeFor = async (name: string) => {
      const peer = await NbdPeer.attach(server.tcp, name).catch(() => undefined);
      if (peer) scope.defer('close the client', () => peer.close());
      return peer;
    };
    await until('a place', () => placeFor('1203'), WAIT);
  });
});

test('a client that says nothing is closed after the time that is set', () =>
  scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--nbd-handshake-seconds', '1'] });
    const silent = await NbdPeer.greeted(server.tcp);
    expect(await silent.receiveUntilClosed()).toHaveLength(0);
  }));

// Rates -------------------------------------------------------------------------------------------

test('300 requests at 100 a second take two seconds; none fails, a flush does not wait', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    await limit(server, '--iops', '100');
    const peer = await attach(scope, server.tcp);
    const flushing = await attach(scope, { path: server.unixPath });
    const reads = timeReads(peer, 300);
    for (let i = 0; i < 200; i += 1) {
      expect((await flushing.ask({ type: CMD.flush })).errno).toBe(0);
    }
    expect(await reads).toBeGreaterThan(1.8);
    // Those behind the burst; a few may have come due before they were looked at.
    const ops = await metric(server, 'flashlun_volume_throttled_ops_total{volume="1203"}');
    expect(ops).toBeGreaterThan(150);
    expect(ops).toBeLessThan(200);
    const delayed = 'flashlun_volume_throttled_seconds_total{volume="1203"}';
    expect(await metric(server, delayed)).toBeGreaterThan(1.5);
    // Another LUN has no limit.
    expect(await timeReads(await attach(scope, server.tcp, '1204'), 300)).toBeLessThan(1.8);
  }));

test('a limit holds for requests that wait, is kept over a restart, and is shown', (context) => {
  requires(context, 'nbdcopy');
  return scoped(async (scope) => {
    const first = await startServer(scope);
    await limit(first, '--iops', '1', '--burst-seconds', '0.01');
    const slow = await attach(scope, first.tcp);
    const reads = timeReads(slow, 1000);
    await until(
      'a request that waits',
      async () => (await metric(first, 'flashlun_volume_throttled_ops_total{volume="1203"}')) > 0,
      WAIT,
    );
    await limit(first, '--none');
    expect(await reads).toBeLessThan(60); // of 1000
    const shown = await limit(first, '--mbps', '16', '--burst-seconds', '0.5');
    expect(shown).toMatch(/^throughput +16 MB\/s$/m);
    await first.kill9();
    const server = await startServer(scope, { data: first.data });
    expect(await limit(server)).toBe(shown);
    const begin = performance.now();
    await ok('nbdcopy', [
      '--request-size',
      `${MIB}`,
      ...(await image(scope)),
      server.tcpUri('1203'),
    ]);
    // 48 MiB without the burst of 8 and what the last requests still owe.
    expect((performance.now() - begin) / 1000).toBeGreaterThan(2);
  });
});

/** A file of 48 MiB of noise. */
async function image(scope: Scope): Promise<string[]> {
  const file = join(await scope.tempDir(), 'image');
  await ok('dd', ['if=/dev/urandom', `of=${file}`, 'bs=1M', 'count=48', 'status=none']);
  return [file];
}

// Whoever dies leaves nothing ---------------------------------------------------------------------

const seed = testSeed();
console.log(`limits: FLASHLUN_TEST_SEED=${seed}`);

/** A client up to the moment of its death, one for each state a connection can be in. */
const LIVES: Readonly<Record<string, (raw: RawSocket, random: Random) => void>> = {
  'has only connected': () => undefined,
  'half of its flags': (raw) => raw.send(clientFlags().subarray(0, 2)),
  'half an option header': (raw) => raw.send(clientFlags(), go('1203').subarray(0, 9)),
  'half the data of an option': (raw) => raw.send(clientFlags(), go('1203').subarray(0, 22)),
  'a list that it does not read': (raw) => {
    raw.send(clientFlags(), ...Array.from({ length: 100 }, () => option(OPT.list)));
  },
  'GO, and dead before the answer': (raw) => raw.send(clientFlags(), go('1203')),
  'half a request': (raw) => raw.send(attached(), read(4096).subarray(0, 20)),
  'half a payload': (raw, random) => {
    const write = request({ type: CMD.write, data: random.bytes(200_000) });
    raw.send(attached(), write.subarray(0, random.between(28, write.length)));
  },
  'long reads that it does not read': (raw) => {
    raw.send(attached(), ...Array.from({ length: 8 }, () => read(32 * MIB)));
  },
  'writes and flushes on the way': (raw, random) => {
    const data = random.bytes(65_536);
    const offset = 65_536 * random.between(0, 1000);
    const write = request({ type: CMD.write, offset, data, flags: CMD_FLAG.fua });
    raw.send(attached(), write, request({ type: CMD.flush }), write, request({ type: CMD.flush }));
  },
  'waiting for its turn': (raw) => {
    raw.send(clientFlags(), go('1204'), ...Array.from({ length: 50 }, () => read(512)));
  },
};

function attached(): Buffer {
  return Buffer.concat([clientFlags(), go('1203')]);
}

function read(length: number): Buffer {
  return request({ type: CMD.read, length });
}

async function entries(folder: string): Promise<number> {
  return (await readdir(folder)).length;
}

test('200 clients killed in every state leave no connection, thread, descriptor or byte', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    const random = new Random(seed);
    await server.api.call('PATCH', '/v1/volumes/1204/limits', { iops: 200, burstSeconds: 0.01 });
    // What a server has once it has served a client of each kind.
    for (const address of [server.tcp, { path: server.unixPath }]) {
      const peer = await NbdPeer.attach(address, '1203');
      await peer.ask({ type: CMD.flush });
      peer.close();
    }
    const gone = async () =>
      (await metric(server, 'flashlun_nbd_places_used')) === 0 &&
      (await server.api.volume('1203')).attached + (await server.api.volume('1204')).attached === 0;
    await until('the first clients', gone, WAIT);
    const [threads, files] = [`/proc/${server.pid}/task`, `/proc/${server.pid}/fd`];
    const before = { threads: await entries(threads), files: await entries(files) };
    const lives = Object.values(LIVES);
    let died = 0;
    const oneClient = async (index: number): Promise<void> => {
      const address = random.between(0, 2) === 0 ? server.tcp : { path: server.unixPath };
      const raw = await RawSocket.open(address);
      lives[index % lives.length]?.(raw, random);
      // Some die at once, some when the server has begun to answer.
      if (random.between(0, 2) === 0) await raw.receive(random.between(1, 18));
      if (random.between(0, 2) === 0 && 'host' in address) raw.socket.resetAndDestroy();
      else raw.close();
      died += 1;
    };
    for (let round = 0; round < 10; round += 1) {
      await Promise.all(Array.from({ length: 20 }, (_, index) => oneClient(20 * round + index)));
    }
    expect(died).toBe(200);
    await until('the end of all connections', gone, WAIT);
    await until(
      'threads, descriptors and memory as before',
      async () =>
        (await entries(threads)) <= before.threads &&
        (await entries(files)) <= before.files &&
        (await metric(server, 'flashlun_nbd_memory_used_bytes')) === 0,
      {
        ...WAIT,
        diagnosis: () => JSON.stringify(before),
      },
    );
    // And the next client is served at once.
    const next = await attach(scope, server.tcp, '1204');
    expect((await next.ask({ type: CMD.read, length: 512 })).errno).toBe(0);
  }));
