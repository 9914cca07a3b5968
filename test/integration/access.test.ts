/** LUN masking with real clients: who sees what, who may write, and what a change does. */
import { chmod } from 'node:fs/promises';
import type { NetConnectOpts } from 'node:net';
import { dirname, join } from 'node:path';
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { exec, type ExecResult, ok } from '../helpers/exec.js';
import { NbdPeer, nextReply } from '../helpers/nbd-peer.js';
import { clientFlags, CMD, ERRNO, go, info, REP } from '../helpers/nbd-wire.js';
import { requires } from '../helpers/requires.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const MIB = 2 ** 20;
const SERIALS = ['20313698', '20413698', '20513698', '20613698', '30313698', '30413698'];
const EPERM = 1;
const NOBODY = '65534';
const WAIT = { deadlineMs: 10_000 };

/** Names of LIST, as a client behind `wrapper` sees them. */
async function listed(uri: string, ...wrapper: string[]): Promise<string[]> {
  const [command = '', ...args] = [...wrapper, 'nbdinfo', '--list', '--json', uri];
  const list = JSON.parse(await ok(command, args)) as { exports: { 'export-name': string }[] };
  return list.exports.map((entry) => entry['export-name']).sort();
}

async function isReadOnly(uri: string): Promise<boolean> {
  const info = JSON.parse(await ok('nbdinfo', ['--json', uri])) as {
    exports: { is_read_only: boolean }[];
  };
  return info.exports[0]?.is_read_only ?? false;
}

/** Attaches from an address of this machine; IPv4 unless the server listens on ::1. */
async function attach(scope: Scope, address: NetConnectOpts, name = '1203'): Promise<NbdPeer> {
  const peer = await NbdPeer.attach(address, name);
  scope.defer('close the client', () => peer.close());
  return peer;
}

function from(server: Server, localAddress: string): NetConnectOpts {
  return { ...server.tcp, host: server.tcp.host.replace(/[[\]]/g, ''), localAddress };
}

/** `flashlun ARGS`, which must succeed. */
async function run(server: Server, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await server.flashlun(...args);
  if (code !== 0) throw new Error(`flashlun ${args.join(' ')}: ${code} ${stderr}`);
  return stdout;
}

function refused({ code, stderr }: ExecResult): string {
  expect(code).not.toBe(0);
  return stderr;
}

test('a volume with a rule is there for its host alone, listed and by name', (context) => {
  requires(context, 'nbdinfo', 'qemu-io');
  return scoped(async (scope) => {
    const server = await startServer(scope);
    await run(server, 'host', 'create', 'second', '--address', '127.0.0.2');
    await run(server, 'host', 'create', 'first', '--address', '127.0.0.1', '127.0.0.3');
    expect(await listed(server.tcpUri(''))).toEqual(SERIALS);
    expect(await run(server, 'volume', 'allow', '1203', '--host', 'second')).toMatch(
      /may be attached by\nsecond +read-write/,
    );
    const others = SERIALS.slice(1);
    expect(await listed(server.tcpUri(''))).toEqual(others);
    expect(await listed(server.unixUri(''))).toEqual(others);
    // The same words as for a volume that is not there.
    const words = async (name: string) =>
      refused(await exec('nbdinfo', [server.tcpUri(name)])).replaceAll(name, 'NAME');
    expect(await words('1203')).toBe(await words('1999'));
    const io = await exec('qemu-io', ['-f', 'raw', '-c', 'read 0 512', server.tcpUri('20313698')]);
    expect(refused(io)).toContain('20413698'); // an example that it may have, not 1203's serial
    // The host has it, from its address only.
    const peer = await attach(scope, from(server, '127.0.0.2'));
    const data = Buffer.alloc(4096, 7);
    expect(await peer.ask({ type: CMD.write, data })).toMatchObject({ errno: ERRNO.ok });
    await expect(NbdPeer.attach(from(server, '127.0.0.3'), '1203')).rejects.toThrow(/no export/);
    expect(server.log).toContain('no access rule lets this client in');
    // Set back: there for this machine again, with what was written.
    expect(await run(server, 'volume', 'allow', '1203', '--default')).toContain('open to clients');
    const read = ['-f', 'raw', '-c', 'read -P 7 0 4096', server.unixUri('20313698')];
    expect(await ok('qemu-io', read)).toContain('read 4096/4096');
  });
});

