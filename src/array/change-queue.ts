/**
 * Runs changes of the configuration one after the other.
 *
 * A rule is judged in TypeScript and acted on by the engine, with an await in between. With only
 * one change at a time what was judged is still true when the engine acts, so a refusal is ours,
 * with our words, and not the engine's last line of defence. Reads do not queue.
 */
export class ChangeQueue {
  #tail: Promise<unknown> = Promise.resolve();

  /** Runs `change` after all changes queued before it, whether they succeeded or not. */
  run<T>(change: () => Promise<T>): Promise<T> {
    const result = this.#tail.then(change);
    // The caller gets the rejection; the queue goes on.
    this.#tail = result.catch(() => undefined);
    return result;
  }

  /** Resolves when every change queued so far has ended. */
  async idle(): Promise<void> {
    await this.#tail;
  }
}
