/**
 * The negotiation rows of the malformed-input matrix of reference/nbd.md 1.12 against the running
 * server, over TCP and the unix socket: wrong input costs at most the connection it came on. The
 * rows of the transmission phase are in nbd-malformed-requests.test.ts.
 *
 * This server runs without TLS, which is refused in step; with it: tls.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { expectAlive, NbdPeer, nextReply } from '../helpers/nbd-peer.js';
import {
  CMD,
  clientFlags,
  contextRequest,
  decodeReplies,
  exportRequest,
  go,
  OPT,
  option,
  REP,
  request,
  u16,
  u32,
} from '../helpers/nbd-wire.js';
import { Random, testSeed } from '../helpers/random.js';
import type { RawSocket } from '../helpers/raw-socket.js';
import { type Server, startServer } from '../helpers/server.js';

const MIB = 2 ** 20;
const LUN = '20313698';

const all = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(all);
});
afterAll(() => all.close());

describe.each(['tcp', 'unix'] as const)('negotiation over %s', (transport) => {
  /** Sends after the flags, and returns all replies until the server closes. */
  async function dialogue(...parts: Uint8Array[]) {
    const raw = await NbdPeer.greeted(server.address(transport));
    raw.send(clientFlags(), ...parts);
    const bytes = await raw.receiveUntilClosed();
    raw.close();
    return decodeReplies(bytes).map((reply) => [reply.option, reply.type]);
  }

  const abort = option(OPT.abort);
  const aborted = [OPT.abort, REP.ack];

  test.each([
    ['an unknown client flag', u32(0x8000_0003)],
    ['no NBD at all', Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n')],
    ['a wrong option magic', Buffer.concat([clientFlags(), Buffer.alloc(16, 0x49)])],
    ['2^32-1 bytes of data', Buffer.concat([clientFlags(), option(99, u32(0), 0xffffffff)])],
    [
      'EXPORT_NAME with NUL',
      Buffer.concat([clientFlags(), option(OPT.exportName, Buffer.from('20\x003698'))]),
    ],
    [
      'EXPORT_NAME of nothing',
      Buffer.concat([clientFlags(), option(OPT.exportName, Buffer.from('99999999'))]),
    ],
  ])('%s: closed without a word', async (_name, bytes) => {
    const raw = await NbdPeer.greeted(server.address(transport));
    raw.send(bytes);
    expect(await raw.receiveUntilClosed()).toHaveLength(0);
    await expectAlive(server.address(transport), LUN);
  });

  const name = Buffer.from(LUN);
  test.each<[string, number, Buffer, number]>([
    ['PEEK_EXPORT', OPT.peekExport, Buffer.from(LUN), REP.unsupported],
    ['option 12', 12, Buffer.alloc(0), REP.unsupported],
    ['option 2^32-1 with 1 MiB', 0xffffffff, Buffer.alloc(MIB), REP.unsupported],
    ['EXTENDED_HEADERS with data', OPT.extendedHeaders, Buffer.alloc(1), REP.invalid],
    ['SET_META_CONTEXT alone', OPT.setMetaContext, contextRequest(LUN, ['base:']), REP.invalid],
    ['LIST_META_CONTEXT of nothing', OPT.listMetaContext, Buffer.alloc(0), REP.invalid],
    [
      'LIST_META_CONTEXT with 2^32-1 queries',
      OPT.listMetaContext,
      contextRequest(LUN, ['base:'], 0xffffffff),
      REP.invalid,
    ],
    [
      'LIST_META_CONTEXT, a query past the end',
      OPT.listMetaContext,
      Buffer.concat([u32(8), name, u32(1), u32(0xffffffff), Buffer.from('base:')]),
      REP.invalid,
    ],
    [
      'LIST_META_CONTEXT of an unknown export',
      OPT.listMetaContext,
      contextRequest('99999999', []),
      REP.unknown,
    ],
    ['LIST_META_CONTEXT of 1 MiB', OPT.listMetaContext, Buffer.alloc(MIB), REP.tooBig],
    ['STARTTLS', OPT.startTls, Buffer.alloc(0), REP.unsupported],
    ['STARTTLS with data', OPT.startTls, Buffer.alloc(3), REP.invalid],
    ['LIST with data', OPT.list, Buffer.alloc(5), REP.invalid],
    ['STRUCTURED_REPLY with data', OPT.structuredReply, Buffer.alloc(70_000), REP.invalid],
    ['GO without data', OPT.go, Buffer.alloc(0), REP.invalid],
    ['GO, name too long', OPT.go, Buffer.concat([u32(9), name, u16(0)]), REP.invalid],
    ['GO, name 2^32-1', OPT.go, Buffer.concat([u32(0xffffffff), name, u16(0)]), REP.invalid],
    ['GO, count too high', OPT.go, Buffer.concat([u32(8), name, u16(9), u16(3)]), REP.invalid],
    ['GO, bytes too many', OPT.go, Buffer.concat([u32(8), name, u16(0), u16(3)]), REP.invalid],
    ['GO, name of 4097 bytes', OPT.go, exportRequest(Buffer.alloc(4097, 65)), REP.invalid],
    ['GO, NUL in the name', OPT.go, exportRequest('2031\x003698'), REP.invalid],
    ['GO, name not UTF-8', OPT.go, exportRequest(Buffer.from([0xff])), REP.invalid],
    ['INFO of the default export', OPT.info, exportRequest(''), REP.unknown],
    ['GO of 1 MiB', OPT.go, Buffer.alloc(MIB), REP.tooBig],
  ])('%s is refused in step', async (_name, number, data, type) => {
    expect(await dialogue(option(number, data), abort)).toEqual([[number, type], aborted]);
  });

  test('information asked for many times is given once', async () => {
    const infos = Array.from({ length: 10_000 }, () => 3);
    const replies = await dialogue(option(OPT.info, exportRequest(LUN, infos)), abort);
    expect(replies.filter(([, type]) => type === REP.info)).toHaveLength(2);
  });

  test('plain bytes behind a refused STARTTLS are options like any other', async () => {
    const replies = await dialogue(option(OPT.startTls), option(OPT.startTls), abort);
    expect(replies).toEqual([
      [OPT.startTls, REP.unsupported],
      [OPT.startTls, REP.unsupported],
      aborted,
    ]);
  });

  test('a second STRUCTURED_REPLY is refused and the first stays', async () => {
    const peer = await NbdPeer.greeted(server.address(transport));
    peer.send(clientFlags(), option(OPT.structuredReply), option(OPT.structuredReply));
    expect((await nextReply(peer)).type).toBe(REP.ack);
    expect((await nextReply(peer)).type).toBe(REP.invalid);
    peer.close();
  });

  test('a client without fixed newstyle is refused in step and served by EXPORT_NAME', async () => {
    const raw = await NbdPeer.greeted(server.address(transport));
    raw.send(clientFlags(0), go(LUN), option(OPT.exportName, Buffer.from('1203')));
    expect((await nextReply(raw)).type).toBe(REP.invalid);
    const reply = await raw.receive(134);
    expect(reply.readBigUInt64BE(0)).toBe(BigInt(2 ** 30));
    raw.send(request({ type: CMD.read, cookie: 9n, length: 16 }));
    expect((await raw.receive(32)).readBigUInt64BE(8)).toBe(9n);
    raw.close();
  });
});

