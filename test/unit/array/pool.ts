/** The real engine and an array on it, in a pool of its own for a test. */
import { join } from 'node:path';
import { ChangeQueue } from '../../../src/array/change-queue.js';
import { Hosts } from '../../../src/array/hosts.js';
import { Pools } from '../../../src/array/pools.js';
import { StorageArray } from '../../../src/array/storage-array.js';
import { VolumeAccess } from '../../../src/array/volume-access.js';
import { VolumeRates } from '../../../src/array/volume-rates.js';
import type { BackgroundCopy } from '../../../src/copyservices/background-copy.js';
import type { ConsistencyGroups } from '../../../src/copyservices/consistency-groups.js';
import type { CopyServices } from '../../../src/copyservices/copy-services.js';
import { openCopyServices, type OpenOptions } from '../../../src/copyservices/open.js';
import { Scrubs } from '../../../src/copyservices/scrubs.js';
import { openEngine } from '../../../src/engine/index.js';
import type { Engine } from '../../../src/engine/types.js';
import { AccessRepository, HostRepository, RateRepository } from '../../../src/metadata/hosts.js';
import type { MetadataDatabase } from '../../../src/metadata/database.js';
import type { Scope } from '../../helpers/cleanup.js';
import { openTestDatabase, QUIET } from '../metadata/open.js';

/** Workers run compiled code; `npm test` builds it first. */
const WORKER = new URL('../../../dist/workers/background-copy.js', import.meta.url);
const VERIFY_WORKER = new URL('../../../dist/workers/verify.js', import.meta.url);

export interface TestArray {
  readonly engine: Engine;
  readonly poolDir: string;
  readonly changes: ChangeQueue;
  readonly array: StorageArray;
  readonly pools: Pools;
  readonly access: VolumeAccess;
  readonly rates: VolumeRates;
  readonly db: MetadataDatabase;
  /** No listener. */
  readonly nbd: () => undefined;
}

/** An empty array on ESS 13698. */
export async function openTestArray(scope: Scope, capacityBytes = 2 ** 30): Promise<TestArray> {
  const poolDir = join(await scope.tempDir(), 'pool');
  const engine = await openEngine({ dir: poolDir, capacityBytes });
  scope.defer('close the engine', () => engine.close());
  const changes = new ChangeQueue();
  const pools = new Pools({ engine, changes, log: QUIET });
  const array = new StorageArray(engine, '13698', changes);
  const db = await openTestDatabase(scope);
  const common = { array, changes, log: QUIET };
  const hosts = new Hosts(new HostRepository(db), QUIET);
  const access = new VolumeAccess({ ...common, hosts, records: new AccessRepository(db) });
  const rates = new VolumeRates({ ...common, engine, records: new RateRepository(db) });
  return { engine, poolDir, changes, array, pools, access, rates, db, nbd: () => undefined };
}

export interface TestCopyServices extends TestArray {
  readonly backgroundCopy: BackgroundCopy;
  readonly copyServices: CopyServices;
  readonly groups: ConsistencyGroups;
  readonly scrubs: Scrubs;
}

/** The same with volumes 1203, 1204, 1303, 1304 of 1 MiB, and Copy Services. */
export async function openTestCopyServices(
  scope: Scope,
  capacityBytes?: number,
  options: Partial<OpenOptions> = {},
): Promise<TestCopyServices> {
  const base = await openTestArray(scope, capacityBytes);
  for (const id of ['1203', '1204', '1303', '1304']) {
    await base.array.create({ id, sizeBytes: 2 ** 20 });
  }
  const { backgroundCopy, close, copyServices, groups } = await openCopyServices({
    ...base,
    workerFile: WORKER,
    bytesPerSecond: undefined,
    connections: { list: () => [], disconnect: () => undefined },
    strict: false,
    log: QUIET,
    retryMs: 1,
    ...options,
  });
  scope.defer('stop background copies', close);
  const scrubs = new Scrubs({
    array: base.array,
    poolDir: base.poolDir,
    workerFile: VERIFY_WORKER,
    bytesPerSecond: undefined,
    log: QUIET,
  });
  scope.defer('stop scrubs', () => scrubs.close());
  return { ...base, backgroundCopy, copyServices, groups, scrubs };
}
