/** The control plane on an open pool: what it is made of, and how it is put together. */

import { Auth } from './api/auth.js';
import type { ChangeQueue } from './array/change-queue.js';
import { VolumeFreezes } from './array/freeze.js';
import { Hosts } from './array/hosts.js';
import { Pools } from './array/pools.js';
import { StorageArray } from './array/storage-array.js';
import { VolumeAccess } from './array/volume-access.js';
import { VolumeRates } from './array/volume-rates.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import type { Config } from './config.js';
import { BackgroundCopy } from './copyservices/background-copy.js';
import { CopyServices } from './copyservices/copy-services.js';
import { Registration } from './copyservices/registration.js';
import { Scrubs } from './copyservices/scrubs.js';
import { TaskService } from './copyservices/tasks.js';
import type { Engine } from './engine/types.js';
import { CounterRepository } from './metadata/counters.js';
import type { MetadataDatabase } from './metadata/database.js';
import { AccessRepository, HostRepository, RateRepository } from './metadata/hosts.js';
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
  readonly scrubs: Scrubs;
  readonly tasks: TaskService;
  readonly registration: Registration;
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
  readonly log: Logger;
  /** What is started is noted here. */
  readonly steps: Step[];
}

/** Makes the services, and starts those that work by themselves. */
export function createServices(options: ServiceOptions): Services {
  const { changes, config, db, engine, essSerial, log, poolDir, steps } = options;
  const array = new StorageArray(engine, essSerial, changes);
  const pools = new Pools({ engine, changes, log: log.child({ part: 'pools' }) });
  steps.push(['pool watch', pools.watch()]);
  const copyLog = log.child({ part: 'copyservices' });
  const backgroundCopy = new BackgroundCopy({
    engine,
    poolDir,
    workerFile: new URL('./workers/background-copy.js', import.meta.url),
    bytesPerSecond: config.copyBytesPerSecond,
    log: copyLog,
  });
  steps.push(['background copy', () => backgroundCopy.close()]);
  const scrubs = new Scrubs({
    array,
    poolDir,
    workerFile: new URL('./workers/verify.js', import.meta.url),
    bytesPerSecond: config.copyBytesPerSecond,
    log: log.child({ part: 'verify' }),
  });
  steps.push(['scrubs', () => scrubs.close()]);
  const copyServices = new CopyServices({ engine, array, backgroundCopy, changes, log: copyLog });
  const common = { array, changes, log: log.child({ part: 'access' }) };
  const hosts = new Hosts(new HostRepository(db), common.log);
  const taskRecords = new TaskRepository(db, LIMITS.runsPerTask);
  return {
    array,
    access: new VolumeAccess({ ...common, hosts, records: new AccessRepository(db) }),
    rates: new VolumeRates({ ...common, engine, records: new RateRepository(db) }),
    freezes: new VolumeFreezes(engine, array, changes),
    pools,
    backgroundCopy,
    copyServices,
    scrubs,
    tasks: new TaskService(taskRecords, array, copyServices, copyLog),
    registration: new Registration(new CounterRepository(db)),
    auth: new Auth({
      users: new UserRepository(db),
      sessions: new SessionRepository(db, LIMITS.sessions),
    }),
  };
}
