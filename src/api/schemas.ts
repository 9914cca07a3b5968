/**
 * Schemas of the HTTP API: what requests must look like, what answers contain, and so the OpenAPI
 * document. Shapes only; what a value may be (sizes, names, rules) is judged where it is used, so
 * that the refusal has the same words everywhere.
 */

import Type, { type Static } from 'typebox';
import { LIMITS } from '../base/limits.js';

/** Longest volume reference, task name or pair worth looking at; longer ones cannot exist. */
export const Ref = Type.String({ minLength: 1, maxLength: 256 });
export const Count = Type.Integer({ minimum: 0 });
export const Time = Type.String({ description: 'ISO 8601, UTC' });

/**
 * One of some words, as `enum`. A union of literals says the same, but is `anyOf`, for which
 * Fastify compiles a validator inside the first answer: 50 ms on the main thread.
 */
export function oneOf<T extends string>(...words: T[]) {
  return Type.Unsafe<T>({ type: 'string', enum: words });
}

/** The schema or null; a list of types and no union for the same reason. */
export function orNull<T extends Type.TSchema & { type: string }>(schema: T) {
  return Type.Unsafe<Static<T> | null>({ ...schema, type: [schema.type, 'null'] });
}

export function strictObject<T extends Type.TProperties>(properties: T, options: object = {}) {
  return Type.Object(properties, { additionalProperties: false, ...options });
}

export const ErrorBody = Type.Object(
  {
    code: Type.String({ description: 'stable, listed in docs/operations.md' }),
    message: Type.String({ description: 'one line: what, why, what to do' }),
    details: Type.Optional(Type.Record(Type.String(), Type.Unknown())),
  },
  { description: 'refused or failed' },
);

export const Credentials = strictObject({
  user: Type.String({ minLength: 1, maxLength: LIMITS.userNameBytes }),
  password: Type.String({ minLength: 1, maxLength: LIMITS.passwordBytes }),
});

export const RoleName = oneOf('admin', 'operator', 'monitor');

export const SessionBody = Type.Object({
  token: Type.String({ description: 'for "Authorization: Bearer TOKEN"' }),
  user: Type.String(),
  role: RoleName,
  expiresAt: Time,
});

export const UsersBody = Type.Object({
  users: Type.Array(Type.Object({ name: Type.String(), role: RoleName })),
});

export const ArrayBody = Type.Object({
  machine: Type.String({ examples: ['2105.13698'] }),
  serial: Type.String({ examples: ['13698'] }),
  model: Type.String(),
  version: Type.String({ description: 'of flashlun' }),
  pool: Type.Object({ capacityBytes: Count, usedBytes: Count }),
  io: Type.Object({
    cache: Type.String({ examples: ['writeback', 'none'] }),
    backend: Type.String({ examples: ['io_uring', 'threads'] }),
  }),
  nbd: Type.Object({
    tcp: orNull(Type.String({ examples: ['127.0.0.1:10809'] })),
    unix: orNull(Type.String({ description: 'path of the socket' })),
    tls: Type.Union([Type.Literal('off'), Type.Literal('on'), Type.Literal('require')]),
    tlsCredentials: Type.Union([Type.Literal('none'), Type.Literal('x509'), Type.Literal('psk')]),
  }),
  lss: Type.Array(Type.String()),
});

export const LssBody = Type.Object({
  lss: Type.Array(Type.Object({ id: Type.String(), volumes: Count })),
});

export const VolumeBody = Type.Object({
  id: Type.String({ examples: ['1203'] }),
  lss: Type.String({ examples: ['12'] }),
  serial: Type.String({ examples: ['20313698'] }),
  name: Type.String(),
  sizeBytes: Count,
  usedBytes: Count,
  pool: Type.String({ description: 'name of the pool its space comes from' }),
  thick: Type.Boolean({ description: 'its whole size is reserved' }),
  blockBytes: Type.Integer({ description: 'logical block size of its hosts: 512 or 4096' }),
  attached: Type.Integer({ description: 'NBD connections' }),
  createdAt: Time,
  readOps: Count,
  readBytes: Count,
  writeOps: Count,
  writeBytes: Count,
  flushOps: Count,
  trimOps: Count,
  zeroOps: Count,
  errorOps: Count,
  redirectedTracks: Count,
  frozenUntil: orNull(Type.String({ description: 'when a freeze ends by itself; ISO 8601, UTC' })),
});

export const VolumesQuery = strictObject({ host: Type.Optional(Ref) });
export const VolumesBody = Type.Object({ volumes: Type.Array(VolumeBody) });

/** A body may be left out. */
export const FreezeBody = Type.Unsafe<{ seconds?: number } | null | undefined>({
  type: ['object', 'null'],
  additionalProperties: false,
  properties: {
    seconds: {
      type: 'number',
      description: `time limit, after which it thaws by itself; default ${LIMITS.freezeSeconds}`,
    },
  },
});

export const ThawBody = Type.Object({
  volume: VolumeBody,
  wasFrozen: Type.Boolean({
    description: 'false: it was thawed before, by its time limit or by somebody else',
  }),
});

