/**
 * Puts the server together and takes it apart again.
 *
 * Start: engine (its lock on DATA/pool comes before everything else is touched), SQLite, services,
 * HTTP, NBD; when all of them are had, what is decided at a first start, the copies that were under
 * way, and the files that tell others where we are. Stop is the same backwards. A start that fails
 * undoes what it did, and logs nothing at info: its error is the one line people shall see.
 */

import { existsSync } from 'node:fs';
import path from 'node:path';
import { Auth } from './api/auth.js';
import { type ApiServer, createApiServer } from './api/server.js';
import { ChangeQueue } from './array/change-queue.js';
import { createDemoArray } from './array/demo-array.js';
import { VolumeFreezes } from './array/freeze.js';
import { Pools } from './array/pools.js';
import { StorageArray } from './array/storage-array.js';
import { FlashlunError, fromNative } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import { type Config, formatHostPort } from './config.js';
import { BackgroundCopy } from './copyservices/background-copy.js';
import { CopyServices } from './copyservices/copy-services.js';
import { Scrubs } from './copyservices/scrubs.js';
import { Registration } from './copyservices/registration.js';
import { TaskService } from './copyservices/tasks.js';
import { openEngine } from './engine/index.js';
import type { Engine } from './engine/types.js';
import {
  checkAdminPassword,
  checkCapacity,
  chooseEssSerial,
  decideDemo,
  ensureAdmin,
  ESS_SERIAL_SETTING,
  makeDataDir,
  openDemoDecision,
} from './first-start.js';
import { ServerHandover } from './handover.js';
import { CounterRepository, SettingRepository } from './metadata/counters.js';
import { type MetadataDatabase, openDatabase } from './metadata/database.js';
import { TaskRepository } from './metadata/tasks.js';
import { SessionRepository, UserRepository } from './metadata/users.js';
import { createMetrics } from './metrics/registry.js';
import { ConnectionRegistry } from './nbd/connections.js';
import { type NbdServer, startNbdListeners } from './nbd/listener.js';
import { describeOpenError, publish, reachable, unpublish } from './published.js';
import { type Giver, TakeoverService } from './takeover/giver.js';
import { type Inheritance, takeOver, takeoverPath } from './takeover/taker.js';

export interface ServerOptions {
  readonly config: Config;
  readonly log: Logger;
  readonly version: string;
  /** FLASHLUN_ADMIN_PASSWORD. */
  readonly adminPassword?: string | undefined;
}

/** Where the server listens, as DATA/flashlun.json has it. */
export interface ServerAddresses {
  readonly http: string;
  readonly nbd: { readonly tcp: string | null; readonly unix: string | null };
}

/** Everything of the control plane that works on the open pool. */
interface Services {
  readonly array: StorageArray;
  readonly freezes: VolumeFreezes;
  readonly pools: Pools;
  readonly backgroundCopy: BackgroundCopy;
  readonly copyServices: CopyServices;
  readonly scrubs: Scrubs;
  readonly tasks: TaskService;
  readonly registration: Registration;
  readonly auth: Auth;
}

type Step = readonly [name: string, undo: () => Promise<void> | void];

export class FlashlunServer {
  readonly #options: ServerOptions;
  readonly #dataDir: string;
  readonly #log: Logger;
  readonly #changes = new ChangeQueue();
  /** What stop() has to undo, in the order it was done. */
  readonly #steps: Step[] = [];
  #services: Services | undefined;
  #addresses: ServerAddresses = { http: '', nbd: { tcp: null, unix: null } };
  #obstacle: string | undefined = 'the server is starting';
  #inheritance: Inheritance | undefined;
  #givenTo: Promise<number> = new Promise(() => undefined);
  /** The administrator's password, at the first start only. */
  newPassword: string | undefined;

  private constructor(options: ServerOptions) {
    this.#options = options;
    this.#dataDir = options.config.dataDir;
    this.#log = options.log;
  }

  /**
   * Starts everything. When it rejects, nothing of it runs any more.
   *
   * @throws FlashlunError DATA_DIR_LOCKED, POOL_DAMAGED, METADATA_UNUSABLE, ADDRESS_IN_USE,
   *   ADDRESS_UNUSABLE, CONFIG_INVALID, NO_SPACE, IO_ERROR
   */
  static async start(options: ServerOptions): Promise<FlashlunServer> {
    const server = new FlashlunServer(options);
    try {
      await server.#start();
      return server;
    } catch (error) {
      await server.stop().catch((failure: unknown) => {
        options.log.error({ err: failure }, 'undoing the start failed');
      });
      throw error;
    }
  }

  get array(): StorageArray {
    return this.#started.array;
  }

  get addresses(): ServerAddresses {
    return this.#addresses;
  }

