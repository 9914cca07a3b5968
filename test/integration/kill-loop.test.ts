/**
 * SIGKILL of the server under load, and restart, round after round on one data directory: no
 * acknowledged write is lost, and every T0 image is exact.
 *
 * Each round writes to a source and its two targets (one copied in the background, one nocopy) from
 * several connections, in sizes from 4 to 128 KiB, with zeroes, trims, flushes and FUA; establishes
 * both copies and withdraws one while the writes go on; and kills the server after a random number
 * of acknowledgements: before, during or after an establish, mostly in the middle of the background
 * copy. The journal is so small that checkpoints go on all the time. FLASHLUN_KILL_ROUNDS asks for
 * more rounds (npm run test:soak).
 */
import { expect, test } from 'vitest';
import {
  BLOCK_BYTES,
  blockContent,
  History,
  identify,
  NEVER,
  VolumeModel,
} from '../helpers/block-model.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import {
  COMMAND,
  ConnectionLost,
  FLAG_FUA,
  FLAG_NO_HOLE,
  NbdClient,
} from '../helpers/nbd-client.js';
import { Random, testSeed } from '../helpers/random.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const ROUNDS = Number(process.env['FLASHLUN_KILL_ROUNDS'] ?? 10);
/** 24 MiB: 384 tracks, which the background copy at the rate below needs about 3 seconds for. */
const BLOCKS = 6144;
const SERVER = {
  args: ['--copy-rate', '8'],
  /** 256 KiB: a checkpoint every few dozen commits. */
  env: { FLASHLUN_TEST_JOURNAL_BLOCKS: '64' },
} as const;
/**
 * Requests in flight on each connection; each has blocks of its own, so that the order of writes is
 * known.
 */
const QUEUE_DEPTH = 8;
const SIZES = [1, 1, 1, 2, 3, 4, 8, 16, 17, 32];
const READ_BLOCKS = 64;
const ROUND_DEADLINE_MS = 30_000;
/** Of a round with its restart and its verification, several times what it takes. */
const ROUND_LIMIT_MS = 40_000;

const COPIED = '1203:1303';
const NOCOPY = '1203:1304';
const PAIRS = [
  { id: COPIED, target: 'copied', noCopy: false },
  { id: NOCOPY, target: 'nocopy', noCopy: true },
] as const;

interface Models {
  readonly source: VolumeModel;
  readonly copied: VolumeModel;
  readonly nocopy: VolumeModel;
}

interface Load {
  acknowledged: number;
}

/**
 * One request in flight after the other, within blocks [from, to), until the connection is lost.
 */
async function lane(
  client: NbdClient,
  model: VolumeModel,
  range: { from: number; to: number; random: Random; load: Load },
): Promise<void> {
  const { random, load } = range;
  for (;;) {
    const block = random.between(range.from, range.to);
    const count = Math.min(SIZES[random.between(0, SIZES.length)]!, range.to - block);
    const kind = random.between(0, 40);
    const blocks = Array.from({ length: count }, (_, i) => block + i);
    const writes = blocks.map((at) => ({ at, seq: model.issue(at, kind < 3) }));
    const offset = block * BLOCK_BYTES;
    if (kind < 3) {
      const command = kind === 0 ? COMMAND.trim : COMMAND.writeZeroes;
      const flags = kind === 1 ? FLAG_NO_HOLE : 0;
      await client.request({ command, offset, length: count * BLOCK_BYTES, flags });
    } else {
      const data = Buffer.concat(writes.map(({ at, seq }) => blockContent(at, seq)));
      await client.write(offset, data, random.between(0, 50) === 0 ? FLAG_FUA : 0);
    }
    for (const { at, seq } of writes) model.ack(at, seq);
    load.acknowledged += count;
    if (random.between(0, 100) === 0) await client.flush();
  }
}

