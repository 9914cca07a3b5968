/**
 * A shared rate limit: bytes a second of all background copies together.
 *
 * Work is admitted while nothing is owed and charged afterwards by what it really moved, because a
 * batch says only then how many of its tracks had to be copied. So the debt is at most one batch
 * per active copy, and the long-term rate is exact.
 */

import { setTimeout as delay } from 'node:timers/promises';

export class RateBudget {
  readonly bytesPerSecond: number | undefined;
  readonly #now: () => number;
  /** When everything charged so far is paid, on the clock of `now`. */
  #paidAtMs: number;

  /** Without a rate nothing ever waits. `now` is a monotonic clock in milliseconds. */
  constructor(bytesPerSecond: number | undefined, now: () => number = () => performance.now()) {
    this.bytesPerSecond = bytesPerSecond;
    this.#now = now;
    this.#paidAtMs = now();
  }

  /** How long the next piece of work has to wait. */
  get waitMs(): number {
    return this.bytesPerSecond === undefined ? 0 : Math.max(0, this.#paidAtMs - this.#now());
  }

  /** Resolves when the next piece of work may begin. Rejects with an AbortError on `signal`. */
  async admit(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    // Others may be charged while we sleep, therefore a loop.
    for (let waitMs = this.waitMs; waitMs > 0; waitMs = this.waitMs) {
      await delay(waitMs, undefined, { signal });
    }
  }

  /** Pays for work that was done. Idle time is not saved up for a burst. */
  charge(bytes: number): void {
    if (this.bytesPerSecond === undefined) return;
    this.#paidAtMs = Math.max(this.#paidAtMs, this.#now()) + (bytes / this.bytesPerSecond) * 1000;
  }
}
