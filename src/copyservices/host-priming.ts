/**
 * rsPrimeServer's half on the server: a registered client tells what its host calls its disks.
 *
 * The host's name is the one of the registration, so that one answer says who the host is.
 */

import type { HostDetails, VolumeAccess } from '../array/volume-access.js';
import type { HostDisk } from '../metadata/hosts.js';
import type { Registration } from './registration.js';

export class HostPriming {
  readonly #registration: Registration;
  readonly #access: VolumeAccess;

  constructor(registration: Registration, access: VolumeAccess) {
    this.#registration = registration;
    this.#access = access;
  }

  /**
   * Replaces the disk map of the client's host; makes the host when there is none of its name.
   *
   * @throws FlashlunError INVALID_ARGUMENT (client, name or disk map), LIMIT_REACHED
   */
  prime(clientId: number, disks: readonly HostDisk[], by: string): HostDetails {
    const { host, address } = this.#registration.client(clientId);
    this.#access.hosts.prime(host, { disks, address }, by);
    return this.#access.host(host);
  }
}