/** Starts the load on one volume; the promise ends when its connections are lost. */
async function writeTo(
  server: Server,
  model: VolumeModel,
  how: { connections: number; random: Random; load: Load },
): Promise<Promise<void>[]> {
  const lanes: Promise<void>[] = [];
  const laneBlocks = Math.floor(model.blocks / (how.connections * QUEUE_DEPTH));
  for (let i = 0; i < how.connections; i++) {
    const client = await NbdClient.open({ path: server.unixPath }, model.name);
    for (let depth = 0; depth < QUEUE_DEPTH; depth++) {
      const from = (i * QUEUE_DEPTH + depth) * laneBlocks;
      const random = new Random(how.random.next());
      lanes.push(
        lane(client, model, { from, to: from + laneBlocks, random, load: how.load }).catch(
          (error: unknown) => {
            if (!(error instanceof ConnectionLost)) throw error;
          },
        ),
      );
    }
  }
  return lanes;
}

/** The kill may come while the connections are being made. */
async function writeUnlessKilled(...args: Parameters<typeof writeTo>): Promise<Promise<void>[]> {
  try {
    return await writeTo(...args);
  } catch (error) {
    if (args[0].running) throw error;
    return [];
  }
}

async function readAll(server: Server, model: VolumeModel): Promise<number[]> {
  const client = await NbdClient.open(server.tcp, model.name);
  const found: number[] = [];
  for (let block = 0; block < model.blocks; block += READ_BLOCKS) {
    const data = await client.read(block * BLOCK_BYTES, READ_BLOCKS * BLOCK_BYTES);
    for (let i = 0; i < READ_BLOCKS; i++) {
      const content = data.subarray(i * BLOCK_BYTES, (i + 1) * BLOCK_BYTES);
      found.push(identify(content, block + i, model.name));
    }
  }
  client.close();
  return found;
}

/** Everything acknowledged is there, and the targets show one point in time of the source. */
async function verify(server: Server, models: Models): Promise<void> {
  for (const model of [models.source, models.copied, models.nocopy]) {
    if (model.candidates === undefined) continue;
    model.settle(await readAll(server, model));
    if (model === models.source) continue;
    const t0 = model.candidates.map(([seq], at) => (model.ownBlocks.has(at) ? undefined : seq));
    models.source.checkPointInTime(t0);
  }
}

/** Sends one establish while the writes go on. When the answer is lost, either outcome is legal. */
async function establish(
  server: Server,
  models: { source: VolumeModel; target: VolumeModel },
  pair: { id: string; noCopy: boolean },
): Promise<boolean> {
  models.source.startRecording();
  try {
    await server.api.establish([pair.id], pair.noCopy);
  } catch (error) {
    if (server.running) throw error;
    models.target.mayBeCopyOf(models.source);
    return false;
  }
  models.target.becomeCopyOf(models.source);
  return true;
}

/**
 * Ends what the last round left: the background copy runs to its end, the nocopy relationship is
 * withdrawn.
 */
async function endRelationships(server: Server, models: Models): Promise<string> {
  const before = await server.api.flashcopies();
  const resumed = before.find((copy) => copy.id === COPIED);
  await server.api.copied(COPIED);
  // The copy must not have changed what the target shows.
  await verify(server, models);
  if (before.some((copy) => copy.id === NOCOPY)) {
    await server.api.withdraw(NOCOPY);
    models.nocopy.candidates = undefined;
  }
  return resumed === undefined
    ? 'no copy to resume'
    : `resumed with ${resumed.outOfSyncTracks} tracks`;
}

/** Ends the nocopy relationship while everything goes on: its target keeps what it shows. */
async function withdrawUnderLoad(server: Server): Promise<void> {
  try {
    await server.api.withdraw(NOCOPY);
  } catch (error) {
    if (server.running) throw error;
  }
}

async function checkpointsOf(server: Server): Promise<number> {
  const text = await (await fetch(`${server.addresses.http}/metrics`)).text();
  return Number(/^flashlun_pool_checkpoints_total (\d+)/m.exec(text)![1]);
}

