/**
 * Runs schedules when they are due.
 *
 * Each schedule has a time up to which everything has been dealt with; it is moved on, durably,
 * before a run begins. So no time is run twice, whatever kills the server, and those that passed
 * while nothing ran (server off, machine asleep, clock put forward) are seen as missed: they are
 * made up for by one run, or skipped, as the schedule says. When the clock was put back, times that
 * were dealt with are not run again, unless it was put back far: then the earlier clock was wrong.
 *
 * Runs on the main thread, with one timer.
 */

import { compileCron, type Cron, nextTime } from '../base/cron.js';
import { FlashlunError, fromNative } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type {
  CopyRepository,
  ScheduleRecord,
  ScheduleRepository,
  ScheduleRunRepository,
  ScheduleRunStatus,
} from '../metadata/schedules.js';
import type { CopyServices } from './copy-services.js';
import { rotate, settleCopies } from './rotation.js';
import type { Schedules, ScheduleRunView } from './schedules.js';
import type { TaskService } from './tasks.js';

export interface SchedulerOptions {
  readonly schedules: Schedules;
  readonly records: ScheduleRepository;
  readonly runs: ScheduleRunRepository;
  readonly copies: CopyRepository;
  readonly tasks: TaskService;
  readonly copyServices: CopyServices;
  readonly log: Logger;
  readonly now?: () => number;
}

/** Times that are due of one schedule. */
interface Due {
  /** The last of them. */
  readonly atMs: number;
  readonly count: number;
}

