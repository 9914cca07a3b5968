/**
 * The malformed-input matrix of reference/nbd.md 1.12 against the running server, over TCP and the
 * unix socket: wrong input costs at most the connection it came on, and never a byte of a volume.
 *
 * Not here because this server has no such feature: TLS, metadata contexts (both are tested to be
 * refused in step), extended headers, read-only exports.
 */
import type { NetConnectOpts } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { type Answer, NbdPeer, nextReply } from '../helpers/nbd-peer.js';
import {
  CMD,
  CMD_FLAG,
  clientFlags,
  decodeReplies,
  ERRNO,
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
/** Longest payload; the server reads and refuses what is a little longer. */
const MAX_PAYLOAD = 32 * MIB;
const LUN = '20313698';

const all = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(all);
});
afterAll(() => all.close());

function addressOf(transport: 'tcp' | 'unix'): NetConnectOpts {
  return transport === 'tcp' ? server.tcp : { path: server.unixPath };
}

/** The server still takes clients and serves them. */
async function expectAlive(address: NetConnectOpts): Promise<void> {
  const peer = await NbdPeer.attach(address, LUN);
  expect(await peer.ask({ type: CMD.read, length: 512 })).toMatchObject({ errno: ERRNO.ok });
  peer.close();
}

describe.each(['tcp', 'unix'] as const)('negotiation over %s', (transport) => {
  /** Sends after the flags, and returns all replies until the server closes. */
  async function dialogue(...parts: Uint8Array[]) {
    const raw = await NbdPeer.greeted(addressOf(transport));
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
    const raw = await NbdPeer.greeted(addressOf(transport));
    raw.send(bytes);
    expect(await raw.receiveUntilClosed()).toHaveLength(0);
    await expectAlive(addressOf(transport));
  });

  const name = Buffer.from(LUN);
  test.each<[string, number, Buffer, number]>([
    ['PEEK_EXPORT', OPT.peekExport, Buffer.from(LUN), REP.unsupported],
    ['option 12', 12, Buffer.alloc(0), REP.unsupported],
    ['option 2^32-1 with 1 MiB', 0xffffffff, Buffer.alloc(MIB), REP.unsupported],
    ['EXTENDED_HEADERS', OPT.extendedHeaders, Buffer.alloc(0), REP.unsupported],
    [
      'SET_META_CONTEXT with 2^32-1 queries',
      OPT.setMetaContext,
      Buffer.concat([u32(8), name, u32(0xffffffff)]),
      REP.unsupported,
    ],
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
    const peer = await NbdPeer.greeted(addressOf(transport));
    peer.send(clientFlags(), option(OPT.structuredReply), option(OPT.structuredReply));
    expect((await nextReply(peer)).type).toBe(REP.ack);
    expect((await nextReply(peer)).type).toBe(REP.invalid);
    peer.close();
  });

  test('a client without fixed newstyle is refused in step and served by EXPORT_NAME', async () => {
    const raw = await NbdPeer.greeted(addressOf(transport));
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
    await expectAlive(server.tcp);
    expect(await dropped).toHaveLength(0);
    expect(performance.now() - startedAt).toBeGreaterThan(9_000);
  }));

