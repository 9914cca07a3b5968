/** Schedules as people keep them: made, listed, switched on and off, deleted. */

import type { StorageArray } from '../array/storage-array.js';
import { compileCron, nextTime, parseCron } from '../base/cron.js';
import { FlashlunError } from '../base/errors.js';
import { formatVolumeId, type VolumePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import { shorten } from '../base/shorten.js';
import { COPY_OPTION_NAMES, type TaskOptions } from '../base/task-types.js';
import type {
  CopyRepository,
  MissedPolicy,
  Rotation,
  ScheduleRecord,
  ScheduleRepository,
  ScheduleRunRecord,
  ScheduleRunRepository,
  ScheduleRunStatus,
} from '../metadata/schedules.js';
import { checkOptions } from './copy-options.js';
import { isTaskName } from './task-checks.js';
import type { TaskService } from './tasks.js';

export interface ScheduleRunView {
  /** Null when somebody asked for it. */
  readonly dueAt: string | null;
  readonly startedAt: string;
  readonly finishedAt: string | null;
  readonly status: ScheduleRunStatus;
  readonly message: string;
}

export interface ScheduleView {
  readonly name: string;
  readonly cron: string;
  readonly timeZone: string;
  readonly enabled: boolean;
  readonly missed: MissedPolicy;
  readonly task: string | null;
  readonly rotation: {
    sources: string[];
    targetSets: string[][];
    options: TaskOptions;
    keep: number;
    lockSeconds: number;
  } | null;
  readonly createdAt: string;
  readonly nextRunAt: string | null;
  readonly lastRun: ScheduleRunView | null;
  /** Of a rotation, the newest first. */
  readonly copies: { pairs: VolumePair[]; establishedAt: string; lockedUntil: string | null }[];
}

export interface NewSchedule {
  readonly name: string;
  readonly cron: string;
  /** Default: UTC. */
  readonly timeZone?: string | undefined;
  readonly enabled?: boolean | undefined;
  readonly missed?: MissedPolicy | undefined;
  readonly task?: string | undefined;
  readonly rotation?: NewRotation | undefined;
}

export interface NewRotation {
  readonly sources: readonly string[];
  readonly targetSets: readonly (readonly string[])[];
  readonly options?: TaskOptions | undefined;
  readonly keep?: number | undefined;
  readonly lockSeconds?: number | undefined;
}

export interface SchedulesOptions {
  readonly schedules: ScheduleRepository;
  readonly runs: ScheduleRunRepository;
  readonly copies: CopyRepository;
  readonly tasks: TaskService;
  readonly array: Pick<StorageArray, 'state'>;
  readonly log: Logger;
  readonly now?: () => number;
}

export class Schedules {
  readonly #parts: SchedulesOptions;
  readonly #now: () => number;
  #onChange: () => void = () => undefined;

  constructor(options: SchedulesOptions) {
    this.#parts = options;
    this.#now = options.now ?? Date.now;
    options.tasks.addUser((task) => {
      const user = options.schedules.list().find((schedule) => schedule.task === task);
      return user === undefined ? undefined : `schedule ${user.name}`;
    });
  }

  /** Who is told that times may have changed; one listener. */
  onChange(listener: () => void): void {
    this.#onChange = listener;
  }

  list(): ScheduleView[] {
    return this.#parts.schedules.list().map((schedule) => this.#view(schedule));
  }

  /** @throws FlashlunError SCHEDULE_NOT_FOUND */
  get(name: string): ScheduleView {
    return this.#view(this.record(name));
  }

  /** @throws FlashlunError SCHEDULE_NOT_FOUND */
  record(name: string): ScheduleRecord {
    const schedule = this.#parts.schedules.get(name);
    if (schedule !== undefined) return schedule;
    throw new FlashlunError(
      'SCHEDULE_NOT_FOUND',
      `there is no schedule '${shorten(name)}'. "flashlun schedule list" shows those there are.`,
    );
  }

  /** The last runs, the newest first. @throws FlashlunError SCHEDULE_NOT_FOUND */
  history(name: string): ScheduleRunView[] {
    return this.#parts.runs.list(this.record(name).name, LIMITS.runsPerTask).map(runView);
  }

  /**
   * @throws FlashlunError INVALID_ARGUMENT, ALREADY_EXISTS, LIMIT_REACHED, TASK_NOT_FOUND,
   *   VOLUME_NOT_FOUND, FC_SAME_VOLUME
   */
  create(request: NewSchedule, by: string): ScheduleView {
    const { name } = request;
    this.#checkNew(name);
    const timeZone = request.timeZone ?? 'UTC';
    const cron = parseCron(request.cron, timeZone);
    if ((request.task === undefined) === (request.rotation === undefined)) {
      throw invalid(name, 'it runs either a task or a rotation of copies');
    }
    if (request.task !== undefined) this.#parts.tasks.get(request.task);
    const rotation =
      request.rotation === undefined ? undefined : this.#rotation(name, request.rotation);
    const nowMs = this.#now();
    this.#parts.schedules.add({
      name,
      cron: cron.text,
      timeZone,
      enabled: request.enabled ?? true,
      missed: request.missed ?? 'once',
      task: request.task,
      rotation,
      createdMs: nowMs,
      doneUntilMs: nowMs,
    });
    this.#parts.log.info(
      { audit: true, user: by, schedule: name, cron: cron.text },
      'schedule made',
    );
    this.#onChange();
    return this.get(name);
  }

  /** From now on; times that passed while it was off are not made up for. */
  setEnabled(name: string, enabled: boolean, by: string): ScheduleView {
    this.record(name);
    this.#parts.schedules.setEnabled(name, enabled, this.#now());
    this.#parts.log.info({ audit: true, user: by, schedule: name, enabled }, 'schedule switched');
    this.#onChange();
    return this.get(name);
  }

  /**
   * Also forgets which copies it made; their relationships stay.
   *
   * @throws FlashlunError SCHEDULE_NOT_FOUND, COPY_LOCKED
   */
  delete(name: string, by: string): void {
    const { copies } = this.get(name);
    const locked = copies.find(({ lockedUntil }) => lockedUntil !== null);
    if (locked !== undefined) {
      throw new FlashlunError(
        'COPY_LOCKED',
        `delete of schedule ${name} refused: a copy of it is locked until ${locked.lockedUntil}. ` +
          `Switch it off until then: flashlun schedule disable ${name}`,
        { details: { schedule: name, lockedUntil: locked.lockedUntil } },
      );
    }
    this.#parts.schedules.delete(name);
    this.#parts.log.info({ audit: true, user: by, schedule: name }, 'schedule deleted');
    this.#onChange();
  }

  #checkNew(name: string): void {
    if (!isTaskName(name)) {
      throw new FlashlunError(
        'INVALID_ARGUMENT',
        'schedule name refused: use letters, digits, underscore, dot and minus, ' +
          `at most ${LIMITS.taskNameBytes}, for example nightly.`,
      );
    }
    const { schedules } = this.#parts;
    if (schedules.get(name) !== undefined) {
      throw new FlashlunError(
        'ALREADY_EXISTS',
        `schedule '${name}' refused: there is one of that name. Delete it or choose another.`,
        { details: { schedule: name } },
      );
    }
    if (schedules.list().length < LIMITS.schedules) return;
    throw new FlashlunError(
      'LIMIT_REACHED',
      `schedule '${name}' refused: there are ${LIMITS.schedules}, the most there can be.`,
    );
  }

  #rotation(name: string, given: NewRotation): Rotation {
    const idOf = (ref: string): string => formatVolumeId(this.#parts.array.state(ref).id);
    const sources = given.sources.map(idOf);
    const targetSets = given.targetSets.map((set) => set.map(idOf));
    const { keep = targetSets.length, lockSeconds = 0, options = {} } = given;
    const volumes = [...sources, ...targetSets.flat()];
    if (sources.length === 0 || targetSets.length === 0)
      throw invalid(name, 'no sources or targets');
    const uneven = targetSets.find((set) => set.length !== sources.length);
    if (uneven !== undefined) {
      throw invalid(name, `each target set needs ${sources.length} volumes, one for each source`);
    }
    if (new Set(volumes).size !== volumes.length) {
      throw invalid(name, 'a volume stands in it twice');
    }
    if (!Number.isInteger(keep) || keep < 1 || keep > targetSets.length) {
      throw invalid(
        name,
        `keep 1 to ${targetSets.length} copies, as many as there are target sets`,
      );
    }
    const inRange = lockSeconds >= 0 && lockSeconds <= LIMITS.maxLockSeconds;
    if (!Number.isInteger(lockSeconds) || !inRange) {
      throw invalid(name, `lock for 0 to ${LIMITS.maxLockSeconds} seconds`);
    }
    const stranger = Object.keys(options).find(
      (each) => !COPY_OPTION_NAMES.includes(each as keyof TaskOptions),
    );
    if (stranger !== undefined) throw invalid(name, `option ${stranger} is not for rotations`);
    checkOptions(options);
    return { sources, targetSets, options, keep, lockSeconds };
  }

  #view(schedule: ScheduleRecord): ScheduleView {
    const { name, timeZone, enabled, missed, task, rotation } = schedule;
    const next = enabled
      ? nextTime(compileCron(schedule.cron, timeZone), schedule.doneUntilMs)
      : undefined;
    const [last] = this.#parts.runs.list(name, 1);
    const nowMs = this.#now();
    const copies = this.#parts.copies.list().filter((copy) => copy.schedule === name);
    return {
      ...{ name, timeZone, enabled, missed, cron: schedule.cron, task: task ?? null },
      rotation:
        rotation === undefined
          ? null
          : {
              ...rotation,
              sources: [...rotation.sources],
              targetSets: rotation.targetSets.map((set) => [...set]),
            },
      createdAt: isoTime(schedule.createdMs),
      nextRunAt: next === undefined ? null : isoTime(next),
      lastRun: last === undefined ? null : runView(last),
      copies: copies.map(({ lockedUntilMs, pairs, t0Ms }) => ({
        pairs: [...pairs],
        establishedAt: isoTime(t0Ms),
        lockedUntil: lockedUntilMs > nowMs ? isoTime(lockedUntilMs) : null,
      })),
    };
  }
}

function invalid(name: string, reason: string): FlashlunError {
  return new FlashlunError('INVALID_ARGUMENT', `schedule '${name}' refused: ${reason}.`);
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}

function runView(run: ScheduleRunRecord): ScheduleRunView {
  const { dueMs, finishedMs, message, startedMs, status } = run;
  return {
    dueAt: dueMs === null ? null : isoTime(dueMs),
    startedAt: isoTime(startedMs),
    finishedAt: finishedMs === null ? null : isoTime(finishedMs),
    status,
    message,
  };
}