test('IPv6 loopback is this machine too, and a host may be named by it', (context) => {
  requires(context, 'nbdinfo');
  return scoped(async (scope) => {
    const server = await startServer(scope, { args: ['--nbd', '[::1]:0'] });
    const uri = (name: string) => `nbd://[::1]:${server.tcp.port}/${name}`;
    expect(await listed(uri(''))).toEqual(SERIALS);
    await run(server, 'host', 'create', 'v6', '--address', '::1');
    await run(server, 'volume', 'deny', '1203', '--all');
    expect(await listed(uri(''))).toEqual(SERIALS.slice(1));
    await run(server, 'volume', 'allow', '1203', '--host', 'v6', '--read-only');
    expect(await listed(uri(''))).toEqual(SERIALS);
    expect(await isReadOnly(uri('1203'))).toBe(true);
  });
});

test('users of the unix socket: root reads, nobody has nothing', (context) => {
  requires(context, 'nbdinfo', 'nbdcopy', 'qemu-io', 'setpriv', 'root');
  return scoped(async (scope) => {
    const server = await startServer(scope);
    await run(server, 'host', 'create', 'root', '--uid', '0');
    await run(server, 'volume', 'allow', '1203', '--host', 'root', '--read-only');
    // Let others in as far as the socket.
    for (const folder of [dirname(server.data), server.data]) await chmod(folder, 0o711);
    await chmod(server.unixPath, 0o666);
    const asNobody = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
    expect(await listed(server.unixUri(''), ...asNobody)).toEqual(SERIALS.slice(1));
    expect(await listed(server.unixUri(''))).toEqual(SERIALS);
    expect(await listed(server.tcpUri(''))).toEqual(SERIALS.slice(1));
    const uri = server.unixUri('1203');
    expect(await isReadOnly(uri)).toBe(true);
    expect(await isReadOnly(server.unixUri('1204'))).toBe(false);
    expect(await ok('qemu-io', ['-r', '-f', 'raw', '-c', 'read 0 1M', uri])).toContain('read 1048');
    refused(await exec('qemu-io', ['-f', 'raw', '-c', 'write 0 4096', uri]));
    const image = join(await scope.tempDir(), 'image');
    await ok('nbdcopy', [uri, image]);
    refused(await exec('nbdcopy', [image, uri]));
    // The flag is only a word to the client; the server means it.
    const peer = await attach(scope, { path: server.unixPath });
    for (const type of [CMD.write, CMD.trim, CMD.writeZeroes]) {
      const data = type === CMD.write ? { data: Buffer.alloc(512, 1) } : { length: 512 };
      expect(await peer.ask({ type, ...data })).toMatchObject({ errno: EPERM });
    }
    expect((await peer.ask({ type: CMD.read, length: 512 })).data).toEqual(Buffer.alloc(512));
  });
});

