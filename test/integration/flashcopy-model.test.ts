/**
 * All verbs of FlashCopy at random, through the API, while NBD clients write every volume; compared
 * with a model of what each block may hold. The server is killed, or stopped, and started again in
 * between.
 *
 * Every verb is, to the data, "this volume becomes what that one is at T0" or "becomes the image
 * that was kept", or nothing. A block's candidates are what it may hold: the last acknowledged
 * write, and the one in flight. During a verb the writers of the volume that is overwritten rest;
 * those of the source go on, so T0 may hold what they had in flight.
 *
 * FLASHLUN_MODEL_STEPS asks for more steps, FLASHLUN_TEST_SEED repeats a run.
 */
import { expect, test } from 'vitest';
import { BLOCK_BYTES, blockContent, identify, NEVER } from '../helpers/block-model.js';
import { type Scope, scoped } from '../helpers/cleanup.js';
import { COMMAND, ConnectionLost, NbdClient, NbdError } from '../helpers/nbd-client.js';
import { Random, testSeed } from '../helpers/random.js';
import { type Server, startServer } from '../helpers/server.js';
import { until } from '../helpers/wait.js';

const STEPS = Number(process.env['FLASHLUN_MODEL_STEPS'] ?? 240);
/** 40 tracks, so that a copy at the rate below takes a while. */
const BLOCKS = 640;
const LANES = 4;
const LANE_BLOCKS = BLOCKS / LANES;
const NAMES = ['1200', '1201', '1300', '1301'] as const;
const ARGS = ['--no-demo', '--copy-rate', '20'];
const CHECK_EVERY = 12;
const RESTART_EVERY = 30;

type Candidates = Set<number>[];

let sequence = 0;

class Volume {
  readonly name: string;
  readonly random: Random;
  candidates: Candidates = Array.from({ length: BLOCKS }, () => new Set([NEVER]));
  /** What the next establish overwrites, and a revertible resync has. */
  undo: Candidates | undefined;
  reverted: Candidates | undefined;
  recorder: Candidates | undefined;
  client: NbdClient | undefined;
  #lanes: Promise<void>[] = [];
  #running = false;

  constructor(name: string, random: Random) {
    this.name = name;
    this.random = random;
  }

  start(): void {
    this.#running = true;
    this.#lanes = Array.from({ length: LANES }, (_, lane) => this.#write(lane));
  }

  /** Resolves when nothing is in flight; what a lost connection had in flight may have happened. */
  async rest(): Promise<void> {
    this.#running = false;
    await Promise.all(this.#lanes);
    this.#lanes = [];
  }

  async #write(lane: number): Promise<void> {
    while (this.#running) {
      const block = lane * LANE_BLOCKS + this.random.between(0, LANE_BLOCKS);
      const trim = this.random.between(0, 12) === 0;
      const seq = trim ? NEVER : ++sequence;
      this.candidates[block]!.add(seq);
      this.recorder?.[block]!.add(seq);
      try {
        if (trim) {
          const zero = { command: COMMAND.writeZeroes, offset: block * BLOCK_BYTES };
          await this.client!.request({ ...zero, length: BLOCK_BYTES });
        } else {
          await this.client!.write(block * BLOCK_BYTES, blockContent(block, seq));
        }
      } catch (error) {
        if (error instanceof ConnectionLost) return;
        // The target of a relationship that inhibits writes.
        if (!(error instanceof NbdError) || error.errno !== 1) throw error;
        this.#refused(block, seq);
        await new Promise((resolve) => setImmediate(resolve));
        continue;
      }
      this.candidates[block] = new Set([seq]);
    }
  }

  /** It has not happened. A zero may have been there before. */
  #refused(block: number, seq: number): void {
    if (seq !== NEVER) this.candidates[block]!.delete(seq);
  }

  async check(): Promise<void> {
    const content = await this.client!.read(0, BLOCKS * BLOCK_BYTES);
    for (let block = 0; block < BLOCKS; block++) {
      const at = block * BLOCK_BYTES;
      const found = identify(content.subarray(at, at + BLOCK_BYTES), block, this.name);
      const allowed = this.candidates[block]!;
      if (!allowed.has(found)) {
        throw new Error(
          `${this.name} block ${block} holds write ${found}, allowed: ${[...allowed].join(', ')}`,
        );
      }
      this.candidates[block] = new Set([found]);
    }
  }
}