describe.each([
  ['tcp', false],
  ['tcp', true],
  ['unix', false],
  ['unix', true],
] as const)('transmission over %s, structured replies %s', (transport, structured) => {
  const attach = (behind?: Buffer) =>
    NbdPeer.attach(addressOf(transport), LUN, { structured, ...(behind ? { behind } : {}) });

  /** Runs with an attached peer; afterwards it must still be served, whatever was refused. */
  async function attached(body: (peer: NbdPeer) => Promise<void>): Promise<void> {
    const peer = await attach();
    try {
      await body(peer);
      const read = await peer.ask({ type: CMD.read, cookie: 0xfeedn, length: 4096 });
      expect(read).toMatchObject({ cookie: 0xfeedn, errno: ERRNO.ok, isStructured: structured });
    } finally {
      peer.close();
    }
  }

  const size = 2 ** 30;
  const top = 2n ** 64n - 1n;

  type Row = [string, Parameters<typeof request>[0], number];
  const data = Buffer.alloc(512, 0xbb);
  const invalid: Row[] = [
    ['READ above the payload limit', { type: CMD.read, length: MAX_PAYLOAD + 1 }, ERRNO.invalid],
    ['READ of 2^32-1', { type: CMD.read, length: 0xffffffff }, ERRNO.invalid],
    ['READ across the end', { type: CMD.read, offset: size - 1, length: 2 }, ERRNO.invalid],
    ['READ that wraps 2^64', { type: CMD.read, offset: top, length: 4096 }, ERRNO.invalid],
    ['WRITE across the end', { type: CMD.write, offset: size - 511, data }, ERRNO.noSpace],
    ['WRITE that wraps 2^64', { type: CMD.write, offset: top - 255n, data }, ERRNO.noSpace],
    ['TRIM across the end', { type: CMD.trim, offset: size, length: 1 }, ERRNO.invalid],
    ['TRIM that wraps 2^64', { type: CMD.trim, offset: top, length: 2 }, ERRNO.invalid],
    [
      'WRITE_ZEROES that wraps 2^64',
      { type: CMD.writeZeroes, offset: top, length: 2 },
      ERRNO.noSpace,
    ],
    ['an unknown flag', { type: CMD.read, flags: 1 << 15, length: 512 }, ERRNO.invalid],
    ['DF not offered', { type: CMD.read, flags: CMD_FLAG.dontFragment, length: 1 }, ERRNO.invalid],
    ['DF on WRITE', { type: CMD.write, flags: CMD_FLAG.dontFragment, data }, ERRNO.invalid],
    ['REQ_ONE on READ', { type: CMD.read, flags: CMD_FLAG.requireOne, length: 1 }, ERRNO.invalid],
    ['PAYLOAD_LEN', { type: CMD.write, flags: CMD_FLAG.payloadLength, data }, ERRNO.invalid],
    ['NO_HOLE on TRIM', { type: CMD.trim, flags: CMD_FLAG.noHole, length: 1 }, ERRNO.invalid],
    [
      'FAST_ZERO not offered',
      { type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, length: 512 },
      ERRNO.invalid,
    ],
    ['BLOCK_STATUS without contexts', { type: CMD.blockStatus, length: 512 }, ERRNO.invalid],
    ['CACHE not offered', { type: CMD.cache, length: 512 }, ERRNO.invalid],
    ['RESIZE', { type: CMD.resize, length: 512 }, ERRNO.invalid],
    ['command 255', { type: 255, length: 4096 }, ERRNO.invalid],
  ];
  test.each(invalid)('%s is refused and the next request served', (_name, fields, errno) =>
    attached(async (peer) => {
      expect(await peer.ask({ ...fields, cookie: 77n })).toMatchObject({ cookie: 77n, errno });
    }),
  );

  test.each<[string, Parameters<typeof request>[0]]>([
    ['zero-length READ', { type: CMD.read, offset: 512 }],
    ['zero-length READ at the end', { type: CMD.read, offset: size }],
    ['zero-length WRITE', { type: CMD.write }],
    ['zero-length TRIM', { type: CMD.trim }],
    ['zero-length WRITE_ZEROES', { type: CMD.writeZeroes }],
    ['unaligned READ', { type: CMD.read, offset: 4095, length: 3 }],
    ['FUA on READ', { type: CMD.read, flags: CMD_FLAG.fua, length: 1 }],
    ['FUA on FLUSH', { type: CMD.flush, flags: CMD_FLAG.fua }],
    ['FLUSH with offset and length', { type: CMD.flush, offset: top, length: 0xffffffff }],
    ['the last byte', { type: CMD.read, offset: size - 1, length: 1 }],
  ])('%s is served', (_name, fields) =>
    attached(async (peer) => {
      const cookie = 0x8000_0000_dead_beefn;
      expect(await peer.ask({ ...fields, cookie })).toMatchObject({ cookie, errno: ERRNO.ok });
    }),
  );

  test('a WRITE above the payload limit is drained and refused', () =>
    attached(async (peer) => {
      const long = Buffer.alloc(MAX_PAYLOAD + 4096, 0xcc);
      const answer = await peer.ask({ type: CMD.write, data: long });
      expect(answer.errno).toBe(ERRNO.invalid);
      expect((await peer.ask({ type: CMD.read, length: 512 })).data.includes(0xcc)).toBe(false);
    }));

  test('refused writes change nothing, unaligned ones only their own bytes', () =>
    attached(async (peer) => {
      const at = 100 * MIB;
      const before = Buffer.alloc(8192, 0x11);
      await peer.ask({ type: CMD.write, offset: at, data: before });
      const spoilt = { type: CMD.write, flags: CMD_FLAG.dontFragment, offset: at, data: before };
      expect((await peer.ask({ ...spoilt, data: data })).errno).toBe(ERRNO.invalid);
      const one = { type: CMD.write, offset: at + 4095, data: Buffer.from([0x22, 0x22]) };
      expect((await peer.ask(one)).errno).toBe(ERRNO.ok);
      const after = await peer.ask({ type: CMD.read, offset: at, length: 8192 });
      before.fill(0x22, 4095, 4097);
      expect(after.data.equals(before)).toBe(true);
    }));

  test('equal cookies in flight are both answered', () =>
    attached(async (peer) => {
      const fields = { type: CMD.read, cookie: 5n, length: 512 };
      peer.send(fields, fields, fields);
      for (let i = 0; i < 3; i += 1) {
        expect(await peer.answer(512)).toMatchObject({ cookie: 5n, errno: ERRNO.ok });
      }
    }));

  test('requests in the segment of GO, and byte by byte', async () => {
    const bytes = request({ type: CMD.write, cookie: 1n, offset: 200 * MIB, data });
    const peer = await attach(bytes);
    expect(await peer.answer()).toMatchObject({ cookie: 1n, errno: ERRNO.ok });
    for (const byte of request({ type: CMD.write, cookie: 2n, offset: 200 * MIB, data })) {
      peer.raw.send(Buffer.from([byte]));
    }
    expect(await peer.answer()).toMatchObject({ cookie: 2n, errno: ERRNO.ok });
    peer.close();
  });

  test.each<[string, Buffer]>([
    ['a wrong request magic', request({ magic: 0x25609514, type: CMD.read, length: 512 })],
    ['a WRITE too long to drain', request({ type: CMD.write, length: 0xffffffff })],
    ['an option after GO', option(OPT.list, Buffer.alloc(32))],
  ])('%s closes the connection and nothing else', async (_name, bytes) => {
    const peer = await attach();
    peer.raw.send(bytes);
    expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    await expectAlive(addressOf(transport));
  });

  test('DISC with fields set, and requests behind it, ends in good order', async () => {
    const peer = await attach();
    peer.send(
      { type: CMD.read, cookie: 1n, length: 512 },
      { type: CMD.disconnect, flags: 0xff, offset: 7, length: 9 },
      { type: CMD.write, cookie: 2n, offset: 300 * MIB, data: Buffer.alloc(512, 0xdd) },
    );
    expect(await peer.answer(512)).toMatchObject({ cookie: 1n, errno: ERRNO.ok });
    expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    const after = await attach();
    const read = await after.ask({ type: CMD.read, offset: 300 * MIB, length: 512 });
    expect(read.data.includes(0xdd)).toBe(false);
    after.close();
  });

  test('a client that dies in the middle of a request', async () => {
    for (const cut of [1, 27, 28, 28 + 100]) {
      const peer = await attach();
      peer.raw.send(request({ type: CMD.write, offset: 400 * MIB, data }).subarray(0, cut));
      peer.raw.socket.end();
      expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    }
    await expectAlive(addressOf(transport));
  });

  test('a client that does not read its replies holds up nobody else', async () => {
    const peer = await attach();
    peer.raw.socket.pause();
    const count = 64;
    for (let i = 0; i < count; i += 1) {
      peer.send({ type: CMD.read, cookie: BigInt(i), length: MIB });
    }
    for (let i = 0; i < 5; i += 1) await expectAlive(addressOf(transport));
    peer.raw.socket.resume();
    const cookies = new Set<bigint>();
    for (let i = 0; i < count; i += 1) {
      const answer: Answer = await peer.answer(MIB);
      expect(answer.errno).toBe(ERRNO.ok);
      cookies.add(answer.cookie);
    }
    expect(cookies.size).toBe(count);
    peer.close();
  });
});

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
  await expectAlive(server.tcp);
  expect(server.running).toBe(true);
});
