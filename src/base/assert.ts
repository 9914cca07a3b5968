/**
 * Assertions that stay on in release.
 *
 * A failed one is a bug of ours, never a user's mistake, so it is no FlashlunError: it has no error
 * code to handle. In the control plane it ends the request or connection at hand; what protects
 * data (native/core) stops the process.
 */

/** Thrown by {@link assert}: a programming error. */
export class AssertionFailure extends Error {
  constructor(message: string) {
    super(`internal error: ${message}. This is a bug in flashlun; please report it.`);
    this.name = 'AssertionFailure';
  }
}

/**
 * Throws an {@link AssertionFailure} unless `condition` holds. `message` says what should have been
 * true.
 */
export function assert(condition: unknown, message: string): asserts condition {
  if (!condition) throw new AssertionFailure(message);
}