export const ConnectionBody = Type.Object({
  id: Count,
  volume: Type.String({ examples: ['1203'] }),
  export: Type.String({ description: 'the name the client asked for' }),
  transport: oneOf('tcp', 'unix'),
  peer: Type.String({ examples: ['127.0.0.1:40112', 'unix'] }),
  pid: orNull(Type.Integer({ description: 'process that connected to the unix socket' })),
  uid: orNull(Type.Integer({ description: 'and its user' })),
  tlsIdentity: orNull(Type.String({ description: 'whom the certificate or key names' })),
  since: Time,
  readOnly: Type.Boolean(),
  features: Type.Array(Type.String({ examples: ['structured-replies'] })),
  requests: Type.Object({
    read: Count,
    write: Count,
    flush: Count,
    trim: Count,
    writeZeroes: Count,
    other: Count,
  }),
  errors: Type.Integer({ description: 'requests answered with an error' }),
  bytesIn: Count,
  bytesOut: Count,
  inFlight: Type.Integer({ description: 'requests that wait for the disk, a flush or a thaw' }),
  held: Type.Integer({ description: 'of those, for a thaw' }),
});

export const ConnectionsBody = Type.Object({ connections: Type.Array(ConnectionBody) });
export const ConnectionParams = strictObject({ id: Ref });

export const NewVolumeBody = strictObject({
  lss: Type.Optional(Type.String({ maxLength: 16, examples: ['12'] })),
  id: Type.Optional(Type.String({ maxLength: 16, examples: ['1203'] })),
  sizeBytes: Type.Integer({ description: 'rounded up to whole tracks of 64 KiB' }),
  name: Type.Optional(Type.String({ maxLength: 256 })),
  pool: Type.Optional(Ref),
  thick: Type.Optional(Type.Boolean({ description: 'reserve the whole size' })),
  blockBytes: Type.Optional(
    Type.Integer({ description: 'logical block size of its hosts: 512 (default) or 4096' }),
  ),
});

export const ResizeVolumeBody = strictObject({
  sizeBytes: Type.Integer({
    description: 'rounded up to whole tracks of 64 KiB; not smaller than it is',
  }),
});

export const PoolBody = Type.Object({
  name: Type.String({ examples: ['default'] }),
  path: Type.String({ description: 'file or block device on the server' }),
  capacityBytes: Count,
  usedBytes: Count,
  thickBytes: Type.Integer({ description: 'reserved for thick volumes' }),
  availableBytes: Type.Integer({ description: 'what thin volumes may still take' }),
  allocatedBytes: Type.Integer({ description: 'space the file has on its file system' }),
  level: oneOf('ok', 'warning', 'critical'),
  problem: Type.Optional(Type.String({ description: 'why the level is not ok' })),
  metadataMirror: Type.Object(
    {
      state: oneOf('none', 'in sync', 'degraded'),
      path: Type.Optional(Type.String()),
      problem: Type.Optional(Type.String({ description: 'which copy does not count, and why' })),
    },
    { description: 'second copy of the metadata, which is that of all pools' },
  ),
});

export const PoolsBody = Type.Object({ pools: Type.Array(PoolBody) });

export const NewPoolBody = strictObject({
  name: Ref,
  path: Type.String({ minLength: 1, maxLength: 4096, description: 'absolute, on the server' }),
  sizeBytes: Type.Optional(Type.Integer({ description: 'left out: all of a block device' })),
});

export const GrowPoolBody = strictObject({
  sizeBytes: Type.Optional(Type.Integer({ description: 'left out: all of a block device' })),
});

export const PoolParams = strictObject({ name: Ref });

export const VolumeParams = strictObject({ ref: Ref });

export const ScrubBody = Type.Object({
  volume: Type.String({ examples: ['1203'] }),
  state: oneOf('running', 'done', 'stopped', 'failed'),
  startedAt: Time,
  finishedAt: orNull(Time),
  totalTracks: Type.Integer({ description: 'of the volume; unmapped ones are passed over' }),
  nextTrack: Count,
  verified: Type.Integer({ description: 'tracks that were compared with their checksums' }),
  sealed: Type.Integer({ description: 'shared tracks that got a checksum' }),
  readOnly: Type.Integer({ description: 'tracks that could only be read' }),
  mismatchCount: Count,
  ioErrorCount: Count,
  mismatches: Type.Array(
    Type.Object({
      track: Count,
      physicalTrack: Count,
      fileOffset: Type.Integer({ description: 'in DATA/pool/tracks' }),
      sharedWith: Type.Array(Type.String()),
    }),
    { description: 'the first of them' },
  ),
  ioErrors: Type.Array(Type.Object({ track: Count, message: Type.String() })),
  problem: Type.Optional(Type.String({ description: 'why it failed' })),
});

export const Pair = strictObject({ source: Ref, target: Ref });
export const Pairs = Type.Array(Pair, { minItems: 1, maxItems: LIMITS.pairsPerEstablish });
export const Nothing = Type.Null({ description: 'done' });
export const Text = Type.String();