interface View {
  readonly id: string;
  readonly state: string;
  readonly paused: boolean;
  readonly recording: boolean;
  readonly source: string;
  readonly target: string;
}

class Run {
  readonly random: Random;
  readonly volumes: Map<string, Volume>;
  readonly counts = new Map<string, number>();
  server: Server;

  constructor(server: Server, random: Random) {
    this.server = server;
    this.random = random;
    this.volumes = new Map(
      NAMES.map((name) => [name, new Volume(name, new Random(random.next()))]),
    );
  }

  of(name: string): Volume {
    return this.volumes.get(name)!;
  }

  async connect(scope: Scope): Promise<void> {
    for (const volume of this.volumes.values()) {
      const client = await NbdClient.open({ path: this.server.unixPath }, volume.name);
      scope.defer('close a client', () => client.close());
      volume.client = client;
      volume.start();
    }
  }

  /** One request; `apply` says what it did to the data when it was not refused. */
  async #ask(
    what: string,
    method: string,
    path: string,
    body: object | undefined,
    copies: readonly { from: Volume; to: Volume }[],
    apply: () => void = () => undefined,
  ): Promise<boolean> {
    const resting = [...new Set(copies.map(({ to }) => to))];
    await Promise.all(resting.map((volume) => volume.rest()));
    for (const { from } of copies) from.recorder ??= from.candidates.map((set) => new Set(set));
    const reply = await this.server.api.request(method, path, body);
    const done = reply.status < 300;
    if (!done)
      expect(reply.body).toMatchObject({ code: expect.stringMatching(/^(FC|REL)/) as string });
    const recorded = copies.map(({ from }) => from.recorder!);
    for (const { from } of copies) from.recorder = undefined;
    if (done) {
      apply();
      for (const [at, { to }] of copies.entries()) {
        to.candidates = recorded[at]!.map((set) => new Set(set));
      }
    }
    for (const volume of resting) volume.start();
    this.counts.set(what, (this.counts.get(what) ?? 0) + (done ? 1 : 0));
    return done;
  }

  #options(): Record<string, unknown> {
    const { random } = this;
    const record = random.between(0, 3) !== 0;
    return {
      noCopy: random.between(0, 3) === 0,
      persistent: record || random.between(0, 3) === 0,
      record,
      inhibitTargetWrites: random.between(0, 6) === 0,
    };
  }

  async step(): Promise<void> {
    const { flashcopies } = await this.server.api.call<{ flashcopies: View[] }>(
      'GET',
      '/v1/flashcopies',
    );
    if (flashcopies.length === 0 || this.random.between(0, 5) === 0) return this.#establish();
    const view = flashcopies[this.random.between(0, flashcopies.length)]!;
    if (view.state === 'copying' && !view.paused && this.random.between(0, 3) === 0) {
      return this.#copied(view);
    }
    const { state, recording } = view;
    const often = this.random.between(0, 2) === 0;
    // What is seldom met by chance.
    if (state === 'revertible' && often) return this.#verb(view, this.random.between(6, 8));
    if (state === 'idle' && recording && often)
      return this.#verb(view, 3 + this.random.between(0, 3));
    return this.#verb(view, this.random.between(0, 13));
  }

  /** Waits until the copy has ended, and with it, perhaps, the relationship. */
  async #copied({ id }: View): Promise<void> {
    const path = `/v1/flashcopies/${id}`;
    const ended = async (): Promise<boolean> => {
      const reply = await this.server.api.request('GET', path);
      return reply.status === 404 || (reply.body as View).state !== 'copying';
    };
    await until(`the end of the copy ${id}`, ended, { deadlineMs: 30_000 });
    this.counts.set('copied', (this.counts.get('copied') ?? 0) + 1);
  }

  async #establish(): Promise<void> {
    const { random } = this;
    const names = [...NAMES].sort(() => random.between(0, 2) - 0.5);
    const count = random.between(1, 3);
    const copies = Array.from({ length: count }, (_, at) => ({
      from: this.of(names[at * 2]!),
      to: this.of(names[at * 2 + 1]!),
    }));
    const undoSeconds = random.between(0, 2) * 600;
    const body = {
      pairs: copies.map(({ from, to }) => ({ source: from.name, target: to.name })),
      options: { ...this.#options(), force: true, undoSeconds },
    };
    await this.#ask('establish', 'POST', '/v1/flashcopies', body, copies, () => {
      if (undoSeconds === 0) return;
      for (const { to } of copies) to.undo = to.candidates;
    });
  }

  async #verb({ id, source, target }: View, which: number): Promise<void> {
    const { random } = this;
    const [from, to] = [this.of(source), this.of(target)];
    const path = `/v1/flashcopies/${id}`;
    const options = this.#options();
    const still = [] as const;
    switch (which) {
      case 0:
      case 1:
      case 2:
        await this.#ask('resync', 'POST', `${path}/resync`, { options }, [{ from, to }]);
        return;
      case 3: {
        const body = { options: { ...options, fast: random.between(0, 2) === 0 } };
        await this.#ask('reverse', 'POST', `${path}/reverse`, body, [{ from: to, to: from }]);
        return;
      }
      case 4:
      case 5:
        await this.#ask(
          'set-revertible',
          'POST',
          `${path}/set-revertible`,
          undefined,
          [{ from, to }],
          () => {
            to.reverted = to.candidates;
          },
        );
        return;
      case 6:
        await this.#ask('commit', 'POST', `${path}/commit`, undefined, still);
        return;
      case 7:
        return this.#restore('revert', `${path}/revert`, to, 'reverted');
      case 8:
        return this.#restore('undo', `/v1/volumes/${target}/undo`, to, 'undo');
      case 9:
        await this.#ask('pause', 'POST', `${path}/pause`, undefined, still);
        return;
      case 10:
        await this.#ask('resume', 'POST', `${path}/resume`, undefined, still);
        return;
      case 11:
        await this.#ask('copy', 'POST', `${path}/copy`, undefined, still);
        return;
      default: {
        const complete = random.between(0, 2) === 0;
        const query = complete ? '?complete=true' : '';
        await this.#ask('withdraw', 'DELETE', `${path}${query}`, undefined, still);
      }
    }
  }

  async #restore(what: string, path: string, to: Volume, kept: 'undo' | 'reverted'): Promise<void> {
    await to.rest();
    const done = await this.#ask(what, 'POST', path, undefined, []);
    if (done) {
      to.candidates = to[kept]!.map((set) => new Set(set));
      if (kept === 'undo') to.undo = undefined;
    }
    to.start();
  }

  async check(): Promise<void> {
    const all = [...this.volumes.values()];
    await Promise.all(all.map((volume) => volume.rest()));
    for (const volume of all) await volume.check();
    for (const volume of all) volume.start();
  }

  async restart(scope: Scope): Promise<void> {
    const kill = this.random.between(0, 3) !== 0;
    if (kill) await this.server.kill9();
    else await this.server.stop();
    for (const volume of this.volumes.values()) await volume.rest();
    this.server = await startServer(scope, { data: this.server.data, args: ARGS });
    await this.connect(scope);
    this.counts.set(kill ? 'kills' : 'stops', (this.counts.get(kill ? 'kills' : 'stops') ?? 0) + 1);
  }
}

test(
  `${STEPS} random verbs with writers, kills and restarts`,
  { timeout: 170_000 + STEPS * 1_000 },
  () =>
    scoped(async (scope) => {
      const seed = testSeed();
      const random = new Random(seed);
      const server = await startServer(scope, { args: ARGS });
      for (const name of NAMES)
        await server.api.createVolume(name.slice(0, 2), BLOCKS * BLOCK_BYTES);
      const run = new Run(server, random);
      scope.defer('stop the writers', async () => {
        for (const volume of run.volumes.values()) await volume.rest();
      });
      try {
        await run.connect(scope);
        for (let step = 1; step <= STEPS; step++) {
          await run.step();
          if (step % CHECK_EVERY === 0) await run.check();
          if (step % RESTART_EVERY === 0) await run.restart(scope);
        }
        await run.check();
      } catch (error) {
        throw new Error(`repeat with FLASHLUN_TEST_SEED=${seed}`, { cause: error });
      }
      const did = [...run.counts].map(([what, count]) => `${count} ${what}`).join(', ');
      console.log(`seed ${seed}: ${sequence} writes; ${did}`);
      expect(run.counts.get('establish')).toBeGreaterThan(0);
    }),
);
