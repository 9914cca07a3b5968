/**
 * rsQueryComplete: waits until every pair of a saved task has been copied.
 *
 * The original waited for the first copy of PPRC pairs; here it is the background copy of FlashCopy
 * pairs, which end by themselves or have no out-of-sync tracks any more.
 */

import { setTimeout as delay } from 'node:timers/promises';
import type { ApiClient } from '../../base/api-client.js';
import { FlashlunError } from '../../base/errors.js';
import { usage } from '../arguments.js';
import { type EssCommand, type Run, taskPath, withServer } from '../command.js';
import { EXIT, step, StepFailure } from '../exit.js';
import { MESSAGES } from '../messages.js';

interface Task {
  /** Of a group: what it runs. */
  readonly tasks: readonly string[];
  readonly pairs: readonly { readonly source: string; readonly target: string }[];
}

interface Relationship {
  readonly id: string;
  readonly copyMode: string;
  readonly outOfSyncTracks: number;
}

const POLL_MS = 500;
const MOST_SECONDS = 7 * 24 * 60 * 60;

export const QUERY_COMPLETE: EssCommand = {
  name: 'rsQueryComplete',
  server: true,
  values: { t: 'SECONDS' },
  words: { what: 'task', least: 1, most: 1 },
  synopsis: '[/t SECONDS] TASK',
  help:
    'Waits until every pair of a saved task has been copied.\n\n' +
    '  /t SECONDS    give up waiting after this time (exit code 6); the copy goes on\n',
  saysSuccessful: true,
  run: (run) => {
    const seconds = secondsOf(run);
    return withServer(run, async ({ api }) => {
      const [name = ''] = run.args.words;
      const missing = MESSAGES.notFound(run.spec.name, name);
      const task = await step(
        () => api.json<Task>('GET', taskPath(name)),
        EXIT.taskNotFound,
        missing,
      );
      const wanted = await step(() => pairsOf(api, task), EXIT.taskFailed);
      await waitFor(run, api, { name, wanted, endsAt: performance.now() + seconds * 1000 });
      run.transcript.outcome(MESSAGES.taskComplete(name));
    });
  },
};

/** Pairs of the task, or of all tasks of the group: groups have no groups. */
async function pairsOf(api: ApiClient, { pairs, tasks }: Task): Promise<ReadonlySet<string>> {
  const all = [...pairs];
  for (const member of tasks) {
    const task = await api.json<Task>('GET', taskPath(member));
    all.push(...task.pairs);
  }
  return new Set(all.map(({ source, target }) => `${source}:${target}`));
}

interface Waiting {
  readonly name: string;
  /** Pairs, as `1203:1303`. */
  readonly wanted: ReadonlySet<string>;
  readonly endsAt: number;
}

async function waitFor(run: Run, api: ApiClient, waiting: Waiting): Promise<void> {
  const { endsAt, name, wanted } = waiting;
  const incomplete = MESSAGES.taskIncomplete(name);
  const open = new Set(wanted);
  for (;;) {
    const copying = await step(() => copyingPairs(api, wanted), EXIT.taskFailed, incomplete);
    for (const pair of open) {
      if (copying.some(({ id }) => id === pair)) continue;
      open.delete(pair);
      run.transcript.step(MESSAGES.pairComplete(pair));
    }
    const [first] = copying;
    if (first === undefined) return;
    if (performance.now() >= endsAt) {
      const left = MESSAGES.pairWaiting(first.id, first.outOfSyncTracks);
      const late = new FlashlunError('CANNOT_CONNECT', 'not copied in time; the copy goes on.');
      throw new StepFailure(EXIT.timedOut, [left, incomplete], late);
    }
    await delay(Math.min(POLL_MS, Math.max(endsAt - performance.now(), 0)));
  }
}

/** Those of the pairs that are still being copied. @throws FlashlunError one that never will be */
async function copyingPairs(api: ApiClient, wanted: ReadonlySet<string>): Promise<Relationship[]> {
  const { flashcopies } = await api.json<{ flashcopies: Relationship[] }>('GET', '/v1/flashcopies');
  const left = flashcopies.filter(
    ({ id, outOfSyncTracks }) => wanted.has(id) && outOfSyncTracks > 0,
  );
  const never = left.find(({ copyMode }) => copyMode === 'nocopy');
  if (never === undefined) return left;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `${never.id} has no background copy (nocopy), so it would never be complete.`,
  );
}

function secondsOf({ args, spec }: Run): number {
  const text = args.values['t'];
  if (text === undefined) return MOST_SECONDS;
  const seconds = /^\d{1,7}$/.test(text) ? Number(text) : 0;
  if (seconds > 0 && seconds <= MOST_SECONDS) return seconds;
  throw usage(spec, `/t '${text.slice(0, 20)}' is no number of seconds from 1 to ${MOST_SECONDS}`);
}
