/** A limited number of places for costly work, and a limited queue before them. */

import { FlashlunError } from '../base/errors.js';

export class Places {
  readonly #places: number;
  readonly #mostWaiting: number;
  readonly #waiting: (() => void)[] = [];
  #taken = 0;

  constructor(places: number, mostWaiting: number) {
    this.#places = places;
    this.#mostWaiting = mostWaiting;
  }

  /** Runs `work` when a place is free. @throws FlashlunError RATE_LIMITED when the queue is full */
  async run<T>(work: () => Promise<T>): Promise<T> {
    await this.#take();
    try {
      return await work();
    } finally {
      // The place passes to the first in the queue without becoming free in between.
      const next = this.#waiting.shift();
      if (next === undefined) this.#taken -= 1;
      else next();
    }
  }

  async #take(): Promise<void> {
    if (this.#taken < this.#places) {
      this.#taken += 1;
      return;
    }
    if (this.#waiting.length >= this.#mostWaiting) {
      throw new FlashlunError(
        'RATE_LIMITED',
        'too many log-ins at the same time. Try again in a few seconds.',
        { details: { retryAfterSeconds: 5 } },
      );
    }
    await new Promise<void>((resolve) => {
      this.#waiting.push(resolve);
    });
  }
}
