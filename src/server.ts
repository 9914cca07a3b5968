/**
 * Puts the server together and takes it apart again.
 *
 * Start: engine (its lock on DATA/pool comes before everything else is touched), SQLite, services,
 * HTTP, NBD; when all of them are had, what is decided at a first start, the copies that were under
 * way, and the files that tell others where we are. Stop is the same backwards. A start that fails
 * undoes what it did, and logs nothing at info: its error is the one line people shall see.
 */

import { existsSync, readFileSync, rmSync } from 'node:fs';
import path from 'node:path';
import { Auth } from './api/auth.js';
import { createApiServer } from './api/server.js';
import { ChangeQueue } from './array/change-queue.js';
import { createDemoArray } from './array/demo-array.js';
import { Hosts } from './array/hosts.js';
import { Pools } from './array/pools.js';
import { StorageArray } from './array/storage-array.js';
import { VolumeAccess } from './array/volume-access.js';
import { VolumeRates } from './array/volume-rates.js';
import { FlashlunError, fromNative } from './base/errors.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import { formatHostPort, type HostPort } from './config-address.js';
import type { Config } from './config.js';
import { BackgroundCopy } from './copyservices/background-copy.js';
import { CopyServices } from './copyservices/copy-services.js';
import { Scrubs } from './copyservices/scrubs.js';
import { Registration } from './copyservices/registration.js';
import { TaskService } from './copyservices/tasks.js';
import { openEngine, peerUid } from './engine/index.js';
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
  writeFileAtomically,
} from './first-start.js';
import { CounterRepository, SettingRepository } from './metadata/counters.js';
import { type MetadataDatabase, openDatabase } from './metadata/database.js';
import { AccessRepository, HostRepository, RateRepository } from './metadata/hosts.js';
import { TaskRepository } from './metadata/tasks.js';
import { SessionRepository, UserRepository } from './metadata/users.js';
import { createMetrics } from './metrics/registry.js';
import { type NbdServer, startNbdListeners } from './nbd/listener.js';
import { TlsServer } from './nbd/tls-server.js';

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
  readonly access: VolumeAccess;
  readonly rates: VolumeRates;
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
  #tls: TlsServer | undefined;
  #addresses: ServerAddresses = { http: '', nbd: { tcp: null, unix: null } };
  #obstacle: string | undefined = 'the server is starting';
  #nbd: NbdServer | undefined;
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

  /** Reads the files of TLS again, if there is TLS; a file that cannot be used changes nothing. */
  reloadTls(): void {
    this.#tls?.reload();
  }

  /**
   * Stops accepting, lets what is in flight end, and closes the pool. Every step is tried.
   *
   * @throws the first failure
   */
  async stop(): Promise<void> {
    this.#obstacle = 'the server is shutting down';
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
    const { adminPassword, config } = this.#options;
    checkAdminPassword(adminPassword);
    // Before anything is made: a wrong certificate shall not leave an array behind.
    if (config.nbdTls !== undefined) {
      this.#tls = new TlsServer({ ...config.nbdTls, log: this.#log });
    }
    makeDataDir(this.#dataDir);
    const engine = await this.#openEngine();
    const isNewPool = engine.info().created;
    if (!isNewPool) checkCapacity(config.poolCapacityBytes, defaultCapacity(engine));
    const db = await this.#openDatabase();
    const settings = new SettingRepository(db);
    const essSerial = chooseEssSerial(settings, config.essSerial, engine.volumes().length > 0);
    if (isNewPool) openDemoDecision(settings);
    const services = this.#createServices(engine, db, essSerial);
    this.#services = services;
    await this.#startHttp(engine, services);
    await this.#startNbd(engine, services);
    settings.keepFirst(ESS_SERIAL_SETTING, essSerial);
    await this.#firstStart(services, settings);
    services.backgroundCopy.resume();
    this.#publish();
    this.#obstacle = undefined;
    const { recoveredUnclean, recoveredRecords, ioBackend, ioNote, healedCopy } = engine.info();
    if (healedCopy !== '') this.#log.warn({ copy: healedCopy }, 'copy of the metadata made equal');
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
    const { cache, io, metaMirror, poolCapacityBytes } = this.#options.config;
    let engine: Engine;
    try {
      engine = await openEngine({
        dir: this.#file('pool'),
        direct: cache === 'none',
        io,
        ...(poolCapacityBytes === undefined ? {} : { capacityBytes: poolCapacityBytes }),
        ...(metaMirror === undefined ? {} : { metaMirror }),
      });
    } catch (error) {
      throw this.#describeOpenError(error);
    }
    // Left behind by a server that was killed; whoever reads it would ask a dead address.
    this.#unpublish();
    this.#steps.push(['engine', () => engine.close()]);
    return engine;
  }

  #describeOpenError(error: unknown): FlashlunError {
    const known = fromNative(error, 'open the pool');
    if (known.code !== 'DATA_DIR_LOCKED') return known;
    const pidFile = this.#file('flashlun.pid');
    const pid = existsSync(pidFile) ? readFileSync(pidFile, 'utf8').trim() : '';
    const holder = /^\d+$/.test(pid)
      ? `another flashlun server (process ${pid})`
      : 'another process';
    return new FlashlunError(
      'DATA_DIR_LOCKED',
      `the data directory ${this.#dataDir} is in use by ${holder}. ` +
        'Stop it first, or give this one another --data directory.',
      { cause: error },
    );
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
    const common = { array, changes, log: log.child({ part: 'access' }) };
    const hosts = new Hosts(new HostRepository(db), common.log);
    const taskRecords = new TaskRepository(db, LIMITS.runsPerTask);
    return {
      array,
      access: new VolumeAccess({ ...common, hosts, records: new AccessRepository(db) }),
      rates: new VolumeRates({ ...common, engine, records: new RateRepository(db) }),
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

  async #startHttp(engine: Engine, services: Services): Promise<void> {
    const { config, log, version } = this.#options;
    const api = await createApiServer({
      ...services,
      engine,
      metrics: createMetrics({ ...services, engine, nbd: () => this.#nbd, version }),
      nbdAddresses: () => ({ ...this.#addresses.nbd, ...tlsFacts(config) }),
      notReady: () => this.#obstacle ?? poisonedText(engine),
      version,
      log: log.child({ part: 'api' }),
    });
    // A change that a request began is waited for even when the request itself was cut off.
    this.#steps.push(['changes', () => this.#changes.idle()]);
    this.#steps.push(['http', () => api.close()]);
    const address = await api.listen(config.http.host, config.http.port);
    this.#addresses = { ...this.#addresses, http: `http://${formatHostPort(reachable(address))}` };
  }

  async #startNbd(engine: Engine, { array, access }: Services): Promise<void> {
    const { config, log } = this.#options;
    const { handshakeSeconds, memoryBytes, peerTimeoutSeconds, ...limits } = config.nbdLimits;
    engine.setConnectionLimits({ memoryBytes, peerTimeoutSeconds });
    const nbd: NbdServer = await startNbdListeners({
      engine,
      catalog: array,
      tcp: config.nbd,
      unixPath: config.nbdUnix,
      tls: this.#tls,
      log,
      handshakeMs: handshakeSeconds * 1000,
      caps: {
        handshakes: limits.handshakes,
        total: limits.connections,
        perClient: limits.connectionsPerClient,
        perExport: limits.connectionsPerExport,
      },
      access,
      uidOf: peerUid,
    });
    access.onChanged(() => nbd.enforceAccess());
    this.#nbd = nbd;
    this.#steps.push(['nbd', () => nbd.close()]);
    const { tcp, unix } = nbd.addresses();
    this.#addresses = {
      ...this.#addresses,
      nbd: { tcp: tcp === undefined ? null : formatHostPort(tcp), unix: unix ?? null },
    };
  }

  /** Tells others where we are; the last act of a start and the first of a stop. */
  #publish(): void {
    const facts = {
      pid: process.pid,
      ...this.#addresses,
      essSerial: this.array.essSerial,
      startedAt: new Date().toISOString(),
    };
    this.#steps.push([
      'address files',
      () => {
        this.#unpublish();
      },
    ]);
    writeFileAtomically(this.#file('flashlun.pid'), `${process.pid}\n`);
    writeFileAtomically(this.#file('flashlun.json'), `${JSON.stringify(facts, null, 2)}\n`);
  }

  #unpublish(): void {
    rmSync(this.#file('flashlun.json'), { force: true });
    rmSync(this.#file('flashlun.pid'), { force: true });
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

/** What clients have to bring along. */
function tlsFacts({ nbdTls }: Config): {
  tls: 'off' | 'on' | 'require';
  tlsCredentials: 'none' | 'x509' | 'psk';
} {
  if (nbdTls === undefined) return { tls: 'off', tlsCredentials: 'none' };
  return { tls: nbdTls.mode, tlsCredentials: nbdTls.psk === undefined ? 'x509' : 'psk' };
}

/** An address that means "all of them" is no address to connect to. */
function reachable(address: HostPort): HostPort {
  if (address.host === '0.0.0.0') return { ...address, host: '127.0.0.1' };
  if (address.host === '::') return { ...address, host: '::1' };
  return address;
}
