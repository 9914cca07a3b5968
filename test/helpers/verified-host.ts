/**
 * A host that writes, trims, flushes and reads without end, knows what every block must hold, and
 * notes how long its slowest request took.
 */
import { COMMAND, FLAG_FUA, type NbdClient } from './nbd-client.js';
import { Random } from './random.js';

const BLOCK = 4096;
const BLOCKS_PER_REQUEST = 16;

export interface HostReport {
  readonly requests: number;
  readonly longestMs: number;
}

export class VerifiedHost {
  readonly #client: NbdClient;
  readonly #random: Random;
  readonly #firstBlock: number;
  readonly #slots: number;
  /** What each slot's blocks are filled with; 0: zeroes. */
  readonly #fill: Uint8Array;
  #stopping = false;
  #requests = 0;
  #longestMs = 0;

  /** Works on `slots` places of 64 KiB from `firstBlock` on, which are zeroes. */
  constructor(
    client: NbdClient,
    where: { readonly seed: number; readonly firstBlock: number; readonly slots: number },
  ) {
    this.#client = client;
    this.#random = new Random(where.seed);
    this.#firstBlock = where.firstBlock;
    this.#slots = where.slots;
    this.#fill = new Uint8Array(where.slots);
  }

  get requests(): number {
    return this.#requests;
  }

  /** The longest so far, which begins anew. */
  takeLongestMs(): number {
    const longest = this.#longestMs;
    this.#longestMs = 0;
    return longest;
  }

  /** Runs `depth` requests at a time until `stop`, then reads everything once more. */
  async run(depth: number): Promise<HostReport> {
    const lanes = Array.from({ length: depth }, (_, lane) => this.#lane(lane, depth));
    await Promise.all(lanes);
    for (let slot = 0; slot < this.#slots; slot += 1) await this.#check(slot);
    return { requests: this.#requests, longestMs: this.#longestMs };
  }

  stop(): void {
    this.#stopping = true;
  }

  /** Each lane has slots of its own, so that what must be there is known. */
  async #lane(lane: number, depth: number): Promise<void> {
    while (!this.#stopping) {
      const slot = lane + depth * this.#random.between(0, Math.floor(this.#slots / depth));
      const action = this.#random.between(0, 10);
      if (action < 4) await this.#write(slot);
      else if (action < 8) await this.#check(slot);
      else if (action < 9) await this.#zero(slot);
      else await this.#timed(this.#client.flush());
    }
  }

  async #write(slot: number): Promise<void> {
    const value = 1 + this.#random.between(0, 255);
    const data = Buffer.alloc(BLOCK * BLOCKS_PER_REQUEST, value);
    const flags = this.#random.between(0, 20) === 0 ? FLAG_FUA : 0;
    await this.#timed(this.#client.write(this.#offset(slot), data, flags));
    this.#fill[slot] = value;
  }

  async #zero(slot: number): Promise<void> {
    const request = { command: COMMAND.writeZeroes, length: BLOCK * BLOCKS_PER_REQUEST };
    await this.#timed(this.#client.request({ ...request, offset: this.#offset(slot) }));
    this.#fill[slot] = 0;
  }

  async #check(slot: number): Promise<void> {
    const length = BLOCK * BLOCKS_PER_REQUEST;
    const data = await this.#timed(this.#client.read(this.#offset(slot), length));
    const value = this.#fill[slot] ?? 0;
    const wrong = data.findIndex((byte) => byte !== value);
    if (wrong !== -1) {
      throw new Error(`slot ${slot}: byte ${wrong} is ${data[wrong]}, not ${value}`);
    }
  }

  #offset(slot: number): number {
    return (this.#firstBlock + slot * BLOCKS_PER_REQUEST) * BLOCK;
  }

  async #timed<T>(request: Promise<T>): Promise<T> {
    const begun = performance.now();
    const result = await request;
    this.#longestMs = Math.max(this.#longestMs, performance.now() - begun);
    this.#requests += 1;
    return result;
  }
}