export class Scheduler {
  readonly #parts: SchedulerOptions & { readonly now: () => number };
  /** By name, what runs now. */
  readonly #running = new Map<string, Promise<void>>();
  /** Undefined while it does not look at the time. */
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SchedulerOptions) {
    this.#parts = { ...options, now: options.now ?? Date.now };
    options.schedules.onChange(() => this.#wait());
  }

  /** Settles what an earlier process left behind, and begins to look at the time. */
  start(): void {
    const { log, records, runs } = this.#parts;
    const interrupted = runs.interrupt('the server ended while it ran');
    if (interrupted > 0) log.warn({ runs: interrupted }, 'scheduled runs were interrupted');
    settleCopies((name) => records.get(name)?.rotation?.lockSeconds ?? 0, this.#parts);
    this.resume();
  }

  /** Starts nothing more and waits for what runs. */
  async pause(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    await Promise.all(this.#running.values());
  }

  /** Goes on after a pause. */
  resume(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#tick(), 0);
  }

  /**
   * Runs a schedule now, whatever its times and whether it is switched on.
   *
   * @throws FlashlunError SCHEDULE_NOT_FOUND, SCHEDULE_RUNNING, or what refused the work; the
   *   result is kept too
   */
  async runNow(name: string): Promise<ScheduleRunView> {
    const schedule = this.#parts.schedules.record(name);
    if (this.#running.has(name)) {
      throw new FlashlunError(
        'SCHEDULE_RUNNING',
        `run of schedule ${name} refused: it runs already. Wait for its end.`,
      );
    }
    const failures: FlashlunError[] = [];
    await this.#run(schedule, null, '', (error) => failures.push(fromNative(error, name)));
    if (failures[0] !== undefined) throw failures[0];
    const [last] = this.#parts.schedules.history(name);
    if (last === undefined) throw new FlashlunError('SCHEDULE_NOT_FOUND', `${name} was deleted`);
    return last;
  }

  /** Deals with everything that is due; for the timer, and for tests. */
  tick(): void {
    for (const schedule of this.#parts.records.list()) {
      if (schedule.enabled) this.#look(schedule);
    }
  }

  #tick(): void {
    try {
      this.tick();
    } catch (error) {
      // A full disk under SQLite; the next look may succeed, and nothing was marked as done.
      this.#parts.log.error({ err: error }, 'looking at the schedules failed');
    }
    this.#wait();
  }

  /** Until the next time, but not long: the clock may be changed, or the machine sleep. */
  #wait(): void {
    if (this.#timer === undefined) return;
    clearTimeout(this.#timer);
    const nowMs = this.#parts.now();
    const times = this.#parts.records
      .list()
      .filter(({ enabled }) => enabled)
      .map((schedule) => nextTime(cronOf(schedule), schedule.doneUntilMs) ?? Infinity);
    const untilNext = Math.min(...times) - nowMs;
    const waitMs = Math.min(Math.max(untilNext, LIMITS.scheduleLookMs), LIMITS.scheduleWatchMs);
    this.#timer = setTimeout(() => this.#tick(), waitMs);
    this.#timer.unref();
  }

  #look(schedule: ScheduleRecord): void {
    const { log, now, records, runs } = this.#parts;
    const nowMs = now();
    const { name } = schedule;
    if (schedule.doneUntilMs > nowMs + LIMITS.clockSlackMs) {
      log.warn({ schedule: name }, 'the clock was put back far: the schedule goes on from now');
      records.setDone(name, nowMs);
      return;
    }
    const due = dueTimes(cronOf(schedule), schedule.doneUntilMs, nowMs);
    if (due === undefined) return;
    records.setDone(name, due.atMs);
    const isLate = nowMs - due.atMs > LIMITS.scheduleLateMs;
    const missed = isLate ? due.count : due.count - 1;
    const words = missed === 0 ? '' : `${missed} earlier ${missed === 1 ? 'time' : 'times'} missed`;
    const skip = (reason: string): void => {
      const id = runs.begin(name, due.atMs, nowMs);
      runs.finish(id, 'skipped', reason, nowMs);
      log.warn({ schedule: name, reason }, 'scheduled run skipped');
    };
    if (isLate && schedule.missed === 'skip') skip(words);
    else if (this.#running.has(name)) skip('the run before still ran');
    else void this.#run(schedule, due.atMs, words);
  }

  /** Never rejects; what went wrong is in the result. */
  #run(
    schedule: ScheduleRecord,
    dueMs: number | null,
    note: string,
    onError: (error: unknown) => void = () => undefined,
  ): Promise<void> {
    const { log, now, runs } = this.#parts;
    const { name } = schedule;
    const id = runs.begin(name, dueMs, now());
    const finish = (status: ScheduleRunStatus, outcome: string): void => {
      const message = note === '' ? outcome : `${outcome} (${note})`;
      log[status === 'failed' ? 'error' : 'info']({ schedule: name, message }, 'scheduled run');
      runs.finish(id, status, message, now());
    };
    const work = async (): Promise<void> => {
      try {
        finish('completed', await this.#perform(schedule));
      } catch (error) {
        onError(error);
        finish('failed', error instanceof Error ? error.message : String(error));
      }
    };
    const running = work()
      .catch((error: unknown) => {
        log.error({ schedule: name, err: error }, 'the result of a run could not be kept');
      })
      .finally(() => this.#running.delete(name));
    this.#running.set(name, running);
    return running;
  }

  async #perform({ name, rotation, task }: ScheduleRecord): Promise<string> {
    if (rotation !== undefined) return rotate(name, rotation, this.#parts);
    const { message } = await this.#parts.tasks.run(task ?? '', `schedule ${name}`);
    return message;
  }
}

function cronOf({ cron, timeZone }: ScheduleRecord): Cron {
  return compileCron(cron, timeZone);
}

/** Times after `doneUntilMs` up to now; they are counted to a limit. */
function dueTimes(cron: Cron, doneUntilMs: number, nowMs: number): Due | undefined {
  let last: number | undefined;
  let count = 0;
  let next = nextTime(cron, doneUntilMs);
  while (next !== undefined && next <= nowMs) {
    last = next;
    count += 1;
    // The last one of very many is found from the end.
    const from = count < LIMITS.missedRunsCounted ? next : Math.max(next, nowMs - DAY_MS);
    next = nextTime(cron, from);
  }
  return last === undefined ? undefined : { atMs: last, count };
}

const DAY_MS = 24 * 60 * 60 * 1000;
