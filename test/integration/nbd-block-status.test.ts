/**
 * Block status, holes, 64-bit lengths and change recording against the running server, by a client
 * that shares nothing with it. libnbd before 1.18 and QEMU before 8.2 have no extended headers, so
 * this is also what proves them.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Scope, scoped } from '../helpers/cleanup.js';
import { type AttachOptions, type Extent, NbdPeer, nextReply } from '../helpers/nbd-peer.js';
import {
  CMD,
  CMD_FLAG,
  contextRequest,
  ERRNO,
  extendedRequest,
  OPT,
  option,
  REP,
  u32,
  u64,
} from '../helpers/nbd-wire.js';
import { Random } from '../helpers/random.js';
import { type Server, startServer } from '../helpers/server.js';

const MIB = 2 ** 20;
const TIB = 2 ** 40;
const TRACK = 65_536;
const ALLOCATION = 'base:allocation';
const DEPTH = 'qemu:allocation-depth';
const HOLE_ZERO = 3;

const all = new Scope();
let server: Server;

beforeAll(async () => {
  server = await startServer(all);
});
afterAll(() => all.close());

async function attach(scope: Scope, name: string, options: AttachOptions): Promise<NbdPeer> {
  const peer = await NbdPeer.attach({ path: server.unixPath }, name, options);
  scope.defer('close the client', () => peer.close());
  return peer;
}

/** Writes random bytes, a mebibyte at a time. */
async function fill(peer: NbdPeer, offset: number, bytes: number): Promise<void> {
  const random = new Random(offset + bytes);
  for (let at = 0; at < bytes; at += MIB) {
    const data = random.bytes(Math.min(MIB, bytes - at));
    expect((await peer.ask({ type: CMD.write, offset: offset + at, data })).errno).toBe(ERRNO.ok);
  }
}

/** The extents of one context over the whole export, asked for until the end is reached. */
async function mapOf(peer: NbdPeer, id = 1): Promise<Extent[]> {
  const map: [number, number][] = [];
  for (let offset = 0; offset < peer.sizeBytes; ) {
    const length = peer.sizeBytes - offset;
    const answer = await peer.ask({ type: CMD.blockStatus, offset, length });
    expect(answer.errno).toBe(ERRNO.ok);
    const extents = answer.extents.get(id) ?? [];
    expect(extents.length).toBeGreaterThan(0);
    for (const [bytes, flags] of extents) {
      const last = map.at(-1);
      if (last?.[1] === flags) last[0] += bytes;
      else map.push([bytes, flags]);
      offset += bytes;
    }
    expect(offset).toBeLessThanOrEqual(peer.sizeBytes);
  }
  return map;
}

