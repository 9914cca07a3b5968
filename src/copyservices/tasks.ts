/**
 * Saved tasks: what the ESS's Task Wizard stores under a name and `rsExecuteTask` runs.
 *
 * Volumes are checked and stored by id when the task is saved, the rules of the operation when it
 * runs, because they depend on what exists then.
 */

import type { StorageArray } from '../array/storage-array.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId, type VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type {
  TaskOptions,
  TaskRecord,
  TaskRepository,
  TaskRunRecord,
  TaskStatus,
  TaskType,
} from '../metadata/tasks.js';
import type { CopyServices } from './copy-services.js';

export interface TaskRunView {
  readonly status: TaskStatus;
  readonly message: string;
  readonly startedAt: string;
  readonly finishedAt: string;
}

export interface TaskView {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: VolumePair[];
  readonly options: TaskOptions;
  readonly description: string;
  readonly createdAt: string;
  readonly lastRun: TaskRunView | null;
}

export interface NewTask {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: readonly VolumePair[];
  readonly options: TaskOptions;
  readonly description: string;
}

/** Task names are arguments of rsExecuteTask, so without blanks; no leading minus or slash. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/;

export class TaskService {
  readonly #tasks;
  readonly #array;
  readonly #copyServices;
  readonly #log;

  constructor(tasks: TaskRepository, array: StorageArray, copyServices: CopyServices, log: Logger) {
    this.#tasks = tasks;
    this.#array = array;
    this.#copyServices = copyServices;
    this.#log = log;
  }

  list(): TaskView[] {
    return this.#tasks.list().map((task) => this.#view(task));
  }

  /** @throws FlashlunError TASK_NOT_FOUND */
  get(name: string): TaskView {
    return this.#view(this.#record(name));
  }

  /** @throws FlashlunError INVALID_ARGUMENT, VOLUME_NOT_FOUND, TASK_EXISTS, LIMIT_REACHED */
  create(request: NewTask): TaskView {
    this.#check(request);
    const pairs = request.pairs.map((pair) => this.#canonical(pair));
    this.#tasks.add({ ...request, pairs, createdMs: Date.now() });
    this.#log.info({ task: request.name, type: request.type }, 'task saved');
    return this.get(request.name);
  }

  /** @throws FlashlunError TASK_NOT_FOUND */
  delete(name: string): void {
    this.#record(name);
    this.#tasks.delete(name);
    this.#log.info({ task: name }, 'task deleted');
  }

  /**
   * Runs a task and keeps its result. An establish is all pairs or none. A withdraw of a
   * relationship that has ended already is no failure but a notice (ess.md 3.7): scripts withdraw
   * yesterday's copy before they make today's.
   *
   * @throws FlashlunError TASK_NOT_FOUND, or what refused the operation; the result is kept too
   */
  async run(name: string): Promise<TaskRunView & { readonly name: string }> {
    const task = this.#record(name);
    const startedMs = Date.now();
    try {
      const message = await this.#perform(task);
      return { name, ...this.#finish(name, { status: 'completed', message, startedMs }) };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#finish(name, { status: 'failed', message, startedMs });
      throw error;
    }
  }

  #perform(task: TaskRecord): Promise<string> {
    return task.type === 'establish' ? this.#establish(task) : this.#withdraw(task);
  }

  async #establish(task: TaskRecord): Promise<string> {
    const views = await this.#copyServices.establish({
      pairs: task.pairs,
      noCopy: task.options.noCopy,
    });
    return `established ${views.map((view) => `${view.id} (${view.state})`).join(', ')}`;
  }

  async #withdraw(task: TaskRecord): Promise<string> {
    const withdrawn: string[] = [];
    const ended: string[] = [];
    for (const pair of task.pairs) {
      const name = `${pair.source}:${pair.target}`;
      try {
        await this.#copyServices.withdraw(pair);
        withdrawn.push(name);
      } catch (error) {
        if (!(error instanceof FlashlunError) || error.code !== 'RELATIONSHIP_NOT_FOUND') {
          throw error;
        }
        ended.push(name);
      }
    }
    const parts: string[] = [];
    if (withdrawn.length > 0) parts.push(`withdrawn ${withdrawn.join(', ')}`);
    if (ended.length > 0) parts.push(`nothing to withdraw: ${ended.join(', ')} had ended already`);
    return parts.join('; ');
  }

  #finish(name: string, run: Omit<TaskRunRecord, 'finishedMs'>): TaskRunView {
    const record = { ...run, finishedMs: Date.now() };
    this.#tasks.addRun(name, record);
    this.#log.info({ task: name, status: run.status, message: run.message }, 'task ran');
    return runView(record);
  }

  #record(name: string): TaskRecord {
    const task = this.#tasks.get(name);
    if (task === undefined) {
      // What cannot be a name is not repeated: it could be long, or hold control characters.
      const shown = isTaskName(name) ? `task '${name}'` : 'such task';
      throw new FlashlunError(
        'TASK_NOT_FOUND',
        `there is no ${shown}. "flashlun task list" shows those there are; case matters in names.`,
      );
    }
    return task;
  }

  #check(request: NewTask): void {
    if (!isTaskName(request.name)) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        'task name refused: use letters, digits, underscore, dot and minus, ' +
          `at most ${LIMITS.taskNameBytes}, for example VMWare_W2K_FC.`,
      );
    }
    if (this.#tasks.get(request.name) !== undefined) {
      throw new FlashlunError(
        'TASK_EXISTS',
        `task '${request.name}' refused: there is one of that name. Delete it or choose another.`,
        { details: { task: request.name } },
      );
    }
    if (this.#tasks.count() >= LIMITS.tasks) {
      throw new FlashlunError(
        'LIMIT_REACHED',
        `task '${request.name}' refused: there are ${LIMITS.tasks} tasks, the most there can be. ` +
          'Delete some.',
      );
    }
  }

  #canonical(pair: VolumePair): VolumePair {
    const source = formatVolumeId(this.#array.state(pair.source).id);
    const target = formatVolumeId(this.#array.state(pair.target).id);
    if (source === target) {
      throw new FlashlunError(
        'FC_SAME_VOLUME',
        `${source}:${target} refused: source and target are the same volume. ` +
          'Choose another target.',
      );
    }
    return { source, target };
  }

  #view(task: TaskRecord): TaskView {
    const { name, type, pairs, options, description, createdMs } = task;
    const lastRun = this.#tasks.lastRun(name);
    return {
      name,
      type,
      pairs: [...pairs],
      options,
      description,
      createdAt: new Date(createdMs).toISOString(),
      lastRun: lastRun === undefined ? null : runView(lastRun),
    };
  }
}

function isTaskName(text: string): boolean {
  return NAME.test(text) && text.length <= LIMITS.taskNameBytes;
}

function runView(run: TaskRunRecord): TaskRunView {
  return {
    status: run.status,
    message: run.message,
    startedAt: new Date(run.startedMs).toISOString(),
    finishedAt: new Date(run.finishedMs).toISOString(),
  };
}
