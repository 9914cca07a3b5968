/**
 * Whole conversations of real clients, spoilt at random, against the running server: it stays
 * alive, serves others their bytes, and nothing of a client is left behind (descriptors, threads).
 *
 * FLASHLUN_TEST_SEED repeats a run.
 */
import { readdir } from 'node:fs/promises';
import type { NetConnectOpts } from 'node:net';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Scope } from '../helpers/cleanup.js';
import { NbdPeer } from '../helpers/nbd-peer.js';
import {
  CMD,
  CMD_FLAG,
  clientFlags,
  contextRequest,
  ERRNO,
  extendedRequest,
  go,
  info,
  OPT,
  option,
  request,
  u32,
  u64,
} from '../helpers/nbd-wire.js';
import { Random, testSeed } from '../helpers/random.js';
import { RawSocket } from '../helpers/raw-socket.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const STREAMS = 600;
const AT_ONCE = 12;
const MIB = 2 ** 20;

const all = new Scope();
let server: Server;
/** What the spoilt clients may write to, and what nobody writes to. */
let scratch: string;
let kept: string;
const keptBytes = new Random(1).bytes(MIB);

beforeAll(async () => {
  server = await startServer(all);
  scratch = (await server.api.createVolume('12', 16 * MIB)).serial;
  kept = (await server.api.createVolume('12', 16 * MIB)).serial;
  const peer = await NbdPeer.attach(server.tcp, kept);
  expect((await peer.ask({ type: CMD.write, data: keptBytes })).errno).toBe(ERRNO.ok);
  peer.close();
});
afterAll(() => all.close());

type Fields = Parameters<typeof request>[0];

/** A little of everything; the same for both kinds of headers. */
function requests(encode: (fields: Fields) => Buffer): Buffer[] {
  const data = Buffer.alloc(5000, 0x11);
  return [
    encode({ type: CMD.write, flags: CMD_FLAG.fua, offset: 4000, data }),
    encode({ type: CMD.read, offset: 0, length: 300_000 }),
    encode({ type: CMD.read, flags: CMD_FLAG.dontFragment, offset: 1, length: 9000 }),
    encode({ type: CMD.blockStatus, length: 16 * MIB }),
    encode({ type: CMD.writeZeroes, flags: CMD_FLAG.fastZero, length: 65_536 }),
    encode({ type: CMD.cache, length: MIB }),
    encode({ type: CMD.trim, offset: 65_536, length: MIB }),
    encode({ type: CMD.flush }),
    encode({ type: CMD.disconnect }),
  ];
}

/** Conversations that the server would serve as they are. */
function conversations(): Buffer[][] {
  const contexts = contextRequest(scratch, ['base:allocation', 'qemu:allocation-depth']);
  const status = Buffer.concat([u64(MIB), u32(1), u32(2)]);
  return [
    [clientFlags(), go(scratch), ...requests(request)],
    [clientFlags(), option(OPT.exportName, Buffer.from(scratch)), ...requests(request)],
    [clientFlags(), option(OPT.list), option(OPT.listMetaContext, contexts), option(OPT.abort)],
    [
      ...[clientFlags(), option(OPT.structuredReply), option(OPT.setMetaContext, contexts)],
      ...[info(scratch, [0, 1, 2, 3]), go(scratch, [3]), ...requests(request)],
    ],
    [
      ...[clientFlags(), option(OPT.extendedHeaders), option(OPT.setMetaContext, contexts)],
      ...[go(scratch, [3]), extendedRequest({ type: CMD.blockStatus, data: status })],
      ...requests(extendedRequest),
    ],
  ];
}

/** One to four faults: bytes changed, parts left out, repeated, exchanged, or cut off. */
function spoil(parts: readonly Buffer[], random: Random): Buffer {
  const spoilt: Buffer[] = parts.map((part) => Buffer.from(part));
  const pick = (): number => random.between(0, spoilt.length);
  for (let faults = random.between(1, 5); faults > 0; faults -= 1) {
    const at = pick();
    const part = spoilt[at] ?? Buffer.alloc(0);
    const kind = random.between(0, 6);
    if (kind === 0) spoilt.splice(at, 1, Buffer.alloc(0));
    else if (kind === 1) spoilt.splice(at, 0, part);
    else if (kind === 2) spoilt.splice(at, 1, part.subarray(0, random.between(0, part.length + 1)));
    else if (kind === 3) spoilt.splice(at, 0, random.bytes(random.between(1, 60)));
    else if (part.length > 0) {
      // Mostly in headers, where it changes what the rest means.
      const where = random.between(0, Math.min(part.length, 40));
      part[where] = kind === 4 ? random.between(0, 256) : (part[where] ?? 0) ^ 0x80;
    }
  }
  return Buffer.concat(spoilt);
}

async function held(): Promise<{ files: number; threads: number }> {
  const [files, threads] = await Promise.all([
    readdir(`/proc/${server.pid}/fd`),
    readdir(`/proc/${server.pid}/task`),
  ]);
  return { files: files.length, threads: threads.length };
}

async function expectServed(): Promise<void> {
  const peer = await NbdPeer.attach(server.tcp, kept, { structured: true });
  const read = await peer.ask({ type: CMD.read, length: MIB });
  expect(read.data.equals(keptBytes)).toBe(true);
  peer.close();
}

/** Sends a spoilt conversation, says that nothing more comes, and waits for the server's end. */
async function converse(address: NetConnectOpts, bytes: Buffer): Promise<void> {
  const raw = await RawSocket.open(address);
  try {
    raw.send(bytes);
    raw.socket.end();
    await raw.receiveUntilClosed(20_000);
  } finally {
    raw.close();
  }
}

test('spoilt conversations cost nobody else anything, and leave nothing behind', async () => {
  const seed = testSeed();
  console.log(`nbd-mutations: FLASHLUN_TEST_SEED=${seed}`);
  const random = new Random(seed);
  await expectServed();
  const idle = async () => (await server.api.volume(kept)).attached === 0;
  await until('the idle state', idle, { deadlineMs: 10_000 });
  const before = await held();
  const templates = conversations();
  for (let done = 0; done < STREAMS; done += AT_ONCE) {
    const batch = Array.from({ length: AT_ONCE }, (_, index) => {
      const parts = templates[random.between(0, templates.length)] ?? [];
      const address = index % 2 === 0 ? server.tcp : { path: server.unixPath };
      return converse(address, spoil(parts, random));
    });
    await Promise.all([...batch, expectServed()]);
  }
  await expectServed();
  expect(server.running).toBe(true);
  let now = await held();
  await until(
    'descriptors and threads as before',
    async () => {
      now = await held();
      return now.files <= before.files && now.threads <= before.threads;
    },
    { deadlineMs: 20_000, diagnosis: () => `${JSON.stringify(before)} ${JSON.stringify(now)}` },
  );
}, 120_000);
