/** What the routes of the HTTP API work on; put together by src/server.ts. */

import type { VolumeFreezes } from '../array/freeze.js';
import type { Pools } from '../array/pools.js';
import type { StorageArray } from '../array/storage-array.js';
import type { VolumeAccess } from '../array/volume-access.js';
import type { VolumeRates } from '../array/volume-rates.js';
import type { Logger } from '../base/log.js';
import type { ConsistencyGroups } from '../copyservices/consistency-groups.js';
import type { CopyServices } from '../copyservices/copy-services.js';
import type { HostPriming } from '../copyservices/host-priming.js';
import type { Scheduler } from '../copyservices/scheduler.js';
import type { Schedules } from '../copyservices/schedules.js';
import type { Registration } from '../copyservices/registration.js';
import type { Scrubs } from '../copyservices/scrubs.js';
import type { TaskService } from '../copyservices/tasks.js';
import type { Engine } from '../engine/types.js';
import type { Static } from 'typebox';
import type { Auth } from './auth.js';
import type { ConnectionBody } from './schemas.js';

export interface ApiServices {
  readonly array: StorageArray;
  readonly access: VolumeAccess;
  readonly rates: VolumeRates;
  readonly freezes: VolumeFreezes;
  readonly pools: Pools;
  readonly copyServices: CopyServices;
  readonly groups: ConsistencyGroups;
  readonly scrubs: Scrubs;
  readonly tasks: TaskService;
  readonly schedules: Schedules;
  readonly scheduler: Pick<Scheduler, 'runNow'>;
  readonly registration: Registration;
  readonly priming: HostPriming;
  readonly auth: Auth;
  readonly engine: Pick<Engine, 'info'>;
  /** NBD clients; `view` and `disconnect` throw NOT_FOUND. */
  readonly connections: {
    views(): Static<typeof ConnectionBody>[];
    view(id: number): Static<typeof ConnectionBody>;
    disconnect(id: number): void;
  };
  readonly metrics: { readonly contentType: string; text(): Promise<string> };
  /** `null` where there is no such listener (yet). */
  nbdAddresses(): {
    tcp: string | null;
    unix: string | null;
    tls: 'off' | 'on' | 'require';
    tlsCredentials: 'none' | 'x509' | 'psk';
  };
  /** Why LUNs cannot be attached now; undefined when they can. */
  notReady(): string | undefined;
  readonly version: string;
  readonly log: Logger;
}
