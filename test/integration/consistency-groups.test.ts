/**
 * Consistency groups under dependent writers: a chain of writes goes round 4 LUNs in 2 LSSs, each
 * write begun only after the one before it was answered. Groups of copies are made all the while,
 * in one atomic establish or with freezes; none may hold a write without all of those before it.
 *
 * FLASHLUN_GROUPS asks for that many atomic groups.
 */
import { expect, test } from 'vitest';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { NbdClient } from '../helpers/nbd-client.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const ATOMIC_GROUPS = Number(process.env['FLASHLUN_GROUPS'] ?? 200);
const FREEZE_GROUPS = 20;
const TRACK = 65_536;
const SOURCES = ['1200', '1201', '1300', '1301'];
const TARGETS = ['1202', '1203', '1302', '1303'];
/** Independent chains, so that there is always something in flight. */
const CHAINS = 4;

/** Write k of a chain puts k at the chain's place of LUN k mod 4. */
class Chain {
  last = 0;
  #stopped = false;
  readonly #ended: Promise<void>;

  constructor(sources: readonly NbdClient[], place: number) {
    this.#ended = this.#run(sources, place);
  }

  async #run(sources: readonly NbdClient[], place: number): Promise<void> {
    const block = Buffer.alloc(4096);
    for (let k = 1; !this.#stopped; k++) {
      block.writeUInt32LE(k, 0);
      await sources[k % SOURCES.length]!.write(place, block);
      this.last = k;
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#ended;
  }
}

interface Setup {
  readonly server: Server;
  readonly chains: readonly Chain[];
  readonly copies: readonly NbdClient[];
}

async function setUp(scope: Scope): Promise<Setup> {
  const server = await startServer(scope, { args: ['--no-demo'] });
  for (const lss of ['12', '12', '12', '12', '13', '13', '13', '13']) {
    await server.api.createVolume(lss, 16 * TRACK);
  }
  const open = async (name: string): Promise<NbdClient> => {
    const client = await NbdClient.open({ path: server.unixPath }, name);
    scope.defer('close a client', () => client.close());
    return client;
  };
  const sources = await Promise.all(SOURCES.map(open));
  const copies = await Promise.all(TARGETS.map(open));
  // Some chains share a track, some have one of their own.
  const chains = Array.from({ length: CHAINS }, (_, at) => new Chain(sources, at * 12 * 4096));
  scope.defer('stop the chains', async () => {
    await Promise.all(chains.map((chain) => chain.stop()));
  });
  return { server, chains, copies };
}

/** What the copies hold of a chain is its writes up to one of them, and none after it. */
async function checkGroup({ copies }: Setup, chain: number, atLeast: number): Promise<number> {
  const values: number[] = [];
  for (const copy of copies) values.push((await copy.read(chain * 12 * 4096, 4)).readUInt32LE(0));
  const newest = Math.max(...values);
  // LUN n holds the last write of the prefix that went to it.
  const prefix = values.map((_, lun) => newest - ((newest - lun + 4) % 4));
  expect({ chain, values }).toEqual({ chain, values: prefix.map((k) => Math.max(k, 0)) });
  expect(newest).toBeGreaterThanOrEqual(atLeast);
  return newest;
}

function lasts({ chains }: Setup): number[] {
  return chains.map((chain) => chain.last);
}

async function progress(setup: Setup): Promise<void> {
  const before = lasts(setup);
  const moved = (): boolean => lasts(setup).every((last, at) => last > before[at]! + 4);
  await until('writes of every chain', moved, { deadlineMs: 30_000, pollMs: 1 });
}

async function withdraw({ server }: Setup): Promise<void> {
  for (const [at, source] of SOURCES.entries()) {
    await server.api.withdraw(`${source}:${TARGETS[at]}`);
  }
}

test(`${ATOMIC_GROUPS} atomic establishes of 4 LUNs in 2 LSSs hold a prefix of every chain`, () =>
  scoped(async (scope) => {
    const setup = await setUp(scope);
    const pairs = SOURCES.map((source, at) => ({ source, target: TARGETS[at]! }));
    for (let group = 0; group < ATOMIC_GROUPS; group++) {
      await progress(setup);
      const before = lasts(setup);
      const options = { noCopy: true, persistent: true, record: true };
      // A fresh establish, then two incremental resyncs.
      if (group % 3 === 0) {
        if (group > 0) await withdraw(setup);
        const body = { pairs, options: { ...options, atomic: true } };
        await setup.server.api.call('POST', '/v1/flashcopies', body);
      } else {
        await setup.server.api.call('POST', '/v1/flashcopies/resync', { pairs, options });
      }
      for (let chain = 0; chain < CHAINS; chain++) await checkGroup(setup, chain, before[chain]!);
    }
  }));

test(`${FREEZE_GROUPS} groups with freezes, one LSS after the other`, () =>
  scoped(async (scope) => {
    const setup = await setUp(scope);
    for (let group = 0; group < FREEZE_GROUPS; group++) {
      if (group > 0) await withdraw(setup);
      await progress(setup);
      const before = lasts(setup);
      // One command a pair, as tasks of different machines would be.
      for (const [at, source] of SOURCES.entries()) {
        await setup.server.api.call('POST', '/v1/flashcopies', {
          pairs: [{ source, target: TARGETS[at] }],
          options: { noCopy: true, freeze: true },
        });
      }
      const frozen = lasts(setup);
      const { lss } = await setup.server.api.call<{ lss: { consistent: boolean }[] }>(
        'POST',
        '/v1/consistency-groups/unfreeze',
        { lss: ['12', '13'] },
      );
      expect(lss.map(({ consistent }) => consistent)).toEqual([true, true]);
      for (let chain = 0; chain < CHAINS; chain++) {
        const newest = await checkGroup(setup, chain, before[chain]!);
        // A write in flight when its LUN froze may be in, and no later one.
        expect(newest).toBeLessThanOrEqual(frozen[chain]! + 1);
      }
    }
  }));