describe.each([['structured'], ['extended']] as const)('%s replies', (style) => {
  const options = (contexts: string[], more: AttachOptions = {}): AttachOptions => ({
    structured: style === 'structured',
    extended: style === 'extended',
    contexts,
    ...more,
  });

  test('allocation and depth say what was written, in any order of requests', () =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 64 * MIB);
      const peer = await attach(scope, serial, options([ALLOCATION, DEPTH]));
      await fill(peer, 3 * MIB, 2 * MIB);
      await fill(peer, 40 * MIB + 4096, 4096);
      expect(await mapOf(peer, 1)).toEqual([
        [3 * MIB, HOLE_ZERO],
        [2 * MIB, 0],
        [35 * MIB, HOLE_ZERO],
        [4096, 2], // The track has its space.
        [4096, 0],
        [TRACK - 8192, 2],
        [24 * MIB - TRACK, HOLE_ZERO],
      ]);
      expect(await mapOf(peer, 2)).toEqual([
        [3 * MIB, 0],
        [2 * MIB, 1],
        [35 * MIB + 4096, 0],
        [4096, 1],
        [24 * MIB - 8192, 0],
      ]);
      const one = {
        type: CMD.blockStatus,
        flags: CMD_FLAG.requireOne,
        offset: 512,
        length: 4 * MIB,
      };
      expect((await peer.ask(one)).extents.get(1)).toEqual([[3 * MIB - 512, HOLE_ZERO]]);
    }));

  test('a sparse READ leaves out holes, and DF gets the same bytes in one piece', () =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 64 * MIB);
      const peer = await attach(scope, serial, options([]));
      await fill(peer, 8 * MIB, TRACK);
      const read = { type: CMD.read, offset: 7 * MIB, length: 16 * MIB };
      const sparse = await peer.ask(read);
      expect(sparse.holeBytes).toBe(16 * MIB - TRACK);
      const whole = await peer.ask({ ...read, flags: CMD_FLAG.dontFragment });
      expect(whole.holeBytes).toBe(0);
      expect(whole.data.equals(sparse.data)).toBe(true);
    }));

  test.each<[string, Parameters<NbdPeer['ask']>[0]]>([
    ['of no bytes', { type: CMD.blockStatus, offset: 4096, length: 0 }],
    ['across the end', { type: CMD.blockStatus, offset: 64 * MIB - 1, length: 2 }],
    ['that wraps 2^64', { type: CMD.blockStatus, offset: 2n ** 64n - 1n, length: 4096 }],
    ['with NO_HOLE', { type: CMD.blockStatus, flags: CMD_FLAG.noHole, length: 4096 }],
  ])('BLOCK_STATUS %s is refused and the next request served', (_name, fields) =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 64 * MIB);
      const peer = await attach(scope, serial, options([ALLOCATION]));
      expect((await peer.ask(fields)).errno).toBe(ERRNO.invalid);
      expect((await peer.ask({ type: CMD.read, length: 512 })).errno).toBe(ERRNO.ok);
    }),
  );

  test('changes since T0: what was written, and no more while nothing else happens', () =>
    scoped(async (scope) => {
      const source = await server.api.createVolume('12', 64 * MIB);
      const target = await server.api.createVolume('13', 64 * MIB);
      const pair = `${source.id}:${target.id}`;
      const bitmap = `qemu:dirty-bitmap:fc-${source.id}-${target.id}`;
      const writer = await attach(scope, source.serial, {});
      await fill(writer, 0, 8 * MIB);
      await server.api.establish([pair], true);
      const peer = await attach(scope, source.serial, options([bitmap]));
      expect(await mapOf(peer)).toEqual([[64 * MIB, 0]]);
      await fill(writer, 2 * MIB + 4096, 4096);
      await fill(writer, 20 * MIB, MIB);
      const changed: Extent[] = [
        [2 * MIB + 4096, 0],
        [4096, 1],
        [18 * MIB - 8192, 0],
        [MIB, 1],
        [43 * MIB, 0],
      ];
      expect(await mapOf(peer)).toEqual(changed);
      const atTarget = await attach(scope, target.serial, options([bitmap]));
      expect(await mapOf(atTarget)).toEqual(changed);
      // Afterwards there is no T0 to compare with, for a client that still has the context.
      await server.api.withdraw(pair);
      expect(await mapOf(peer)).toEqual([[64 * MIB, 1]]);
    }));

  test('a 4Kn volume: who asked for block sizes keeps to them, who did not is served', () =>
    scoped(async (scope) => {
      const created = await server.flashlun(
        ...['volume', 'create', '--lss', '12', '--size', '16M', '--block-size', '4096', '--json'],
      );
      const { serial, blockBytes } = JSON.parse(created.stdout) as Record<string, string>;
      expect(blockBytes).toBe(4096);
      const half = { type: CMD.write, offset: 512, data: Buffer.alloc(512, 7) };
      const strict = await attach(scope, serial!, options([], { infos: [3] }));
      expect((await strict.ask(half)).errno).toBe(ERRNO.invalid);
      expect((await strict.ask({ type: CMD.read, length: 4096 })).errno).toBe(ERRNO.ok);
      const lax = await attach(scope, serial!, options([]));
      expect((await lax.ask(half)).errno).toBe(ERRNO.ok);
      const read = await strict.ask({ type: CMD.read, length: 4096 });
      expect(read.data.subarray(512, 1024).equals(half.data)).toBe(true);
      expect(read.data.subarray(0, 512).every((byte) => byte === 0)).toBe(true);
    }));
});

