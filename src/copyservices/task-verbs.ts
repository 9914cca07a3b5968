/** What each type of task does when it runs: one function a row of TASK_TYPES. */

import { FlashlunError } from '../base/errors.js';
import type { VolumePair } from '../base/ids.js';
import type { TaskOptions, TaskType } from '../base/task-types.js';
import type { CopyServices } from './copy-services.js';

/** Of a task, what its verb needs. */
export interface Work {
  readonly pairs: readonly VolumePair[];
  readonly options: TaskOptions;
  /** Of a group. */
  readonly tasks: readonly string[];
  /** Of a "consistency created". */
  readonly lss: readonly string[];
}

export interface VerbContext {
  readonly copyServices: CopyServices;
  /** Runs a member of a group and returns its outcome in words. */
  runMember(name: string): Promise<string>;
}

type Verb = (work: Work, context: VerbContext) => Promise<string>;

/** Returns what was done, in words. @throws FlashlunError what refused it */
export const TASK_VERBS: Readonly<Record<TaskType, Verb>> = {
  establish: async ({ options, pairs }, { copyServices }) => {
    // Which volume is the target was decided when the task was saved.
    const request = { undoSeconds: 0, ...options, pairs, force: true };
    const views = await copyServices.establish(request);
    return `established ${views.map((view) => `${view.id} (${view.state})`).join(', ')}`;
  },

  withdraw: async ({ options, pairs }, { copyServices }) => {
    const complete = options.complete ?? false;
    const ended: string[] = [];
    const withdrawn = await inTurn(pairs, 'withdrawn', async (pair) => {
      if (await tryWithdraw(copyServices, pair, complete)) return true;
      ended.push(nameOf(pair));
      return false;
    });
    const done = complete ? 'end when all is copied:' : 'withdrawn';
    const parts = withdrawn.length === 0 ? [] : [`${done} ${withdrawn.join(', ')}`];
    if (ended.length > 0) parts.push(`nothing to withdraw: ${ended.join(', ')} had ended already`);
    return parts.join('; ');
  },

  resync: async ({ options, pairs }, { copyServices }) => {
    const views = await copyServices.resyncAll(pairs, options);
    return `resynced ${views.map(({ id }) => id).join(', ')}`;
  },

  reverse: forEach('reversed', (copyServices, pair, options) =>
    copyServices.reverse(pair, options),
  ),
  copy: forEach('copying', (copyServices, pair) => copyServices.copy(pair)),
  pause: forEach('paused', (copyServices, pair) => copyServices.pause(pair)),
  resume: forEach('resumed', (copyServices, pair) => copyServices.resume(pair)),
  'set-revertible': forEach('made revertible', (copyServices, pair) =>
    copyServices.setRevertible(pair),
  ),
  commit: forEach('committed', (copyServices, pair) => copyServices.commit(pair)),
  revert: forEach('reverted', (copyServices, pair) => copyServices.revert(pair)),

  'consistency-created': async ({ lss }, { copyServices }) => {
    const views = copyServices.unfreeze(lss);
    const expired = views.flatMap((view) => view.expired);
    if (expired.length > 0) {
      throw new FlashlunError(
        'FC_FREEZE_EXPIRED',
        `the time limit had thawed ${expired.join(', ')} before: the copies are not one point in ` +
          'time. Establish the group again.',
      );
    }
    const held = views.map(({ frozenMs, lss: id, released }) =>
      released.length === 0
        ? `LSS ${id}: nothing was frozen`
        : `LSS ${id}: ${released.length} sources held for ${(frozenMs / 1000).toFixed(3)} s`,
    );
    return held.join('; ');
  },

  group: async ({ tasks }, { runMember }) => {
    const outcomes: string[] = [];
    for (const name of tasks) {
      try {
        outcomes.push(`${name}: ${await runMember(name)}`);
      } catch (error) {
        throw withContext(error, `task ${name} of the group failed`, outcomes);
      }
    }
    return outcomes.join('; ');
  },
};

/** Whether there was something to withdraw: scripts withdraw yesterday's copy (ess.md 3.7). */
async function tryWithdraw(
  copyServices: CopyServices,
  pair: VolumePair,
  complete: boolean,
): Promise<boolean> {
  try {
    await copyServices.withdraw(pair, { complete });
    return true;
  } catch (error) {
    if (error instanceof FlashlunError && error.code === 'RELATIONSHIP_NOT_FOUND') return false;
    throw error;
  }
}

/** All relationships are there before the first one is changed. */
function forEach(
  done: string,
  act: (copyServices: CopyServices, pair: VolumePair, options: TaskOptions) => Promise<unknown>,
): Verb {
  return async ({ options, pairs }, { copyServices }) => {
    for (const pair of pairs) copyServices.show(pair);
    const names = await inTurn(pairs, done, async (pair) => {
      await act(copyServices, pair, options);
      return true;
    });
    return `${done} ${names.join(', ')}`;
  };
}

/** One pair after the other; a failure says what was done before it. */
async function inTurn(
  pairs: readonly VolumePair[],
  done: string,
  act: (pair: VolumePair) => Promise<boolean>,
): Promise<string[]> {
  const names: string[] = [];
  for (const pair of pairs) {
    try {
      if (await act(pair)) names.push(nameOf(pair));
    } catch (error) {
      throw withContext(error, '', names.length === 0 ? [] : [`${done} ${names.join(', ')}`]);
    }
  }
  return names;
}

function withContext(error: unknown, where: string, before: readonly string[]): unknown {
  if (!(error instanceof FlashlunError)) return error;
  const first = where === '' ? '' : `${where}: `;
  const last = before.length === 0 ? '' : ` Before that: ${before.join('; ')}.`;
  if (first === '' && last === '') return error;
  const { details } = error;
  const options = { cause: error, ...(details === undefined ? {} : { details }) };
  return new FlashlunError(error.code, `${first}${error.message}${last}`, options);
}

function nameOf({ source, target }: VolumePair): string {
  return `${source}:${target}`;
}
