/**
 * `serve --takeover` and what clients have of their own: TLS, which cannot be handed on; extended
 * headers and contexts; a mirror of the metadata; access that is taken away at that moment.
 */
import { randomBytes } from 'node:crypto';
import { rename, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { scoped } from '../helpers/cleanup.js';
import { exec, ok } from '../helpers/exec.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import { CMD, CMD_FLAG, extendedRequest } from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { connections, next } from '../helpers/takeover.js';
import { makePsk, pskOptions, secured } from '../helpers/tls.js';
import { VerifiedHost } from '../helpers/verified-host.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const WAIT = { deadlineMs: 30_000 };

async function written(server: Server, serial: string): Promise<number> {
  const lines = (await (await fetch(`${server.addresses.http}/metrics`)).text()).split('\n');
  const id = (await server.api.volume(serial)).id;
  const line = lines.find((each) =>
    each.startsWith(`flashlun_volume_write_ops_total{volume="${id}"`),
  );
  return Number(line?.split(' ').at(-1) ?? 0);
}

const HOW = ['native', 'bridge'] as const;

/** QEMU repeats what was not answered; what it was told is written must be there. */
test.for(HOW)('QEMU over TLS reconnects and loses no request (%s)', (how, context) =>
  scoped(async (scope) => {
    requires(context, 'qemu-img');
    const keys = await makePsk(scope, 'alice');
    const tls = ['--nbd-tls', 'on', '--nbd-tls-psk', keys, '--nbd-tls-transport', how];
    let server = await startServer(scope, { args: ['--no-demo', ...tls] });
    const { serial } = await server.api.createVolume('12', 192 * MIB);
    const image = join(await scope.tempDir(), 'image');
    await writeFile(image, randomBytes(192 * MIB));
    const target =
      `driver=nbd,server.type=inet,server.host=127.0.0.1,server.port=${server.tcp.port},` +
      `export=${serial},tls-creds=t,reconnect-delay=60`;
    const credentials = `tls-creds-psk,id=t,endpoint=client,dir=${dirname(keys)},username=alice`;
    const object = ['--object', credentials];
    const state = { running: true };
    const convert = exec(
      'qemu-img',
      [
        'convert',
        ...object,
        ...'-n -W -m 16 -r 24M -f raw --target-image-opts'.split(' '),
        image,
        target,
      ],
      { deadlineMs: 120_000 },
    ).finally(() => {
      state.running = false;
    });
    let takeovers = 0;
    const running = () => state.running;
    while (running() && takeovers < 4) {
      const before = await written(server, serial);
      await until(
        'load',
        async () => !running() || (await written(server, serial)) > before + 5,
        WAIT,
      );
      if (!running()) break;
      server = await next(scope, server, ...tls);
      takeovers += 1;
    }
    const { code, stderr } = await convert;
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(takeovers).toBeGreaterThan(1);
    await ok('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, server.unixUri(serial)]);
  }),
);

test.for(HOW)('a TLS client has its answers before its connection ends (%s)', (how) =>
  scoped(async (scope) => {
    const keys = await makePsk(scope, 'alice');
    const tls = ['--nbd-tls', 'require', '--nbd-tls-psk', keys, '--nbd-tls-transport', how];
    const old = await startServer(scope, { args: ['--no-demo', ...tls] });
    const { serial } = await old.api.createVolume('12', 16 * MIB);
    const options = await pskOptions(keys, 'alice');
    const open = async (server: Server) => {
      const { raw } = await secured(server.tcp, options);
      scope.defer('close a client', () => raw.close());
      return NbdPeer.choose(raw, serial);
    };
    const peer = await open(old);
    const data = new Random(3).bytes(4096);
    for (let at = 0; at < 64; at += 1) {
      peer.send({ type: CMD.write, cookie: BigInt(at), offset: at * 4096, data });
    }
    await peer.answer();
    const server = await next(scope, old, ...tls);
    const rest = await peer.raw.receiveUntilClosed();
    expect(rest.length % 16).toBe(0);
    const answered = 1 + rest.length / 16;
    const again = await open(server);
    const read = await again.ask({ type: CMD.read, length: answered * 4096 });
    for (let at = 0; at < answered; at += 1) {
      expect(read.data.subarray(at * 4096, (at + 1) * 4096).equals(data)).toBe(true);
    }
    const [connection] = await connections(server);
    expect(connection?.features).toContain('tls');
  }),
);

test('plain connections end where the new server wants TLS', () =>
  scoped(async (scope) => {
    const keys = await makePsk(scope, 'alice');
    const old = await startServer(scope, { args: ['--no-demo'] });
    const { serial } = await old.api.createVolume('12', 16 * MIB);
    const peer = await NbdPeer.attach(old.tcp, serial);
    scope.defer('close the client', () => peer.close());
    const server = await next(scope, old, '--nbd-tls', 'require', '--nbd-tls-psk', keys);
    expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    await until('its end', async () => (await connections(server)).length === 0, WAIT);
  }));

test('extended headers, contexts and changes since T0 go over', () =>
  scoped(async (scope) => {
    let server = await startServer(scope, { args: ['--no-demo'] });
    const source = await server.api.createVolume('12', 16 * MIB);
    const target = await server.api.createVolume('13', 16 * MIB);
    await server.api.establish([`${source.id}:${target.id}`], true);
    const changes = `qemu:dirty-bitmap:fc-${source.id}-${target.id}`;
    const contexts = ['base:allocation', changes];
    const peer = await NbdPeer.attach(server.tcp, source.serial, { extended: true, contexts });
    scope.defer('close the client', () => peer.close());
    const random = new Random(5);
    for (let round = 0; round < 3; round += 1) {
      const offset = round * MIB;
      const data = random.bytes(65_536);
      const wire = extendedRequest({ type: CMD.write, flags: CMD_FLAG.fua, offset, data });
      peer.raw.send(wire.subarray(0, 20_000 * round + 10));
      server = await next(scope, server);
      peer.raw.send(wire.subarray(20_000 * round + 10));
      expect((await peer.answer()).errno).toBe(0);
      const read = { type: CMD.read, flags: CMD_FLAG.dontFragment, offset, length: 65_536 };
      expect((await peer.ask(read)).data.equals(data)).toBe(true);
      const status = await peer.ask({ type: CMD.blockStatus, offset, length: MIB });
      expect(status.extents.get(1)).toEqual([
        [65_536, 0],
        [MIB - 65_536, 3],
      ]);
      expect(status.extents.get(2)?.[0]).toEqual([65_536, 1]);
    }
    const [connection] = await connections(server);
    expect(connection?.features).toEqual([
      'structured-replies',
      'extended-headers',
      'meta-contexts',
    ]);
  }));

test('the mirror of the metadata goes on being one', () =>
  scoped(async (scope) => {
    const mirror = ['--meta-mirror', join(await scope.tempDir(), 'mirror')];
    let server = await startServer(scope, { args: ['--no-demo', ...mirror] });
    const { serial } = await server.api.createVolume('12', 64 * MIB);
    const client = await NbdClient.open(server.tcp, serial);
    const host = new VerifiedHost(client, { seed: 4, firstBlock: 0, slots: 512 });
    const run = host.run(8);
    for (let round = 0; round < 2; round += 1) {
      const done = host.requests;
      await until('load', () => host.requests > done + 50, WAIT);
      server = await next(scope, server, ...mirror);
      const { pools } = await server.api.call<{ pools: { metadataMirror: { state: string } }[] }>(
        'GET',
        '/v1/pools',
      );
      expect(pools[0]?.metadataMirror.state).toBe('in sync');
    }
    host.stop();
    await run;
    const before = await client.read(0, MIB);
    client.close();
    await server.kill9();
    await rename(join(server.data, 'pool/meta'), join(server.data, 'lost'));
    const again = await startServer(scope, { data: server.data, args: mirror });
    const fresh = await NbdClient.open(again.tcp, serial);
    scope.defer('close the client', () => fresh.close());
    expect((await fresh.read(0, MIB)).equals(before)).toBe(true);
  }));

/** Whether the client is still served. */
async function goesOn(peer: NbdPeer): Promise<boolean> {
  try {
    return (await peer.ask({ type: CMD.read, length: 512 })).errno === 0;
  } catch {
    return false;
  }
}

test('access taken away while a takeover begins is gone, or was never taken away', () =>
  scoped(async (scope) => {
    let server = await startServer(scope, { args: ['--no-demo'] });
    await server.api.createVolume('12', 16 * MIB);
    await server.flashlun('host', 'create', 'here', '--address', '127.0.0.1');
    for (let round = 0; round < 4; round += 1) {
      await server.flashlun('volume', 'allow', '1200', '--host', 'here');
      const peer = await NbdPeer.attach(server.tcp, '1200');
      const old = server;
      const [denied, taken] = await Promise.all([
        old.flashlun('volume', 'deny', '1200', '--host', 'here'),
        next(scope, old),
      ]);
      server = taken;
      const access = await server.api.call<{ hosts: unknown[] }>('GET', '/v1/volumes/1200/access');
      expect(access.hosts).toHaveLength(denied.code === 0 ? 0 : 1);
      expect(await goesOn(peer)).toBe(denied.code !== 0);
      peer.close();
    }
  }));