describe('extended headers', () => {
  test('a volume of 16 TiB: its status, a trim and zeroes of it are one request each', () =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 16 * TIB);
      const peer = await attach(scope, serial, { extended: true, contexts: [ALLOCATION] });
      const whole = { offset: 0, length: 16 * TIB };
      const status = await peer.ask({ type: CMD.blockStatus, ...whole });
      expect(status.extents.get(1)).toEqual([[16 * TIB, HOLE_ZERO]]);
      await fill(peer, 9 * TIB, TRACK);
      expect(await mapOf(peer)).toEqual([
        [9 * TIB, HOLE_ZERO],
        [TRACK, 0],
        [7 * TIB - TRACK, HOLE_ZERO],
      ]);
      const zeroes = { type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, length: 5 * 2 ** 32 };
      expect((await peer.ask({ ...zeroes, offset: 9 * TIB })).errno).toBe(ERRNO.ok);
      expect(await mapOf(peer)).toEqual([[16 * TIB, HOLE_ZERO]]);
      expect((await peer.ask({ type: CMD.trim, length: 5 * 2 ** 32 })).errno).toBe(ERRNO.ok);
      const wraps = { type: CMD.trim, offset: 4096, length: 2n ** 64n - 1n };
      expect((await peer.ask(wraps)).errno).toBe(ERRNO.invalid);
    }));

  test('BLOCK_STATUS with a payload: one of two contexts, and what is wrong with others', () =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 64 * MIB);
      const contexts = [ALLOCATION, DEPTH];
      const peer = await attach(scope, serial, { extended: true, contexts });
      expect(peer.flags & (1 << 12)).not.toBe(0);
      const ask = (length: number, ...ids: number[]) =>
        peer.ask({ type: CMD.blockStatus, data: Buffer.concat([u64(length), ...ids.map(u32)]) });
      const answer = await ask(64 * MIB, 2);
      expect([...answer.extents]).toEqual([[2, [[64 * MIB, 0]]]]);
      for (const ids of [[], [3], [1, 1], Array<number>(17).fill(1)]) {
        expect((await ask(4096, ...ids)).errno).toBe(ERRNO.invalid);
      }
      expect((await ask(64 * MIB + 1, 1)).errno).toBe(ERRNO.invalid);
      expect((await ask(0, 1)).errno).toBe(ERRNO.invalid);
    }));

  test('PAYLOAD_LEN on other commands: drained and refused; too long: closed', () =>
    scoped(async (scope) => {
      const { serial } = await server.api.createVolume('12', 64 * MIB);
      const peer = await attach(scope, serial, { extended: true });
      for (const type of [CMD.read, CMD.flush, CMD.trim, CMD.cache, CMD.blockStatus, 99]) {
        peer.send({ type, cookie: 8n, data: Buffer.alloc(70_000, 0x25) });
        expect(await peer.answer()).toMatchObject({ cookie: 8n, errno: ERRNO.invalid });
      }
      peer.raw.send(extendedRequest({ type: 99, flags: CMD_FLAG.payloadLength, length: 2 ** 40 }));
      expect(await peer.raw.receiveUntilClosed()).toHaveLength(0);
    }));
});

test('bitmaps are offered while there is a relationship, and for its volumes only', () =>
  scoped(async (scope) => {
    const [source, target, other] = [
      await server.api.createVolume('12', 16 * MIB),
      await server.api.createVolume('13', 16 * MIB),
      await server.api.createVolume('13', 16 * MIB),
    ];
    const offered = async (name: string): Promise<string[]> => {
      const raw = await NbdPeer.greeted({ path: server.unixPath });
      scope.defer('close', () => raw.close());
      raw.send(u32(3), option(OPT.listMetaContext, contextRequest(name, ['qemu:dirty-bitmap:'])));
      const names: string[] = [];
      for (;;) {
        const reply = await nextReply(raw);
        if (reply.type !== REP.metaContext) return names;
        names.push(reply.data.subarray(4).toString());
      }
    };
    expect(await offered(source.serial)).toEqual([]);
    await server.api.establish([`${source.id}:${target.id}`], true);
    const bitmap = `qemu:dirty-bitmap:fc-${source.id}-${target.id}`;
    expect(await offered(source.serial)).toEqual([bitmap]);
    expect(await offered(target.serial)).toEqual([bitmap]);
    expect(await offered(other.serial)).toEqual([]);
    await server.api.withdraw(`${source.id}:${target.id}`);
    expect(await offered(source.serial)).toEqual([]);
  }));
