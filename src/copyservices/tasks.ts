/**
 * Saved tasks: what the ESS's Task Wizard stores under a name and `rsExecuteTask` runs.
 *
 * Volumes are checked and stored by id when the task is saved, the rules of the operation when it
 * runs, because they depend on what exists then. What a type takes is data (base/task-types.ts),
 * what it does one function (task-verbs.ts).
 */

import type { StorageArray } from '../array/storage-array.js';
import { FlashlunError } from '../base/errors.js';
import type { VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { TaskOptions, TaskType } from '../base/task-types.js';
import type { TaskRecord, TaskRepository, TaskRunRecord, TaskStatus } from '../metadata/tasks.js';
import type { CopyServices } from './copy-services.js';
import { canonicalWork, checkGroup, checkName, isTaskName } from './task-checks.js';
import { TASK_VERBS, type VerbContext, type Work } from './task-verbs.js';

export interface TaskRunView {
  readonly status: TaskStatus;
  readonly message: string;
  readonly startedAt: string;
  readonly finishedAt: string;
  /** `user admin`, `schedule nightly`, `group G`; empty for runs of earlier versions. */
  readonly startedBy: string;
}

export interface TaskView {
  readonly name: string;
  readonly type: TaskType;
  readonly pairs: VolumePair[];
  readonly tasks: string[];
  readonly lss: string[];
  readonly options: TaskOptions;
  readonly description: string;
  readonly createdAt: string;
  readonly lastRun: TaskRunView | null;
}

/** What is done, without a name. */
export interface NewWork {
  readonly type: TaskType;
  readonly pairs?: readonly VolumePair[] | undefined;
  readonly tasks?: readonly string[] | undefined;
  readonly lss?: readonly string[] | undefined;
  readonly options?: TaskOptions | undefined;
}

export interface NewTask extends NewWork {
  readonly name: string;
  readonly description?: string | undefined;
}

/** Whether something else needs a task: `schedule nightly`. */
export type TaskUser = (name: string) => string | undefined;

export class TaskService {
  readonly #tasks;
  readonly #array;
  readonly #copyServices;
  readonly #log;
  readonly #users: TaskUser[] = [];

  constructor(tasks: TaskRepository, array: StorageArray, copyServices: CopyServices, log: Logger) {
    this.#tasks = tasks;
    this.#array = array;
    this.#copyServices = copyServices;
    this.#log = log;
    this.#users.push((name) => {
      const group = tasks.list().find((task) => task.tasks.includes(name));
      return group === undefined ? undefined : `group ${group.name}`;
    });
  }

  /** Who else may need a task, asked before one is deleted. */
  addUser(user: TaskUser): void {
    this.#users.push(user);
  }

  list(): TaskView[] {
    return this.#tasks.list().map((task) => this.#view(task));
  }

  /** @throws FlashlunError TASK_NOT_FOUND */
  get(name: string): TaskView {
    return this.#view(this.#record(name));
  }

  /** The last results, the newest first. @throws FlashlunError TASK_NOT_FOUND */
  history(name: string): TaskRunView[] {
    return this.#tasks.runs(this.#record(name).name, LIMITS.runsPerTask).map(runView);
  }

  /**
   * @throws FlashlunError INVALID_ARGUMENT, VOLUME_NOT_FOUND, FC_SAME_VOLUME, TASK_NOT_FOUND (of a
   *   group), TASK_EXISTS, LIMIT_REACHED
   */
  create(request: NewTask): TaskView {
    this.import([request], false);
    return this.get(request.name);
  }

  /**
   * Saves several tasks, all or none; they may be members of groups among them.
   *
   * @param replace tasks of these names that exist are replaced and keep their results; otherwise
   *   they are a refusal
   * @throws FlashlunError as create
   */
  import(requests: readonly NewTask[], replace: boolean): void {
    const records: TaskRecord[] = [];
    const names = new Set<string>();
    for (const request of requests) {
      checkName(request.name);
      if (names.has(request.name)) {
        throw new FlashlunError(
          'INVALID_ARGUMENT',
          `task '${request.name}' stands in the request twice. Leave one out.`,
        );
      }
      names.add(request.name);
      if (!replace) this.#refuseExisting(request.name);
      const work = canonicalWork(request.type, request, this.#array);
      const { name, type, description = '' } = request;
      records.push({ name, type, ...work, description, createdMs: Date.now() });
    }
    const types = new Map(this.#tasks.list().map(({ name, type }) => [name, type]));
    for (const { name, type } of records) types.set(name, type);
    this.#checkCount(types.size);
    for (const record of records) checkGroup(record, types);
    this.#checkGroupsStay(records);
    this.#tasks.put(records);
    this.#log.info({ tasks: [...names], replace }, 'tasks saved');
  }

  /** @throws FlashlunError TASK_NOT_FOUND, TASK_IN_USE */
  delete(name: string): void {
    this.#record(name);
    const user = this.#users.map((ask) => ask(name)).find((found) => found !== undefined);
    if (user !== undefined) {
      throw new FlashlunError(
        'TASK_IN_USE',
        `delete of task ${name} refused: ${user} runs it. Delete that first.`,
        { details: { task: name, user } },
      );
    }
    this.#tasks.delete(name);
    this.#log.info({ task: name }, 'task deleted');
  }

  /**
   * Runs a task and keeps its result. An establish is all pairs or none; of other types a failure
   * says what was done before it.
   *
   * @throws FlashlunError TASK_NOT_FOUND, or what refused the operation; the result is kept too
   */
  async run(name: string, startedBy: string): Promise<TaskRunView & { readonly name: string }> {
    const task = this.#record(name);
    const startedMs = Date.now();
    try {
      const message = await TASK_VERBS[task.type](task, this.#context(`group ${name}`));
      return {
        name,
        ...this.#finish(name, { status: 'completed', message, startedMs, startedBy }),
      };
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#finish(name, { status: 'failed', message, startedMs, startedBy });
      throw error;
    }
  }

  /**
   * Does what a task would do, without one: "run now" of the Task Wizard.
   *
   * @throws FlashlunError as create and run
   */
  async runNow(request: NewWork, startedBy: string): Promise<TaskRunView> {
    const work: Work = canonicalWork(request.type, request, this.#array);
    const types = new Map(this.#tasks.list().map(({ name, type }) => [name, type]));
    checkGroup({ name: 'run now', type: request.type, tasks: work.tasks }, types);
    const startedMs = Date.now();
    const message = await TASK_VERBS[request.type](work, this.#context('run now'));
    const run = { status: 'completed', message, startedMs, startedBy } as const;
    this.#log.info({ type: request.type, startedBy, message }, 'task ran without being saved');
    return runView({ ...run, finishedMs: Date.now() });
  }

  #context(group: string): VerbContext {
    return {
      copyServices: this.#copyServices,
      runMember: async (member) => (await this.run(member, group)).message,
    };
  }

  #finish(name: string, run: Omit<TaskRunRecord, 'finishedMs'>): TaskRunView {
    const record = { ...run, finishedMs: Date.now() };
    this.#tasks.addRun(name, record);
    const { status, message, startedBy } = run;
    this.#log.info({ task: name, status, message, startedBy }, 'task ran');
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

  #refuseExisting(name: string): void {
    if (this.#tasks.get(name) === undefined) return;
    throw new FlashlunError(
      'TASK_EXISTS',
      `task '${name}' refused: there is one of that name. Delete it or choose another.`,
      { details: { task: name } },
    );
  }

  #checkCount(count: number): void {
    if (count <= LIMITS.tasks) return;
    throw new FlashlunError(
      'LIMIT_REACHED',
      `refused: there would be ${count} tasks, and ${LIMITS.tasks} are the most. Delete some.`,
    );
  }

  /** A task that an existing group runs cannot become a group itself. */
  #checkGroupsStay(records: readonly TaskRecord[]): void {
    const replaced = new Set(records.map(({ name }) => name));
    const groups = new Set(records.filter(({ type }) => type === 'group').map(({ name }) => name));
    for (const group of this.#tasks.list()) {
      const member = group.tasks.find((name) => groups.has(name));
      if (member === undefined || replaced.has(group.name)) continue;
      throw new FlashlunError(
        'TASK_IN_USE',
        `task ${member} refused: group ${group.name} runs it, and a group cannot run a group.`,
        { details: { task: member, user: `group ${group.name}` } },
      );
    }
  }

  #view(task: TaskRecord): TaskView {
    const { name, type, pairs, tasks, lss, options, description, createdMs } = task;
    const lastRun = this.#tasks.lastRun(name);
    return {
      name,
      type,
      pairs: [...pairs],
      tasks: [...tasks],
      lss: [...lss],
      options,
      description,
      createdAt: new Date(createdMs).toISOString(),
      lastRun: lastRun === undefined ? null : runView(lastRun),
    };
  }
}

function runView({ startedMs, finishedMs, ...run }: TaskRunRecord): TaskRunView {
  const startedAt = new Date(startedMs).toISOString();
  return { ...run, startedAt, finishedAt: new Date(finishedMs).toISOString() };
}
