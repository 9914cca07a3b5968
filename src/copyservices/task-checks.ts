/** What a task may be, before it is saved. */

import type { StorageArray } from '../array/storage-array.js';
import { FlashlunError } from '../base/errors.js';
import { formatLss, formatVolumeId, parseLss, type VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import {
  TASK_TYPES,
  type TaskOptions,
  type TaskType,
  type TaskTypeFacts,
} from '../base/task-types.js';
import type { TaskRecord } from '../metadata/tasks.js';
import { checkOptions } from './copy-options.js';
import type { Work } from './task-verbs.js';

/** Task names are arguments of rsExecuteTask, so without blanks; no leading minus or slash. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

export function isTaskName(text: string): boolean {
  return NAME.test(text) && text.length <= LIMITS.taskNameBytes;
}

/** @throws FlashlunError INVALID_ARGUMENT */
export function checkName(name: string): void {
  if (isTaskName(name)) return;
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    'task name refused: use letters, digits, underscore, dot and minus, ' +
      `at most ${LIMITS.taskNameBytes}, for example VMWare_W2K_FC.`,
  );
}

interface Given {
  readonly pairs?: readonly VolumePair[] | undefined;
  readonly tasks?: readonly string[] | undefined;
  readonly lss?: readonly string[] | undefined;
  readonly options?: TaskOptions | undefined;
}

/**
 * What a task of this type works on, volumes by id.
 *
 * @throws FlashlunError INVALID_ARGUMENT, VOLUME_NOT_FOUND, FC_SAME_VOLUME
 */
export function canonicalWork(
  type: TaskType,
  given: Given,
  array: Pick<StorageArray, 'state'>,
): Work {
  const facts: TaskTypeFacts = TASK_TYPES[type];
  const { pairs = [], tasks = [], lss = [], options = {} } = given;
  const subjects = { pairs, tasks, lss };
  const most = MOST[facts.takes];
  const count = subjects[facts.takes].length;
  if (count === 0 || count > most || count !== pairs.length + tasks.length + lss.length) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `a task of type ${type} takes 1 to ${most} ${facts.takes} and nothing else.`,
    );
  }
  const entries = Object.entries(options) as [keyof TaskOptions, unknown][];
  const kept = entries.filter(([, value]) => value !== undefined && value !== false);
  const stranger = kept.find(([name]) => !facts.options.includes(name));
  if (stranger !== undefined) {
    throw new FlashlunError(
      'INVALID_ARGUMENT',
      `option ${stranger[0]} does not belong to a task of type ${type}. Leave it out.`,
    );
  }
  const work = { options: Object.fromEntries(kept) as TaskOptions, tasks };
  checkOptions(work.options);
  const ids = pairs.map((pair) => canonicalPair(pair, array));
  return { ...work, pairs: ids, lss: lss.map((each) => formatLss(parseLss(each))) };
}

/** Of one task; a machine has 16 LSSs for hosts. */
const MOST = { pairs: LIMITS.pairsPerEstablish, tasks: LIMITS.tasksPerGroup, lss: 16 } as const;

/**
 * A group runs tasks that exist and are no groups: so it ends.
 *
 * @param types of all tasks, by name
 * @throws FlashlunError TASK_NOT_FOUND, INVALID_ARGUMENT
 */
export function checkGroup(
  { name, tasks, type }: Pick<TaskRecord, 'name' | 'tasks' | 'type'>,
  types: ReadonlyMap<string, TaskType>,
): void {
  if (TASK_TYPES[type].takes !== 'tasks') return;
  for (const member of tasks) {
    const found = types.get(member);
    if (found === undefined) {
      const shown = isTaskName(member) ? `task '${member}'` : 'such task';
      throw new FlashlunError(
        'TASK_NOT_FOUND',
        `group ${name} refused: there is no ${shown}. Save it first; case matters in names.`,
      );
    }
    if (TASK_TYPES[found].takes === 'tasks') {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        `group ${name} refused: ${member} is a group itself. Name its tasks instead.`,
      );
    }
  }
}

function canonicalPair(pair: VolumePair, array: Pick<StorageArray, 'state'>): VolumePair {
  const source = formatVolumeId(array.state(pair.source).id);
  const target = formatVolumeId(array.state(pair.target).id);
  if (source === target) {
    throw new FlashlunError(
      'FC_SAME_VOLUME',
      `${source}:${target} refused: source and target are the same volume. ` +
        'Choose another target.',
    );
  }
  return { source, target };
}
