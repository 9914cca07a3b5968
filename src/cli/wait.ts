/**
 * `--wait`: watches background copies until their relationships end.
 *
 * One list request per look, however many pairs there are. A relationship that is gone, or that
 * was established at another time than ours, is ours no longer: it has ended. So has the copy of a
 * persistent one that is idle. That is what is
 * waited for, not the last track: until the relationship is gone its target is refused as a
 * target of the next one.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { ApiClient } from '../base/api-client.js';
import { FlashlunError } from '../base/errors.js';
import type { FlashcopiesView, FlashcopyView } from './api-types.js';
import { type CliContext, Interrupted } from './context.js';
import { formatPercent } from './output.js';

/**
 * Looks start frequent, so that a small copy is reported at once, and get rarer: a server is not
 * there to be polled.
 */
const FIRST_LOOK_MS = 50;
const LONGEST_GAP_MS = 2_000;

/**
 * Returns when all of `established` have ended.
 * @throws FlashlunError INTERNAL a copy has stopped for good; FC_TIMEOUT after `timeoutSeconds`;
 * Interrupted on Ctrl-C. The copies go on in both cases.
 */
export async function waitForCopies(
  context: CliContext,
  api: ApiClient,
  established: readonly FlashcopyView[],
  timeoutSeconds: number | undefined,
): Promise<void> {
  const interrupt = new AbortController();
  const onSigint = (): void => interrupt.abort();
  process.once('SIGINT', onSigint);
  const progress = new ProgressLine(context);
  try {
    await watch(api, established, { timeoutSeconds, signal: interrupt.signal, progress });
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    throw new Interrupted('stopped waiting. The background copy goes on in the server.');
  } finally {
    progress.clear();
    process.off('SIGINT', onSigint);
  }
}

interface WatchOptions {
  readonly timeoutSeconds: number | undefined;
  readonly signal: AbortSignal;
  readonly progress: ProgressLine;
}

async function watch(
  api: ApiClient,
  established: readonly FlashcopyView[],
  { timeoutSeconds, signal, progress }: WatchOptions,
): Promise<void> {
  const deadline = timeoutSeconds === undefined ? Infinity : Date.now() + timeoutSeconds * 1000;
  let gapMs = FIRST_LOOK_MS;
  for (;;) {
    const left = await stillCopying(api, established, signal);
    if (left.length === 0) return;
    const stopped = left.find((pair) => pair.problem !== undefined && !pair.activeCopy);
    if (stopped !== undefined) throw copyStopped(stopped);
    progress.show(left);
    const remainingMs = deadline - Date.now();
    if (remainingMs <= 0) throw timedOut(left, timeoutSeconds);
    await delay(Math.min(gapMs, remainingMs), undefined, { signal });
    gapMs = Math.min(gapMs * 2, LONGEST_GAP_MS);
  }
}

async function stillCopying(
  api: ApiClient,
  established: readonly FlashcopyView[],
  signal: AbortSignal,
): Promise<FlashcopyView[]> {
  const ours = new Map(established.map((pair) => [pair.id, pair.establishedAt]));
  const answer = await api.json<FlashcopiesView>('GET', '/v1/flashcopies', {
    signal,
  });
  return answer.flashcopies.filter(
    (pair) => ours.get(pair.id) === pair.establishedAt && pair.state === 'copying',
  );
}

function copyStopped(pair: FlashcopyView): FlashlunError {
  return new FlashlunError(
    'INTERNAL',
    `the background copy of ${pair.id} has stopped: ${pair.problem}. The target stays usable; ` +
      'the copy is tried again when the server starts.',
  );
}

function timedOut(left: readonly FlashcopyView[], seconds: number | undefined): FlashlunError {
  const ids = left.map((pair) => pair.id).join(', ');
  const tracks = left.reduce((sum, pair) => sum + pair.outOfSyncTracks, 0);
  return new FlashlunError(
    'FC_TIMEOUT',
    `${ids}: ${tracks} tracks are still to be copied after ${seconds} s. ` +
      "The copy goes on in the server; watch it with 'flashlun flashcopy list'.",
  );
}

/** One line that is overwritten, on a terminal only. */
class ProgressLine {
  readonly #context: CliContext;
  #shown = false;

  constructor(context: CliContext) {
    this.#context = context;
  }

  show(left: readonly FlashcopyView[]): void {
    if (this.#context.stderr.isTTY !== true) return;
    const total = left.reduce((sum, pair) => sum + pair.totalTracks, 0);
    const open = left.reduce((sum, pair) => sum + pair.outOfSyncTracks, 0);
    const percent = formatPercent(total === 0 ? 100 : (100 * (total - open)) / total);
    this.#context.stderr.write(`\r\x1b[K${left.length} copying, ${percent}, ${open} tracks left`);
    this.#shown = true;
  }

  clear(): void {
    if (this.#shown) this.#context.stderr.write('\r\x1b[K');
    this.#shown = false;
  }
}