/** Writes, establishes and kills; returns what was reached. */
async function loadAndKill(server: Server, models: Models, random: Random): Promise<string> {
  const load: Load = { acknowledged: 0 };
  const reached = (count: number) =>
    until(`${count} acknowledged blocks`, () => load.acknowledged >= count || !server.running, {
      deadlineMs: ROUND_DEADLINE_MS,
      pollMs: 1,
      diagnosis: () => `${load.acknowledged} acknowledged`,
    });
  const kill = (count: number) => reached(count).then(() => server.kill9());
  // In every other round at any moment, else right after one of the establishes was sent.
  const establishToHit = random.between(0, 2 * PAIRS.length);
  const kills: Promise<void>[] = [];
  if (establishToHit >= PAIRS.length) kills.push(kill(random.between(500, 15_000)));
  // Logs in, so that the first establish is sent at once.
  await server.api.flashcopies();
  const lanes = await writeTo(server, models.source, { connections: 2, random, load });
  let step = 'before the first establish';
  for (const [at, pair] of PAIRS.entries()) {
    await reached(load.acknowledged + random.between(200, 3_000));
    if (!server.running) break;
    step = `in the establish of ${pair.id}`;
    const target = models[pair.target];
    const established = establish(server, { source: models.source, target }, pair);
    if (at === establishToHit) kills.push(kill(load.acknowledged + random.between(0, 100)));
    if (!(await established)) break;
    step = `after the establish of ${pair.id}`;
    lanes.push(...(await writeUnlessKilled(server, target, { connections: 1, random, load })));
  }
  if (server.running && random.between(0, 2) === 0) await withdrawUnderLoad(server);
  await Promise.all([...kills, ...lanes]);
  return `killed after ${load.acknowledged} blocks, ${step}`;
}

async function crashRounds(
  scope: Scope,
  random: Random,
  report: (line: string) => void,
): Promise<void> {
  const history = new History();
  const models: Models = {
    source: new VolumeModel('1203', BLOCKS, history),
    copied: new VolumeModel('1303', BLOCKS, history),
    nocopy: new VolumeModel('1304', BLOCKS, history),
  };
  let server = await startServer(scope, SERVER);
  const { data } = server;
  let checkpoints = 0;
  for (let round = 1; round <= ROUNDS; round++) {
    const killed = await loadAndKill(server, models, random);
    // Each life of the server in the other cache mode.
    const cache = round % 2 === 0 ? 'writeback' : 'none';
    server = await startServer(scope, {
      data,
      ...SERVER,
      args: [...SERVER.args, '--cache', cache],
    });
    await verify(server, models);
    const resumed = await endRelationships(server, models);
    checkpoints += await checkpointsOf(server);
    report(`round ${round}: ${killed}; ${resumed}`);
  }
  await server.stop();
  server = await startServer(scope, { data });
  await verify(server, models);
  expect(await server.api.flashcopies()).toEqual([]);
  // Or the journal was not small, and less was tested than this file says.
  expect(checkpoints).toBeGreaterThan(0);
}

test('SIGKILL under load loses no acknowledged write and changes no T0 image', {
  timeout: ROUNDS * ROUND_LIMIT_MS,
}, async () => {
  const seed = testSeed();
  console.log(`kill loop: ${ROUNDS} rounds, FLASHLUN_TEST_SEED=${seed} repeats them`);
  await scoped((scope) => crashRounds(scope, new Random(seed), (line) => console.log(line)));
});

test('the model notices what must not happen', () => {
  const history = new History();
  const model = new VolumeModel('1203', 2, history);
  const first = model.issue(0, false);
  model.ack(0, first);
  const second = model.issue(1, false);
  expect(() => model.settle([NEVER, NEVER])).toThrow(/block 0 holds write 0, legal are 1/);
  expect(() => model.checkPointInTime([NEVER, second])).toThrow(/not one point in time/);
  model.settle([first, NEVER]);
  const content = blockContent(0, first);
  expect(identify(content, 0, '1203')).toBe(first);
  content[4095]! ^= 1;
  expect(() => identify(content, 0, '1203')).toThrow(/torn or foreign/);
});
