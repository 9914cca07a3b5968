/**
 * What a test started, undone in reverse order however the test ends.
 *
 * `scoped` is the body of every test that starts servers, mounts or loop devices: its cleanups run
 * in a `finally`, all of them, and a cleanup that fails makes the test fail. Waits inside have
 * deadlines of their own that are shorter than the test's, so that the `finally` is reached before
 * vitest gives up on the test.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

type Undo = () => Promise<unknown> | unknown;

export class Scope {
  readonly #undos: { what: string; undo: Undo }[] = [];

  /** Registers how to undo something; `what` names it in the error when that fails. */
  defer(what: string, undo: Undo): void {
    this.#undos.push({ what, undo });
  }

  /** A new temporary folder, removed at the end. Its path is short: unix sockets live in it. */
  async tempDir(): Promise<string> {
    const dir = await mkdtemp(join(tmpdir(), 'flashlun-'));
    this.defer(`remove ${dir}`, () => rm(dir, { recursive: true, force: true, maxRetries: 3 }));
    return dir;
  }

  /** Undoes everything, newest first. One failure does not keep the others from running. */
  async close(): Promise<void> {
    const errors: Error[] = [];
    for (;;) {
      const last = this.#undos.pop();
      if (last === undefined) break;
      try {
        await last.undo();
      } catch (error) {
        errors.push(
          new Error(`clean-up "${last.what}" failed: ${String(error)}`, { cause: error }),
        );
      }
    }
    if (errors.length === 1) throw errors[0]!;
    if (errors.length > 1) throw new AggregateError(errors, errors.map(String).join('; '));
  }
}

/** Runs a test's body with a scope that is closed at its end. The body's own error comes first. */
export async function scoped<T>(body: (scope: Scope) => Promise<T>): Promise<T> {
  const scope = new Scope();
  let result: T;
  try {
    result = await body(scope);
  } catch (error) {
    await scope.close().catch((closing: unknown) => {
      console.error(String(closing));
    });
    throw error;
  }
  await scope.close();
  return result;
}
