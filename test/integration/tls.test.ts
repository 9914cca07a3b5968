/**
 * TLS by bytes: what must not work, who may have what, and that an encrypted connection is one like
 * any other. Everything by native code and over the bridge.
 */
import { rm, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { NbdPeer, nextReply } from '../helpers/nbd-peer.js';
import { clientFlags, CMD, CMD_FLAG, go, OPT, option, REP, request } from '../helpers/nbd-wire.js';
import { RawSocket } from '../helpers/raw-socket.js';
import { findTool } from '../helpers/requires.js';
import { refusedStart, type Server, startServer } from '../helpers/server.js';
import { clientOptions, Pki, secured, startTls } from '../helpers/tls.js';
import { until } from '../helpers/wait.js';

const SERIAL = '20313698';
const OTHER = '30313698';
const TLS_REQUIRED = 0x80000005;
const MIB = 1024 * 1024;
const DEADLINE_MS = 15_000;

const hasOpenssl = findTool('openssl') !== undefined;
const scope = new Scope();
let pki: Pki;
let alice: string;

beforeAll(async () => {
  if (!hasOpenssl) return;
  pki = await Pki.make(scope);
  alice = await pki.client('alice');
});

afterAll(() => scope.close());

function tlsArgs(how: string, mode = 'require', ...more: string[]): string[] {
  const files = ['--nbd-tls-certificates', pki.server];
  return ['--nbd-tls', mode, ...files, '--nbd-tls-transport', how, ...more];
}

/** What the server writes about one thing. */
function logged(server: Server, text: string): Promise<unknown> {
  return until(`"${text}" in the log`, () => server.log.includes(text), {
    deadlineMs: DEADLINE_MS,
    diagnosis: () => server.log,
  });
}

async function attach(server: Server, name = SERIAL, structured = false): Promise<NbdPeer> {
  const { raw } = await secured(server.tcp, await clientOptions(alice));
  return NbdPeer.choose(raw, name, { structured });
}

describe.skipIf(!hasOpenssl).each(['native', 'bridge'])('%s (needs openssl)', (how) => {
  const own = new Scope();
  let server: Server;

  beforeAll(async () => {
    server = await startServer(own, { args: tlsArgs(how) });
  });
  afterAll(() => own.close());

  test('a client without TLS is told so and gets nothing', async () => {
    const raw = await NbdPeer.greeted(server.tcp);
    raw.send(clientFlags(), option(OPT.list), go(SERIAL), option(OPT.abort));
    const types = [await nextReply(raw), await nextReply(raw), await nextReply(raw)];
    expect(types.map(({ type }) => type)).toEqual([TLS_REQUIRED, TLS_REQUIRED, REP.ack]);
    raw.close();
  });

  test('plain text behind STARTTLS in one segment closes the connection', async () => {
    const raw = await NbdPeer.greeted(server.tcp);
    raw.send(clientFlags(), option(OPT.startTls), go(SERIAL));
    expect((await raw.receiveUntilClosed()).length).toBe(0);
    await logged(server, 'plain text behind STARTTLS');
  });

  test('plain text in place of the TLS handshake closes it, and is not an option', async () => {
    for (const bytes of [go(SERIAL), request({ type: CMD.read, length: 4096 }), Buffer.alloc(1)]) {
      const raw = RawSocket.of(await startTls(server.tcp));
      raw.send(bytes);
      raw.socket.end();
      const answer = await raw.receiveUntilClosed();
      // At most an alert (record type 21).
      if (answer.length > 0) expect(answer[0]).toBe(21);
      raw.close();
    }
  });

  test('clients whose TLS handshake stands still hold up nobody, and are dropped', async () => {
    const slow: Socket[] = [];
    for (let count = 0; count < 20; count += 1) slow.push(await startTls(server.tcp));
    slow[0]?.write(Buffer.from([22, 3, 1, 2, 0, 1])); // The begin of a ClientHello.
    const peer = await attach(server);
    expect((await peer.ask({ type: CMD.read, length: 512 })).errno).toBe(0);
    peer.close();
    const drops = slow.map((socket) => RawSocket.of(socket).receiveUntilClosed(15_000));
    await Promise.all(drops);
    await logged(server, 'negotiation took longer than 10 s');
  });

  test('requests behind GO in the same record are served', async () => {
    const { raw } = await secured(server.tcp, await clientOptions(alice));
    const behind = request({ type: CMD.read, length: 4096, cookie: 7n });
    const peer = await NbdPeer.choose(raw, SERIAL, { behind });
    expect(await peer.answer(4096)).toMatchObject({ cookie: 7n, errno: 0 });
    peer.close();
  });

  test('large requests, FUA and flush, over the unix socket too', async () => {
    const data = Buffer.alloc(8 * MIB, 'flashlun');
    for (const address of [server.tcp, { path: server.unixPath }]) {
      const { raw } = await secured(address, await clientOptions(alice));
      const peer = await NbdPeer.choose(raw, OTHER, { structured: true });
      const flags = CMD_FLAG.fua;
      expect((await peer.ask({ type: CMD.write, offset: 1000, data, flags })).errno).toBe(0);
      expect((await peer.ask({ type: CMD.flush })).errno).toBe(0);
      const read = await peer.ask({ type: CMD.read, offset: 1000, length: data.length });
      expect(read.data.equals(data)).toBe(true);
      expect((await peer.ask({ type: CMD.read, length: 512, flags: 1 << 14 })).errno).toBe(22);
      peer.close();
    }
  });

  test('DISC is answered by close_notify and the end', async () => {
    const { raw, socket } = await secured(server.tcp, await clientOptions(alice));
    const peer = await NbdPeer.choose(raw, SERIAL);
    const ended = new Promise<string>((resolve) => {
      socket.once('end', () => resolve('end'));
      socket.once('error', (error) => resolve(error.message));
    });
    peer.send({ type: CMD.disconnect });
    expect(await ended).toBe('end');
    peer.close();
  });

  test('a client that ends its side gets its answers; one that vanishes is noticed', async () => {
    const { raw, socket } = await secured(server.tcp, await clientOptions(alice));
    const peer = await NbdPeer.choose(raw, SERIAL);
    peer.send({ type: CMD.read, length: MIB, cookie: 1n }, { type: CMD.flush, cookie: 2n });
    socket.end();
    const rest = await raw.receiveUntilClosed();
    expect(rest.length).toBe(16 + MIB + 16);

    const plain = await startTls(server.tcp);
    plain.destroy(); // Without a word of TLS.
    const vanishing = await attach(server);
    vanishing.close();
    const isFree = async (): Promise<boolean> => (await server.api.volume(SERIAL)).attached === 0;
    await until('the end of all connections', isFree, { deadlineMs: DEADLINE_MS });
  });
});

describe.skipIf(!hasOpenssl).each(['native', 'bridge'])('%s (needs openssl)', (how) => {
  test('SIGTERM answers what is in flight and ends the sessions in order', async () => {
    await scoped(async (own) => {
      const server = await startServer(own, { args: tlsArgs(how) });
      const { raw, socket } = await secured(server.tcp, await clientOptions(alice));
      const peer = await NbdPeer.choose(raw, SERIAL);
      const data = Buffer.alloc(MIB, 7);
      peer.send({ type: CMD.write, data, flags: CMD_FLAG.fua, cookie: 3n });
      expect(await peer.answer()).toMatchObject({ cookie: 3n, errno: 0 });
      const ended = new Promise<string>((resolve) => {
        socket.once('end', () => resolve('end'));
        socket.once('error', (error) => resolve(error.message));
      });
      await server.stop();
      expect(await ended).toBe('end');
      peer.close();
      const again = await startServer(own, { data: server.data, args: tlsArgs(how) });
      const reader = await attach(again);
      const read = await reader.ask({ type: CMD.read, length: data.length });
      expect(read.data.equals(data)).toBe(true);
      reader.close();
    });
  });

  test('with --nbd-tls-verify-peer a certificate of the CA is needed, until revoked', async () => {
    await scoped(async (own) => {
      const other = await Pki.make(own);
      const stranger = await other.client('alice');
      const bob = await pki.client(`bob-${how}`);
      const args = tlsArgs(how, 'require', '--nbd-tls-verify-peer');
      const server = await startServer(own, { args });
      const { ca, servername } = await clientOptions(alice);
      await expect(tryAttach(server, await clientOptions(alice))).resolves.toBe('attached');
      await expect(tryAttach(server, await clientOptions(bob))).resolves.toBe('attached');
      await expect(tryAttach(server, { ca, servername })).resolves.toBe('refused');
      await logged(server, 'peer did not return a certificate');
      const foreign = { ...(await clientOptions(stranger)), ca };
      await expect(tryAttach(server, foreign)).resolves.toBe('refused');
      expect(server.log).toContain('O=Lab');

      own.defer('take the revocation back', () => rm(join(pki.server, 'ca-crl.pem')));
      await pki.revoke(`bob-${how}`);
      await reload(server);
      await expect(tryAttach(server, await clientOptions(bob))).resolves.toBe('refused');
      await expect(tryAttach(server, await clientOptions(alice))).resolves.toBe('attached');
    });
  });

  test('SIGHUP takes new files over; bad ones change nothing', async () => {
    await scoped(async (own) => {
      own.defer('give the server its certificate back', () => pki.renewServer());
      const server = await startServer(own, { args: tlsArgs(how) });
      const before = await attach(server);
      expect(await serverName(server)).toBe('localhost');
      await writeFile(join(pki.server, 'server-cert.pem'), 'nonsense');
      process.kill(server.pid, 'SIGHUP');
      await logged(server, 'TLS files were not taken over; the ones before stay in use');
      expect(await serverName(server)).toBe('localhost');
      const name = `renewed-${how}`;
      await pki.issueServer(name);
      await pki.renewServer(name);
      await reload(server);
      expect(await serverName(server)).toBe(name);
      // The old session goes on.
      expect((await before.ask({ type: CMD.read, length: 512 })).errno).toBe(0);
      before.close();
    });
  });

  test('what was agreed before STARTTLS is forgotten', async () => {
    await scoped(async (own) => {
      const server = await startServer(own, { args: tlsArgs(how, 'on') });
      const options = await clientOptions(alice);
      const { raw } = await secured(server.tcp, options, option(OPT.structuredReply));
      const peer = await NbdPeer.choose(raw, SERIAL);
      expect((await peer.ask({ type: CMD.read, length: 512 })).isStructured).toBe(false);
      peer.close();
    });
  });

  test('selective TLS: exports for some clients, read anew on SIGHUP', async () => {
    await scoped(async (own) => {
      const rules = join(await own.tempDir(), 'rules.yaml');
      await writeFile(rules, "- {exports: ['1203'], clients: ['CN=alice,O=Lab']}");
      const args = tlsArgs(how, 'on', '--nbd-tls-rules', rules);
      const server = await startServer(own, { args });
      const open = await NbdPeer.attach(server.tcp, OTHER);
      expect((await open.ask({ type: CMD.read, length: 512 })).errno).toBe(0);
      open.close();
      await expect(NbdPeer.attach(server.tcp, SERIAL)).rejects.toThrow('needs TLS');
      const { ca, servername } = await clientOptions(alice);
      await expect(tryAttach(server, { ca, servername })).resolves.toMatch('no certificate');
      await expect(tryAttach(server, await clientOptions(alice))).resolves.toBe('attached');
      await writeFile(rules, "- {exports: ['1203'], clients: ['DNS:bob.lab']}");
      await reload(server);
      await expect(tryAttach(server, await clientOptions(alice))).resolves.toMatch(
        'CN=alice,O=Lab',
      );
    });
  });

  test('files that cannot be used are refused at the start, and nothing is made', async () => {
    await scoped(async (own) => {
      const data = join(await own.tempDir(), 'data');
      const none = ['--nbd-tls', 'require', '--nbd-tls-transport', how];
      const missing = ['--nbd-tls-certificates', join(data, 'no')];
      const refused = await refusedStart(data, { args: [...none, ...missing] });
      expect(refused.code).toBe(2);
      expect(refused.stderr).toMatch(
        /^[^\n]*server-cert\.pem cannot be used: no such file[^\n]*\n$/,
      );
      own.defer('give the server its key back', () => pki.renewServer());
      await writeFile(join(pki.server, 'server-key.pem'), 'nonsense');
      const wrong = await refusedStart(data, { args: tlsArgs(how) });
      expect(wrong.code).toBe(2);
      expect(wrong.stderr).toContain('cannot be used');
    });
  });
});

/** `attached`, `refused` by the TLS handshake, or what the refusal of GO says. */
async function tryAttach(server: Server, options: object): Promise<string> {
  let raw: RawSocket;
  try {
    ({ raw } = await secured(server.tcp, options));
  } catch {
    return 'refused';
  }
  try {
    // With TLS 1.3 the client's side is open before the server has seen its certificate.
    raw.send(go(SERIAL));
    const reply = await nextReply(raw).catch(() => undefined);
    if (reply === undefined) return 'refused';
    return reply.type === REP.info ? 'attached' : reply.data.toString();
  } finally {
    raw.close();
  }
}

async function serverName(server: Server): Promise<string> {
  const { raw, socket } = await secured(server.tcp, await clientOptions(alice));
  const name = socket.getPeerCertificate().subject.CN;
  raw.close();
  return String(name);
}

async function reload(server: Server): Promise<void> {
  const line = 'TLS files were read again';
  const count = (): number => server.log.split(line).length;
  const before = count();
  process.kill(server.pid, 'SIGHUP');
  await until('the reload', () => count() > before, {
    deadlineMs: DEADLINE_MS,
    diagnosis: () => server.log,
  });
}
