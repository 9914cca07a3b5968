/**
 * What a running server does when another one takes over (src/takeover/giver.ts says when).
 *
 * Everything up to `release` can be undone, and is in this order: no change of the configuration is
 * under way any more, nobody is accepted, no negotiation runs, what hosts wrote is on the disk, the
 * connections are parked. Clients only notice the time from parking to the new server's first read,
 * so all that may take long comes before.
 */

import type { ApiServer } from './api/server.js';
import type { ChangeQueue } from './array/change-queue.js';
import { FlashlunError } from './base/errors.js';
import { formatVolumeId } from './base/ids.js';
import { LIMITS } from './base/limits.js';
import type { Logger } from './base/log.js';
import type { Config } from './config.js';
import { formatHostPort } from './config-address.js';
import { closeDescriptor, duplicateDescriptor } from './engine/index.js';
import type { Engine } from './engine/types.js';
import type { ConnectionRegistry } from './nbd/connections.js';
import { descriptorOf } from './nbd/hand-over.js';
import type { ListeningDescriptors, NbdServer } from './nbd/listener.js';
import type { Estate, Giver } from './takeover/giver.js';
import type { HandedListener } from './takeover/messages.js';

export interface HandoverOptions {
  readonly config: Config;
  readonly version: string;
  readonly log: Logger;
  readonly engine: Engine;
  readonly registry: ConnectionRegistry;
  readonly nbd: NbdServer;
  readonly api: ApiServer;
  readonly changes: ChangeQueue;
  /** Where it listens. */
  addresses(): { http: string; nbd: { tcp: string | null } };
  /** Why nothing can be handed over now: starting, stopping. */
  obstacle(): string | undefined;
  /** Stops what works on the pool by itself, and closes the database. */
  stopServices(): void;
  /** What changes something by itself. */
  readonly scheduler: { pause(): Promise<void>; resume(): void };
}

export class ServerHandover implements Giver {
  readonly #options: HandoverOptions;
  /** What give() has done so far. */
  #http: number | undefined;
  #listening: ListeningDescriptors | undefined;
  #parked = false;
  #parkedAtMs = 0;

  constructor(options: HandoverOptions) {
    this.#options = options;
  }

  get version(): string {
    return this.#options.version;
  }

  obstacle(): string | undefined {
    const other = this.#options.obstacle();
    if (other !== undefined) return other;
    // A freeze is a promise of this process; the next one would not know of it.
    const frozen = this.#options.engine.volumes().find((each) => each.frozenUntilUnixMs !== 0);
    if (frozen === undefined) return undefined;
    const until = new Date(frozen.frozenUntilUnixMs).toISOString();
    return `volume ${formatVolumeId(frozen.id)} is frozen until ${until}; thaw it first`;
  }

  async give(): Promise<Estate> {
    const { api, changes, engine, nbd, registry } = this.#options;
    this.#http = duplicateDescriptor(descriptorOf(api.app.server) ?? -1);
    await api.pause(LIMITS.takeoverHttpMs);
    await this.#options.scheduler.pause();
    await changes.idle();
    const reason = this.obstacle();
    if (reason !== undefined) throw new FlashlunError('TAKEOVER_REFUSED', reason);
    this.#listening = await nbd.pause(LIMITS.takeoverNegotiationMs);
    // The second one has only what was written during the first, and the last, when the pool is
    // closed, next to nothing.
    await engine.flush();
    await engine.flush();
    this.#parkedAtMs = performance.now();
    const connections = await registry.park();
    this.#parked = true;
    return { listeners: this.#listeners(), connections };
  }

  #listeners(): Estate['listeners'] {
    const { config } = this.#options;
    const addresses = this.#options.addresses();
    const { tcp, unix } = this.#listening ?? { tcp: undefined, unix: undefined };
    const list: Estate['listeners'][number][] = [];
    const add = (
      role: HandedListener['role'],
      fd: number | undefined,
      configured: string | undefined,
      address: string | undefined,
    ): void => {
      if (fd === undefined || configured === undefined) return;
      list.push({ about: { role, configured, address: address ?? configured }, fd });
    };
    const nbdTcp = config.nbd === undefined ? undefined : formatHostPort(config.nbd);
    add('nbd-tcp', tcp, nbdTcp, addresses.nbd.tcp ?? undefined);
    add('nbd-unix', unix, config.nbdUnix, undefined);
    add('http', this.#http, formatHostPort(config.http), addresses.http.replace(/^http:\/\//, ''));
    return list;
  }

  async takeBack(): Promise<void> {
    const { api, nbd, registry } = this.#options;
    if (this.#parked) registry.unpark();
    this.#parked = false;
    if (this.#listening !== undefined) await nbd.goOn(this.#listening);
    this.#listening = undefined;
    if (this.#http !== undefined) await api.listenOn(this.#http);
    this.#http = undefined;
    this.#options.scheduler.resume();
  }

  async release(): Promise<void> {
    const { engine, log, stopServices } = this.#options;
    for (const fd of [this.#http, this.#listening?.tcp, this.#listening?.unix]) {
      if (fd !== undefined) closeDescriptor(fd);
    }
    stopServices();
    try {
      await engine.release();
    } finally {
      const milliseconds = Math.round(performance.now() - this.#parkedAtMs);
      log.info({ milliseconds }, 'pool released, since the connections were parked');
    }
  }

  /** Clients with TLS have been ended; a bridge may still carry their last replies. */
  leave(): Promise<void> {
    return this.#options.nbd.bridgesIdle();
  }
}