  /** Resolves with the process that has taken over, after which there is nothing left to stop. */
  get givenTo(): Promise<number> {
    return this.#givenTo;
  }

  /**
   * Stops accepting, lets what is in flight end, and closes the pool. Every step is tried.
   *
   * @throws the first failure
   */
  async stop(): Promise<void> {
    this.#obstacle = 'the server is shutting down';
    this.#inheritance?.close();
    const failures: unknown[] = [];
    for (const [name, undo] of this.#steps.splice(0).reverse()) {
      try {
        await undo();
        this.#log.debug({ step: name }, 'stopped');
      } catch (error) {
        this.#log.error({ step: name, err: error }, 'stopping failed');
        failures.push(error);
      }
    }
    if (failures.length > 0) throw fromNative(failures[0], 'stop');
  }

  get #started(): Services {
    if (this.#services === undefined) throw new FlashlunError('SHUTTING_DOWN', '');
    return this.#services;
  }

  async #start(): Promise<void> {
    const { adminPassword, config, log, version } = this.#options;
    checkAdminPassword(adminPassword);
    makeDataDir(this.#dataDir);
    if (config.takeover) this.#inheritance = await takeOver(this.#dataDir, version, log);
    // The engine gives the file its name when the pool is complete.
    const isNewPool = !existsSync(this.#file('pool/meta'));
    const engine = await this.#openEngine();
    const registry = new ConnectionRegistry(engine, log);
    // First of all: clients wait for it.
    this.#inheritance?.resumeConnections(registry, log);
    if (!isNewPool) checkCapacity(config.poolCapacityBytes, defaultCapacity(engine));
    const db = await this.#openDatabase();
    const settings = new SettingRepository(db);
    const essSerial = chooseEssSerial(settings, config.essSerial, engine.volumes().length > 0);
    if (isNewPool) openDemoDecision(settings);
    const services = this.#createServices(engine, db, essSerial);
    this.#services = services;
    const api = await this.#startHttp(engine, services, registry);
    const nbd = await this.#startNbd(engine, services.array, registry);
    settings.keepFirst(ESS_SERIAL_SETTING, essSerial);
    await this.#firstStart(services, settings);
    services.backgroundCopy.resume();
    await this.#offerTakeover({ engine, db, api, nbd, registry });
    this.#publish();
    this.#obstacle = undefined;
    this.#inheritance?.close();
    const { recoveredUnclean, recoveredRecords, ioBackend, ioNote } = engine.info();
    if (ioNote !== '') this.#log.warn({ reason: ioNote }, 'asynchronous I/O by threads');
    const recovery = { recoveredUnclean, recoveredRecords };
    const facts = { data: this.#dataDir, essSerial, ...recovery, cache: config.cache, ioBackend };
    this.#log.info({ ...facts, ...this.#addresses }, 'ready');
  }

  async #firstStart({ auth, array }: Services, settings: SettingRepository): Promise<void> {
    const { config, adminPassword } = this.#options;
    this.newPassword = await ensureAdmin(auth, this.#dataDir, adminPassword);
    const demo = async (): Promise<void> => {
      if (await createDemoArray(array)) this.#log.info('demo array created');
    };
    await decideDemo(settings, config.demo ? demo : undefined);
  }

  async #openEngine(): Promise<Engine> {
    const { cache, io, poolCapacityBytes } = this.#options.config;
    let engine: Engine;
    try {
      engine = await openEngine({
        dir: this.#file('pool'),
        direct: cache === 'none',
        io,
        ...(poolCapacityBytes === undefined ? {} : { capacityBytes: poolCapacityBytes }),
      });
    } catch (error) {
      throw describeOpenError(error, this.#dataDir);
    }
    // Left behind by a server that was killed; whoever reads it would ask a dead address.
    unpublish(this.#dataDir);
    this.#steps.push(['engine', () => engine.close()]);
    return engine;
  }

  async #openDatabase(): Promise<MetadataDatabase> {
    const db = await openDatabase(this.#file('flashlun.sqlite'), this.#log);
    this.#steps.push([
      'database',
      () => {
        db.close();
      },
    ]);
    return db;
  }

  #createServices(engine: Engine, db: MetadataDatabase, essSerial: string): Services {
    const { config, log } = this.#options;
    const changes = this.#changes;
    const array = new StorageArray(engine, essSerial, changes);
    const pools = new Pools({ engine, changes, log: log.child({ part: 'pools' }) });
    this.#steps.push(['pool watch', pools.watch()]);
    const copyLog = log.child({ part: 'copyservices' });
    const backgroundCopy = new BackgroundCopy({
      engine,
      poolDir: this.#file('pool'),
      workerFile: new URL('./workers/background-copy.js', import.meta.url),
      bytesPerSecond: config.copyBytesPerSecond,
      log: copyLog,
    });
    this.#steps.push(['background copy', () => backgroundCopy.close()]);
    const scrubs = new Scrubs({
      array,
      poolDir: this.#file('pool'),
      workerFile: new URL('./workers/verify.js', import.meta.url),
      bytesPerSecond: config.copyBytesPerSecond,
      log: log.child({ part: 'verify' }),
    });
    this.#steps.push(['scrubs', () => scrubs.close()]);
    const copyServices = new CopyServices({ engine, array, backgroundCopy, changes, log: copyLog });
    const taskRecords = new TaskRepository(db, LIMITS.runsPerTask);
    return {
      array,
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

  async #startHttp(
    engine: Engine,
    services: Services,
    registry: ConnectionRegistry,
  ): Promise<ApiServer> {
    const { config, log, version } = this.#options;
    const api = await createApiServer({
      ...services,
      engine,
      connections: registry,
      metrics: createMetrics({ ...services, engine, version }),
      nbdAddresses: () => this.#addresses.nbd,
      notReady: () => this.#obstacle ?? poisonedText(engine),
      version,
      log: log.child({ part: 'api' }),
    });
    // A change that a request began is waited for even when the request itself was cut off.
    this.#steps.push(['changes', () => this.#changes.idle()]);
    this.#steps.push(['http', () => api.close()]);
    const inherited = this.#inheritance?.takeListener('http', formatHostPort(config.http));
    const address =
      inherited === undefined
        ? await api.listen(config.http.host, config.http.port)
        : await api.listenOn(inherited);
    this.#addresses = { ...this.#addresses, http: `http://${formatHostPort(reachable(address))}` };
    return api;
  }

  async #startNbd(
    engine: Engine,
    array: StorageArray,
    registry: ConnectionRegistry,
  ): Promise<NbdServer> {
    const { config, log } = this.#options;
    const inherit = (kind: 'nbd-tcp' | 'nbd-unix', configured: string | undefined) =>
      configured === undefined ? undefined : this.#inheritance?.takeListener(kind, configured);
    const nbd: NbdServer = await startNbdListeners({
      engine,
      catalog: array,
      tcp: config.nbd,
      unixPath: config.nbdUnix,
      log,
      registry,
      inherited: {
        tcp: inherit('nbd-tcp', config.nbd && formatHostPort(config.nbd)),
        unix: inherit('nbd-unix', config.nbdUnix),
      },
    });
    this.#steps.push(['nbd', () => nbd.close()]);
    const { tcp, unix } = nbd.addresses();
    this.#addresses = {
      ...this.#addresses,
      nbd: { tcp: tcp === undefined ? null : formatHostPort(tcp), unix: unix ?? null },
    };
    return nbd;
  }

  /** A server without it serves as well, but has to be stopped before the next one starts. */
  async #offerTakeover(parts: {
    readonly engine: Engine;
    readonly db: MetadataDatabase;
    readonly api: ApiServer;
    readonly nbd: NbdServer;
    readonly registry: ConnectionRegistry;
  }): Promise<void> {
    const { config, log, version } = this.#options;
    const { backgroundCopy, scrubs } = this.#started;
    const giver: Giver = new ServerHandover({
      ...parts,
      config,
      version,
      log,
      changes: this.#changes,
      addresses: () => this.#addresses,
      obstacle: () => this.#obstacle,
      stopServices: () => {
        // The engine waits for their last batch; nobody waits for their threads.
        void backgroundCopy.close().catch(() => undefined);
        void scrubs.close().catch(() => undefined);
        parts.db.close();
        this.#steps.length = 0;
      },
    });
    try {
      const service = await TakeoverService.listen(takeoverPath(this.#dataDir), giver, log);
      this.#steps.push(['takeover', () => service.close()]);
      this.#givenTo = service.given;
    } catch (error) {
      log.warn({ err: error }, 'another server will not be able to take over from this one');
    }
  }

  /** Tells others where we are; the last act of a start and the first of a stop. */
  #publish(): void {
    this.#steps.push(['address files', () => unpublish(this.#dataDir)]);
    publish(this.#dataDir, { ...this.#addresses, essSerial: this.array.essSerial });
  }

  #file(name: string): string {
    return path.join(this.#dataDir, name);
  }
}

/** Tracks of the pool that --pool-capacity is about. */
function defaultCapacity(engine: Engine): number {
  return engine.pools()[0]?.capacityTracks ?? 0;
}

function poisonedText(engine: Engine): string | undefined {
  const { poisoned } = engine.info();
  return poisoned === '' ? undefined : `the pool has stopped: ${poisoned}`;
}
