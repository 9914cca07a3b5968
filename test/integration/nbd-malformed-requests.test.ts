/**
 * The transmission rows of the malformed-input matrix of reference/nbd.md 1.12 against the running
 * server, in every style of requests and replies: wrong input costs at most the connection it came
 * on, and never a byte of a volume. Block status is in nbd-block-status.test.ts.
 *
 * Rows of read-only exports are in access.test.ts and native/test/nbd_connection_test.cc.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope } from '../helpers/cleanup.js';
import { type Answer, expectAlive, NbdPeer } from '../helpers/nbd-peer.js';
import {
  CMD,
  CMD_FLAG,
  ERRNO,
  extendedRequest,
  OPT,
  option,
  request,
} from '../helpers/nbd-wire.js';
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

describe.each([
  ['tcp', 'simple'],
  ['tcp', 'structured'],
  ['tcp', 'extended'],
  ['unix', 'simple'],
  ['unix', 'structured'],
  ['unix', 'extended'],
] as const)('transmission over %s, %s replies', (transport, style) => {
  const structured = style !== 'simple';
  const extended = style === 'extended';
  const attach = (behind?: Buffer) =>
    NbdPeer.attach(server.address(transport), LUN, {
      structured: style === 'structured',
      extended,
      ...(behind ? { behind } : {}),
    });
  /** A request of this style without a connection. */
  const encode = (fields: Parameters<typeof request>[0]) =>
    extended ? extendedRequest(fields) : request(fields);

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

  const flush = request({ type: CMD.flush });
  const size = 2 ** 30;
  const top = 2n ** 64n - 1n;

  const tooLong = extended ? ERRNO.overflow : ERRNO.invalid;

  type Row = [string, Parameters<typeof request>[0], number];
  const data = Buffer.alloc(512, 0xbb);
  const invalid: Row[] = [
    ['READ above the payload limit', { type: CMD.read, length: MAX_PAYLOAD + 1 }, tooLong],
    ['READ of 2^32-1', { type: CMD.read, length: 0xffffffff }, tooLong],
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
    ['DF on WRITE', { type: CMD.write, flags: CMD_FLAG.dontFragment, data }, ERRNO.invalid],
    ['REQ_ONE on READ', { type: CMD.read, flags: CMD_FLAG.requireOne, length: 1 }, ERRNO.invalid],
    [
      'PAYLOAD_LEN where it does not belong',
      { type: CMD.read, flags: CMD_FLAG.payloadLength },
      ERRNO.invalid,
    ],
    ['NO_HOLE on TRIM', { type: CMD.trim, flags: CMD_FLAG.noHole, length: 1 }, ERRNO.invalid],
    [
      'FAST_ZERO that is not fast',
      { type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, length: 512 },
      ERRNO.notSupported,
    ],
    [
      'FAST_ZERO with NO_HOLE',
      { type: CMD.writeZeroes, flags: CMD_FLAG.fastZero | CMD_FLAG.noHole, length: 4096 },
      ERRNO.notSupported,
    ],
    ['CACHE across the end', { type: CMD.cache, offset: size, length: 1 }, ERRNO.invalid],
    ['FAST_ZERO on TRIM', { type: CMD.trim, flags: CMD_FLAG.fastZero, length: 1 }, ERRNO.invalid],
    ['BLOCK_STATUS without contexts', { type: CMD.blockStatus, length: 512 }, ERRNO.invalid],
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
    ['CACHE', { type: CMD.cache, length: size }],
    ['CACHE of nothing', { type: CMD.cache }],
    ['FAST_ZERO', { type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, length: 65_536 }],
  ])('%s is served', (_name, fields) =>
    attached(async (peer) => {
      const cookie = 0x8000_0000_dead_beefn;
      expect(await peer.ask({ ...fields, cookie })).toMatchObject({ cookie, errno: ERRNO.ok });
    }),
  );

  test('DF is for those who have chunks', () =>
    attached(async (peer) => {
      const fields = { type: CMD.read, flags: CMD_FLAG.dontFragment, length: MIB };
      if (structured) expect(await peer.ask(fields)).toMatchObject({ errno: 0, holeBytes: 0 });
      else expect((await peer.ask(fields)).errno).toBe(ERRNO.invalid);
    }));

  test('an error says what was wrong, where there is room for it', () =>
    attached(async (peer) => {
      const refused = await peer.ask({ type: CMD.trim, offset: size, length: 512 });
      const text = `TRIM of 512 bytes at ${size}: beyond the end of the volume`;
      expect(refused.text).toBe(structured ? text : '');
    }));

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
    const bytes = encode({ type: CMD.write, cookie: 1n, offset: 200 * MIB, data });
    const peer = await attach(bytes);
    expect(await peer.answer()).toMatchObject({ cookie: 1n, errno: ERRNO.ok });
    for (const byte of encode({ type: CMD.write, cookie: 2n, offset: 200 * MIB, data })) {
      peer.raw.send(Buffer.from([byte]));
    }
    expect(await peer.answer()).toMatchObject({ cookie: 2n, errno: ERRNO.ok });
    peer.close();
  });

  test.each<[string, Buffer]>([
    ['a wrong request magic', encode({ magic: 0x25609514, type: CMD.read, length: 512 })],
    ['a WRITE too long to drain', encode({ type: CMD.write, length: 0xffffffff })],
    [
      'headers of the other kind',
      // Two, because a header of the shorter kind alone is not a whole one of the other.
      Buffer.concat(Array(2).fill(extended ? flush : extendedRequest({ type: CMD.flush }))),
    ],
    ['an option after GO', option(OPT.list, Buffer.alloc(32))],
  ])('%s closes the connection and nothing else', async (_name, bytes) => {
    const peer = await attach();
    peer.raw.send(bytes);
    expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    await expectAlive(server.address(transport), LUN);
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
      peer.raw.send(encode({ type: CMD.write, offset: 400 * MIB, data }).subarray(0, cut));
      peer.raw.socket.end();
      expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    }
    await expectAlive(server.address(transport), LUN);
  });

  test('a client that does not read its replies holds up nobody else', async () => {
    const peer = await attach();
    peer.raw.socket.pause();
    const count = 64;
    for (let i = 0; i < count; i += 1) {
      peer.send({ type: CMD.read, cookie: BigInt(i), length: MIB });
    }
    for (let i = 0; i < 5; i += 1) await expectAlive(server.address(transport), LUN);
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
