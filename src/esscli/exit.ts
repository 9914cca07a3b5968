/** How a run of an rs* command ends. */

import { FlashlunError } from '../base/errors.js';
import { isTimeout } from '../base/api-client.js';

/** Exit codes; ours, as the original's are not known beyond 0 and not 0. */
export const EXIT = {
  ok: 0,
  usage: 1,
  cannotReach: 2,
  refused: 3,
  taskNotFound: 4,
  taskFailed: 5,
  timedOut: 6,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/**
 * A step that did not work: the code to exit with, the transcript's lines for it, and the reason.
 */
export class StepFailure extends Error {
  readonly exit: ExitCode;
  readonly lines: readonly string[];

  constructor(exit: ExitCode, lines: readonly string[], cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.exit = exit;
    this.lines = lines;
  }
}

/** Does `work`; a failure becomes one of this step. @throws StepFailure */
export async function step<T>(
  work: () => Promise<T>,
  exit: ExitCode,
  ...lines: readonly string[]
): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof StepFailure) throw error;
    throw new StepFailure(exitFor(error, exit), lines, error);
  }
}

/** What went wrong on the way to the server says more than the step it happened in. */
function exitFor(error: unknown, exitOfStep: ExitCode): ExitCode {
  // A heartbeat without an answer is a server that cannot be reached.
  if (exitOfStep === EXIT.cannotReach) return exitOfStep;
  if (isTimeout(error)) return EXIT.timedOut;
  if (!(error instanceof FlashlunError)) return exitOfStep;
  if (error.code === 'USAGE') return EXIT.usage;
  if (error.code === 'CANNOT_CONNECT') return EXIT.cannotReach;
  if (error.code === 'UNAUTHENTICATED' || error.code === 'FORBIDDEN') return EXIT.refused;
  const missing = error.code === 'TASK_NOT_FOUND' || error.code === 'NOT_FOUND';
  // The server could not look the task up, which is not the same as not finding it.
  if (exitOfStep === EXIT.taskNotFound && !missing) return EXIT.taskFailed;
  // Deleted by somebody between finding and running.
  if (exitOfStep === EXIT.taskFailed && error.code === 'TASK_NOT_FOUND') return EXIT.taskNotFound;
  return exitOfStep;
}