test('a silent client is dropped after 10 s, and others are served meanwhile', () =>
  scoped(async (scope) => {
    const raw = await NbdPeer.greeted(server.tcp);
    scope.defer('close', () => raw.close());
    const startedAt = performance.now();
    const dropped = raw.receiveUntilClosed(15_000);
    await expectAlive(server.tcp, LUN);
    expect(await dropped).toHaveLength(0);
    expect(performance.now() - startedAt).toBeGreaterThan(9_000);
  }));

test('noise never brings the server down', async () => {
  const seed = testSeed();
  console.log(`nbd-malformed: FLASHLUN_TEST_SEED=${seed}`);
  const random = new Random(seed);
  const ends: Promise<Buffer>[] = [];
  const sockets: RawSocket[] = [];
  for (let i = 0; i < 60; i += 1) {
    const noise = random.bytes(random.between(1, 5000));
    if (i % 2 === 0) {
      const raw = await NbdPeer.greeted(server.tcp);
      sockets.push(raw);
      raw.send(clientFlags(), noise);
    } else {
      const peer = await NbdPeer.attach({ path: server.unixPath }, LUN);
      sockets.push(peer.raw);
      // A right magic now and then, so that the fields behind it are reached.
      if (i % 4 === 1) peer.raw.send(u32(0x25609513), noise);
      else peer.raw.send(noise);
    }
    const raw = sockets.at(-1);
    raw?.socket.end();
    if (raw) ends.push(raw.receiveUntilClosed());
  }
  await Promise.all(ends);
  for (const raw of sockets) raw.close();
  await expectAlive(server.tcp, LUN);
  expect(server.running).toBe(true);
});
