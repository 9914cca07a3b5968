/**
 * Puts the server together and takes it apart again.
 *
 * Start: engine (its lock on DATA/pool comes before everything else is touched), SQLite, services,
 * HTTP, NBD; when all of them are had, what is decided at a first start, the copies that were under
 * way, and the files that tell others where we are. Stop is the same backwards. A start that fails
 * undoes what it did, and logs nothing at info: its error is the one line people shall see.
 */

import path from 'node:path';
import { type ApiServer, createApiServer } from './api/server.js';
import { ChangeQueue } from './array/change-queue.js';
import { createDemoArray } from './array/demo-array.js';
import type { StorageArray } from './array/storage-array.js';
import { FlashlunError, fromNative } from './base/errors.js';
import type { Logger } from './base/log.js';
import { formatHostPort } from './config-address.js';
import type { Config } from './config.js';
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
import { SettingRepository } from './metadata/counters.js';
import { type MetadataDatabase, openDatabase } from './metadata/database.js';
import { createMetrics } from './metrics/registry.js';
import { newCounts } from './nbd/access.js';
import { ConnectionRegistry } from './nbd/connections.js';
import { type NbdServer, startNbdListeners } from './nbd/listener.js';
import { TlsServer } from './nbd/tls-server.js';
import { describeOpenError, publish, reachable, unpublish } from './published.js';
import { createServices, type Services, type Step } from './services.js';
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

  /** Reads the files of TLS again, if there is TLS; a file that cannot be used changes nothing. */
  reloadTls(): void {
    this.#tls?.reload();
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
    // Before anything is made: a wrong certificate shall not leave an array behind.
    if (config.nbdTls !== undefined) {
      this.#tls = new TlsServer({ ...config.nbdTls, log: this.#log });
    }
    makeDataDir(this.#dataDir);
    if (config.takeover) this.#inheritance = await takeOver(this.#dataDir, version, log);
    const engine = await this.#openEngine();
    const isNewPool = engine.info().created;
    const registry = this.#resumeConnections(engine);
    if (!isNewPool) checkCapacity(config.poolCapacityBytes, defaultCapacity(engine));
    const db = await this.#openDatabase();
    const settings = new SettingRepository(db);
    const essSerial = chooseEssSerial(settings, config.essSerial, engine.volumes().length > 0);
    if (isNewPool) openDemoDecision(settings);
    const services = createServices({
      config,
      engine,
      db,
      essSerial,
      changes: this.#changes,
      poolDir: this.#file('pool'),
      log,
      steps: this.#steps,
    });
    this.#services = services;
    const api = await this.#startHttp(engine, services, registry);
    const nbd = await this.#startNbd(engine, services, registry);
    settings.keepFirst(ESS_SERIAL_SETTING, essSerial);
    await this.#firstStart(services, settings);
    services.backgroundCopy.resume();
    await this.#offerTakeover({ engine, db, api, nbd, registry });
    this.#publish();
    this.#obstacle = undefined;
    this.#inheritance?.close();
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
      throw describeOpenError(error, this.#dataDir);
    }
    // Left behind by a server that was killed; whoever reads it would ask a dead address.
    unpublish(this.#dataDir);
    this.#steps.push(['engine', () => engine.close()]);
    return engine;
  }

  /**
   * Goes on with the connections of the server before, if there was one; first of all, for clients
   * wait for it.
   */
  #resumeConnections(engine: Engine): ConnectionRegistry {
    const { config, log } = this.#options;
    const { memoryBytes, peerTimeoutSeconds, ...limits } = config.nbdLimits;
    engine.setConnectionLimits({ memoryBytes, peerTimeoutSeconds });
    const counts = newCounts({
      handshakes: limits.handshakes,
      total: limits.connections,
      perClient: limits.connectionsPerClient,
      perExport: limits.connectionsPerExport,
    });
    const registry = new ConnectionRegistry(engine, counts, log);
    this.#inheritance?.resumeConnections(registry, log);
    return registry;
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
      metrics: createMetrics({ ...services, engine, nbd: () => this.#nbd, version }),
      nbdAddresses: () => ({ ...this.#addresses.nbd, ...tlsFacts(config) }),
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
    { array, access }: Services,
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
      tls: this.#tls,
      log,
      handshakeMs: config.nbdLimits.handshakeSeconds * 1000,
      access,
      registry,
      inherited: {
        tcp: inherit('nbd-tcp', config.nbd && formatHostPort(config.nbd)),
        unix: inherit('nbd-unix', config.nbdUnix),
      },
    });
    access.onChanged(() => nbd.enforceAccess());
    // What was taken over is held to the rules as they are here.
    nbd.enforceTls();
    nbd.enforceAccess();
    this.#nbd = nbd;
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

/** What clients have to bring along. */
function tlsFacts({ nbdTls }: Config): {
  tls: 'off' | 'on' | 'require';
  tlsCredentials: 'none' | 'x509' | 'psk';
} {
  if (nbdTls === undefined) return { tls: 'off', tlsCredentials: 'none' };
  return { tls: nbdTls.mode, tlsCredentials: nbdTls.psk === undefined ? 'x509' : 'psk' };
}
