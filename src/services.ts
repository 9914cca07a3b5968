/** The control plane on an open pool: what it is made of, and how it is put together. */

import { Auth } from './api/auth.js';
import type { ChangeQueue } from './array/change-queue.js';
import { VolumeFreezes } from './array/freeze.js';
import { Hosts } from './array/hosts.js';
import { Pools } from './array/pools.js';
import { StorageArray } from './array/storage-array.js';
import { VolumeAccess } from './array/volume-access.js';
import { VolumeRates } from './array/volume-rates.js';
import { formatVolumeId } from './base/ids.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import type { Config } from './config.js';
import type { BackgroundCopy } from './copyservices/background-copy.js';
import type { ConsistencyGroups } from './copyservices/consistency-groups.js';
import { CopyLocks } from './copyservices/copy-locks.js';
import type { CopyServices } from './copyservices/copy-services.js';
import { HostPriming } from './copyservices/host-priming.js';
import { openCopyServices } from './copyservices/open.js';
import { Registration } from './copyservices/registration.js';
import { Scheduler } from './copyservices/scheduler.js';
import { Schedules } from './copyservices/schedules.js';
import { Scrubs } from './copyservices/scrubs.js';
import type { Connections } from './copyservices/target-clients.js';
import { TaskService } from './copyservices/tasks.js';
import type { Engine } from './engine/types.js';
import { CounterRepository } from './metadata/counters.js';
import type { MetadataDatabase } from './metadata/database.js';
import { AccessRepository, HostRepository, RateRepository } from './metadata/hosts.js';
import { CopyRepository, ScheduleRepository, ScheduleRunRepository } from './metadata/schedules.js';
import { TaskRepository } from './metadata/tasks.js';
import { SessionRepository, UserRepository } from './metadata/users.js';

/** Everything of the control plane that works on the open pool. */
export interface Services {
  readonly array: StorageArray;
  readonly access: VolumeAccess;
  readonly rates: VolumeRates;
  readonly freezes: VolumeFreezes;
  readonly pools: Pools;
  readonly backgroundCopy: BackgroundCopy;
  readonly copyServices: CopyServices;
  readonly groups: ConsistencyGroups;
  readonly scrubs: Scrubs;
  readonly tasks: TaskService;
  readonly schedules: Schedules;
  readonly scheduler: Scheduler;
  readonly registration: Registration;
  readonly priming: HostPriming;
  readonly auth: Auth;
}

/** What a stop has to undo. */
export type Step = readonly [name: string, undo: () => Promise<void> | void];

export interface ServiceOptions {
  readonly config: Config;
  readonly engine: Engine;
  readonly db: MetadataDatabase;
  readonly essSerial: string;
  readonly changes: ChangeQueue;
  readonly poolDir: string;
  readonly connections: Connections;
  readonly log: Logger;
  /** What is started is noted here. */
  readonly steps: Step[];
}

/** Makes the services, and starts those that work by themselves. */
export async function createServices(options: ServiceOptions): Promise<Services> {
  const { changes, config, db, engine, essSerial, log, poolDir, steps } = options;
  const array = new StorageArray(engine, essSerial, changes);
  const pools = new Pools({ engine, changes, log: log.child({ part: 'pools' }) });
  steps.push(['pool watch', pools.watch()]);
  const copyLog = log.child({ part: 'copyservices' });
  const scheduled = new CopyRepository(db);
  const locks = new CopyLocks(scheduled);
  array.mayDelete = (volumeId) => {
    locks.check([volumeId], `delete of ${formatVolumeId(volumeId)}`);
  };
  const copies = await openCopyServices({
    ...options,
    array,
    workerFile: new URL('./workers/background-copy.js', import.meta.url),
    bytesPerSecond: config.copyBytesPerSecond,
    activeCopies: config.activeCopies,
    strict: config.strict,
    locks,
    log: copyLog,
  });
  steps.push(['background copy', () => copies.close()]);
  const { copyServices } = copies;
  const scrubs = new Scrubs({
    array,
    poolDir,
    workerFile: new URL('./workers/verify.js', import.meta.url),
    bytesPerSecond: config.copyBytesPerSecond,
    log: log.child({ part: 'verify' }),
  });
  steps.push(['scrubs', () => scrubs.close()]);
  const common = { array, changes, log: log.child({ part: 'access' }) };
  const hosts = new Hosts(new HostRepository(db), common.log);
  const access = new VolumeAccess({ ...common, hosts, records: new AccessRepository(db) });
  const registration = new Registration(new CounterRepository(db));
  const taskRecords = new TaskRepository(db, LIMITS.runsPerTask);
  const tasks = new TaskService(taskRecords, array, copyServices, copyLog);
  const scheduling = createScheduling({ db, copies: scheduled, tasks, array, copyServices, log });
  steps.push(['schedules', () => scheduling.scheduler.pause()]);
  return {
    array,
    access,
    rates: new VolumeRates({ ...common, engine, records: new RateRepository(db) }),
    freezes: new VolumeFreezes(engine, array, changes),
    pools,
    backgroundCopy: copies.backgroundCopy,
    copyServices,
    groups: copies.groups,
    scrubs,
    tasks,
    ...scheduling,
    registration,
    priming: new HostPriming(registration, access),
    auth: new Auth({
      users: new UserRepository(db),
      sessions: new SessionRepository(db, LIMITS.sessions),
    }),
  };
}

/** Schedules, and who runs them; nothing runs before `start`. */
function createScheduling(parts: {
  readonly db: MetadataDatabase;
  readonly copies: CopyRepository;
  readonly tasks: TaskService;
  readonly array: StorageArray;
  readonly copyServices: CopyServices;
  readonly log: Logger;
}): Pick<Services, 'schedules' | 'scheduler'> {
  const { array, copies, copyServices, db, tasks } = parts;
  const log = parts.log.child({ part: 'schedules' });
  const records = new ScheduleRepository(db);
  const runs = new ScheduleRunRepository(db, LIMITS.runsPerTask);
  const schedules = new Schedules({ schedules: records, runs, copies, tasks, array, log });
  const common = { records, runs, copies, tasks, copyServices, log };
  return { schedules, scheduler: new Scheduler({ ...common, schedules }) };
}
