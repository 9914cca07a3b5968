/** Seeded randomness: a failing test prints its seed, and FLASHLUN_TEST_SEED repeats the run. */
import { randomInt } from 'node:crypto';

const MAX_SEED = 0x7fffffff;

/** The seed to use: of the environment when set, else a fresh one. Print it. */
export function testSeed(): number {
  const given = Number(process.env['FLASHLUN_TEST_SEED']);
  return Number.isInteger(given) && given > 0 ? given : randomInt(1, MAX_SEED);
}

/** xorshift32: small, fast, and the same on every machine. */
export class Random {
  #state: number;

  constructor(seed: number) {
    // The state must not be zero; the multiplier spreads neighbouring seeds.
    this.#state = Math.imul(seed, 0x9e3779b1) | 0 || 1;
  }

  next(): number {
    let x = this.#state;
    x ^= x << 13;
    x ^= x >>> 17;
    x ^= x << 5;
    this.#state = x;
    return x >>> 0;
  }

  /** An integer of [from, to). */
  between(from: number, to: number): number {
    return from + (this.next() % (to - from));
  }

  bytes(count: number): Buffer {
    const words = new Uint32Array(Math.ceil(count / 4));
    for (let i = 0; i < words.length; i++) words[i] = this.next();
    return Buffer.from(words.buffer, 0, count);
  }
}
