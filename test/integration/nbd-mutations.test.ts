/**
 * Whole conversations of real clients, spoilt at random, against the running server: it stays
 * alive, serves others their bytes, and nothing of a client is left behind: descriptors, threads,
 * memory. The faults are in negotiation and in transmission, with all three kinds of replies.
 *
 * FLASHLUN_TEST_SEED repeats a run.
 */
import { readdir, readFile } from 'node:fs/promises';
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
/** 40 KiB for each conversation would be a leak; what a garbage collector leaves is less. */
const MAX_GROWTH_BYTES = 24 * MIB;

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

/** What a client says: options, then requests. */
interface Conversation {
  readonly options: readonly Buffer[];
  readonly requests: readonly Buffer[];
}

/** Conversations that the server serves as they are. */
function conversations(): Conversation[] {
  const contexts = contextRequest(scratch, ['base:allocation', 'qemu:allocation-depth']);
  const status = Buffer.concat([u64(MIB), u32(1), u32(2)]);
  const list = [option(OPT.list), option(OPT.listMetaContext, contexts), option(OPT.abort)];
  const setContexts = option(OPT.setMetaContext, contexts);
  return [
    { options: [go(scratch)], requests: requests(request) },
    { options: [option(OPT.exportName, Buffer.from(scratch))], requests: requests(request) },
    { options: list, requests: [] },
    {
      options: [option(OPT.structuredReply), setContexts, info(scratch, [0, 1, 2, 3]), go(scratch)],
      requests: requests(request),
    },
    {
      options: [option(OPT.extendedHeaders), setContexts, go(scratch, [3])],
      requests: [
        extendedRequest({ type: CMD.blockStatus, data: status }),
        ...requests(extendedRequest),
      ],
    },
  ];
}

/** Half of them are spoilt behind the last option, so that the native decoder sees the faults. */
function spoilt({ options, requests: sent }: Conversation, random: Random): Buffer {
  const begin = [clientFlags(), ...options];
  if (sent.length === 0 || random.between(0, 2) === 0) return spoil([...begin, ...sent], random);
  return Buffer.concat([...begin, spoil(sent, random)]);
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

interface Held {
  readonly files: number;
  readonly threads: number;
  /** Of payloads in flight, as the server counts it. */
  readonly payloadBytes: number;
  /** Private memory; what the process has of its files' is not in it. */
  readonly memoryBytes: number;
}

async function held(): Promise<Held> {
  const [files, threads, status] = await Promise.all([
    readdir(`/proc/${server.pid}/fd`),
    readdir(`/proc/${server.pid}/task`),
    readFile(`/proc/${server.pid}/status`, 'utf8'),
  ]);
  const payloadBytes = await metric('flashlun_nbd_memory_used_bytes');
  const memoryBytes = 1024 * Number(/^RssAnon:\s+(\d+) kB$/m.exec(status)?.[1]);
  return { files: files.length, threads: threads.length, payloadBytes, memoryBytes };
}

async function metric(name: string): Promise<number> {
  const text = await (await fetch(`${server.addresses.http}/metrics`)).text();
  const line = text.split('\n').find((each) => each.startsWith(`${name} `));
  return Number(line?.slice(name.length));
}

async function expectServed(): Promise<void> {
  const peer = await NbdPeer.attach(server.tcp, kept, { structured: true });
  const read = await peer.ask({ type: CMD.read, length: MIB });
  expect(read.data.equals(keptBytes)).toBe(true);
  peer.close();
}

/** Sends a conversation, says that nothing more comes, and waits for the server's end. */
async function converse(address: NetConnectOpts, bytes: Buffer): Promise<Buffer> {
  const raw = await RawSocket.open(address);
  try {
    raw.send(bytes);
    raw.socket.end();
    return await raw.receiveUntilClosed(20_000);
  } finally {
    raw.close();
  }
}

async function run(random: Random): Promise<void> {
  const templates = conversations();
  for (let done = 0; done < STREAMS; done += AT_ONCE) {
    const batch = Array.from({ length: AT_ONCE }, (_, index) => {
      const conversation = templates[(done + index) % templates.length]!;
      const address = server.address(index % 2 === 0 ? 'tcp' : 'unix');
      return converse(address, spoilt(conversation, random));
    });
    await Promise.all([...batch, expectServed()]);
  }
}

/** What is held once every client has gone. */
async function heldAtRest(before?: Held): Promise<Held> {
  const idle = async (): Promise<boolean> => {
    const volumes = await Promise.all([kept, scratch].map((name) => server.api.volume(name)));
    return volumes.every(({ attached }) => attached === 0);
  };
  await until('the idle state', idle, { deadlineMs: 20_000 });
  if (before === undefined) return held();
  let now = await held();
  await until(
    'what was held before',
    async () => {
      now = await held();
      const { files, threads, payloadBytes, memoryBytes } = now;
      if (files > before.files || threads > before.threads || payloadBytes > 0) return false;
      return memoryBytes < before.memoryBytes + MAX_GROWTH_BYTES;
    },
    { deadlineMs: 20_000, diagnosis: () => `${JSON.stringify(before)} ${JSON.stringify(now)}` },
  );
  return now;
}

test('what is spoilt later is served whole as it is', async () => {
  for (const { options, requests: sent } of conversations()) {
    const replies = await converse(server.tcp, Buffer.concat([clientFlags(), ...options, ...sent]));
    // The 9,000 bytes that are read in one piece and more, or two lists.
    expect(replies.length).toBeGreaterThan(sent.length > 0 ? 9_000 : 300);
  }
});

test('spoilt conversations cost nobody else anything, and leave nothing behind', async () => {
  const seed = testSeed();
  console.log(`nbd-mutations: FLASHLUN_TEST_SEED=${seed}`);
  const random = new Random(seed);
  await expectServed();
  const before = await heldAtRest();
  await run(random);
  const warm = await heldAtRest({ ...before, memoryBytes: Infinity });
  // What the first ones made the process bigger by is warming up: the same again must not.
  await run(random);
  const after = await heldAtRest({ ...before, memoryBytes: warm.memoryBytes });
  const growth = (after.memoryBytes - warm.memoryBytes) / MIB;
  console.log(`nbd-mutations: ${growth.toFixed(1)} MiB more after ${STREAMS} more conversations`);
  await expectServed();
  expect(server.running).toBe(true);
  // They did get as far as their requests.
  const { id } = await server.api.volume(scratch);
  for (const count of ['read_ops_total', 'write_ops_total', 'trim_ops_total']) {
    expect(await metric(`flashlun_volume_${count}{volume="${id}"}`)).toBeGreaterThan(STREAMS / 4);
  }
}, 150_000);