test('a change ends exactly the connections that may not go on, and loses nothing', (context) => {
  requires(context, 'qemu-io');
  return scoped(async (scope) => {
    const server = await startServer(scope);
    await run(server, 'host', 'create', 'first', '--address', '127.0.0.1');
    await run(server, 'host', 'create', 'second', '--address', '127.0.0.2');
    const first = await attach(scope, from(server, '127.0.0.1'));
    const second = await attach(scope, from(server, '127.0.0.2'));
    const local = await attach(scope, { path: server.unixPath });
    const elsewhere = await attach(scope, from(server, '127.0.0.1'), '1204');
    const data = Buffer.alloc(65_536, 9);
    expect(await second.ask({ type: CMD.write, offset: MIB, data })).toMatchObject({ errno: 0 });
    // From the default to the first rule.
    const out = await run(server, 'volume', 'allow', '1203', '--host', 'first');
    expect(out).toContain('2 connections ended');
    expect(await second.raw.receiveUntilClosed()).toHaveLength(0);
    expect(await local.raw.receiveUntilClosed()).toHaveLength(0);
    const read = { type: CMD.read, offset: MIB, length: data.length };
    expect((await first.ask(read)).data.equals(data)).toBe(true);
    // From read-write to read-only: who could write must connect again.
    await run(server, 'volume', 'allow', '1203', '--host', 'first', '--read-only');
    expect(await first.raw.receiveUntilClosed()).toHaveLength(0);
    const reader = await attach(scope, from(server, '127.0.0.1'));
    // Wider again: a reader goes on reading.
    expect(await run(server, 'volume', 'allow', '1203', '--host', 'first')).not.toContain('ended');
    expect((await reader.ask(read)).data.equals(data)).toBe(true);
    expect(await reader.ask({ type: CMD.write, data: Buffer.alloc(512) })).toMatchObject({
      errno: EPERM,
    });
    // A host that gets another address is another client.
    const moved = await run(server, 'host', 'update', 'first', '--address', '127.0.0.9');
    expect(moved).toContain('1 connection ended');
    expect(await reader.raw.receiveUntilClosed()).toHaveLength(0);
    expect((await elsewhere.ask({ type: CMD.read, length: 512 })).data).toHaveLength(512);
    await until('the audit lines', () => server.log.includes('volume access changed'), WAIT);
    const audit = server.log.split('\n').filter((line) => line.includes('"audit":true'));
    expect(audit.some((line) => line.includes('"user":"admin"'))).toBe(true);
    expect(audit.some((line) => line.includes('disconnected: the access rules'))).toBe(true);
  });
});

test('a change during a negotiation counts for its next option', () =>
  scoped(async (scope) => {
    const server = await startServer(scope);
    const raw = await NbdPeer.greeted(from(server, '127.0.0.1'));
    scope.defer('close the client', () => raw.close());
    raw.send(clientFlags(), info('1203'));
    const types: number[] = [];
    while (types.at(-1) !== REP.ack) types.push((await nextReply(raw)).type);
    await run(server, 'volume', 'deny', '1203', '--all');
    raw.send(go('1203'));
    expect((await nextReply(raw)).type).toBe(REP.unknown);
  }));

test('rules and hosts are there after SIGKILL, and go with their volume', (context) => {
  requires(context, 'nbdinfo');
  return scoped(async (scope) => {
    const first = await startServer(scope);
    await run(first, 'host', 'create', 'h', '--address', '127.0.0.2', '--tls-identity', 'CN=h');
    await run(first, 'volume', 'allow', '1203', '--host', 'h');
    await first.kill9();
    const server = await startServer(scope, { data: first.data });
    expect(await listed(server.tcpUri(''))).toEqual(SERIALS.slice(1));
    expect(await run(server, 'host', 'list')).toMatch(/^h +127\.0\.0\.2 +- +CN=h$/m);
    expect(await run(server, 'host', 'show', 'h')).toMatch(/volumes +1203 \(read-write\)/);
    // An address is not enough for a host that has a TLS identity too.
    await expect(NbdPeer.attach(from(server, '127.0.0.2'), '1203')).rejects.toThrow(/no export/);
    const inUse = await server.flashlun('host', 'delete', 'h');
    expect(inUse.code).toBe(6);
    expect(inUse.stderr).toContain('volume deny 1203 --host h');
    await run(server, 'volume', 'delete', '1203');
    expect(await run(server, 'host', 'delete', 'h')).toBe('Deleted host h.\n');
    await run(server, 'volume', 'create', '--id', '1203', '--size', '1M');
    expect(await listed(server.tcpUri(''))).toEqual(SERIALS);
  });
});
