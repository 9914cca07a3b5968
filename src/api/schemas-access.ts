/** Schemas of hosts, volume access and rate limits; as schemas.ts. */

import Type from 'typebox';
import { LIMITS } from '../base/limits.js';
import { Count, oneOf, orNull, Ref, strictObject, Time } from './schemas.js';

const Addresses = Type.Array(Type.String({ maxLength: 64, examples: ['192.0.2.0/24'] }), {
  maxItems: LIMITS.hostIdentities,
  description: 'IP addresses and networks',
});
const Uids = Type.Array(Type.Integer(), {
  maxItems: LIMITS.hostIdentities,
  description: 'users of the server on its unix socket',
});
const TlsIdentities = Type.Array(Type.String({ maxLength: LIMITS.tlsIdentityBytes }), {
  maxItems: LIMITS.hostIdentities,
  description: 'names that clients prove by TLS',
});
const Access = oneOf('read-write', 'read-only');

const HostFields = {
  name: Type.String({ description: 'spelt as it came; compared without case' }),
  description: Type.String(),
  addresses: Addresses,
  uids: Uids,
  tlsIdentities: TlsIdentities,
  createdAt: Time,
  disks: Type.Array(
    Type.Object({
      name: Type.String({ examples: ['Disk1'] }),
      serial: Type.String({ examples: ['20313698'] }),
      volume: orNull(Type.String({ description: 'null: of another ESS, or deleted' })),
    }),
    { description: 'what the host calls its disks (rsPrimeServer)' },
  ),
  primedAt: orNull(Time),
  primedFrom: orNull(Type.String({ description: 'its address, by its own account' })),
};

export const HostsBody = Type.Object({ hosts: Type.Array(Type.Object(HostFields)) });

export const HostBody = Type.Object({
  ...HostFields,
  volumes: Type.Array(Type.Object({ volume: Type.String(), access: Access })),
  disconnected: Type.Optional(
    Type.Integer({ description: 'connections that the change has ended' }),
  ),
});

const HostChangeFields = {
  description: Type.Optional(Type.String({ maxLength: LIMITS.hostDescriptionBytes })),
  addresses: Type.Optional(Addresses),
  uids: Type.Optional(Uids),
  tlsIdentities: Type.Optional(TlsIdentities),
};

export const NewHostBody = strictObject({ name: Ref, ...HostChangeFields });
export const HostChangeBody = strictObject(HostChangeFields);
export const PrimeBody = strictObject({
  clientId: Type.Integer({ minimum: 0, description: 'which a registration (102) gave' }),
  disks: Type.Array(strictObject({ name: Ref, serial: Type.String({ maxLength: 16 }) }), {
    maxItems: LIMITS.disksPerHost,
  }),
});
export const HostParams = strictObject({ name: Ref });

export const VolumeAccessBody = Type.Object({
  volume: Type.String({ examples: ['1203'] }),
  restricted: Type.Boolean({
    description: 'false: the default, open to clients on the server itself and to nobody else',
  }),
  hosts: Type.Array(Type.Object({ host: Type.String(), access: Access })),
  disconnected: Type.Optional(
    Type.Integer({ description: 'connections that the change has ended' }),
  ),
});

export const ReplaceAccessBody = strictObject({
  hosts: Type.Array(strictObject({ host: Ref, access: Access }), { maxItems: LIMITS.hosts }),
});

export const AllowBody = strictObject({ access: Access });
export const VolumeHostParams = strictObject({ ref: Ref, host: Ref });

const MbPerSecond = Type.Number({ description: 'MB are 2^20 bytes' });
const Iops = Type.Integer({ description: 'requests a second; flushes are not counted' });

export const RatesBody = Type.Object({
  volume: Type.String({ examples: ['1203'] }),
  iops: orNull(Count),
  mbPerSecond: orNull(MbPerSecond),
  connectionIops: orNull(Count),
  connectionMbPerSecond: orNull(MbPerSecond),
  burstSeconds: Type.Number({ description: 'so much unused time may be caught up' }),
});

export const RatesChangeBody = strictObject({
  iops: Type.Optional(orNull(Iops)),
  mbPerSecond: Type.Optional(orNull(MbPerSecond)),
  connectionIops: Type.Optional(orNull(Iops)),
  connectionMbPerSecond: Type.Optional(orNull(MbPerSecond)),
  burstSeconds: Type.Optional(Type.Number()),
});
