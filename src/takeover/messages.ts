/**
 * What two servers of one data directory say to each other at a takeover, over DATA/takeover.sock.
 *
 *   new  hello ----------------------->  old
 *        <---------------- offer, or refused
 *        ready ----------------------->        it stops accepting and parks its connections
 *        <- listener*, connection*, complete   with their sockets
 *        received -------------------->        it closes the pool: no way back from here
 *        <------------------------ released
 *
 * Until `received` the old server can take everything back. A message is JSON and, of a connection,
 * two byte strings behind it; native/nbd/descriptor_channel.h frames it, with a version. What comes
 * is checked against these schemas before it is used.
 */

import Type, { type Static } from 'typebox';
import Value from 'typebox/value';
import { FlashlunError, fromNative } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { closeDescriptor, receiveMessage, sendMessage } from '../engine/index.js';
import type { HandedConnection } from '../nbd/connections.js';

/** Raised when a message changes its meaning; both ends must have the same. */
export const TAKEOVER_PROTOCOL = 2;

const Count = Type.Integer({ minimum: 0 });
const Text = Type.String({ maxLength: 4096 });

const Requests = Type.Object({
  read: Count,
  write: Count,
  flush: Count,
  trim: Count,
  writeZeroes: Count,
  other: Count,
});

const Transport = Type.Union([Type.Literal('tcp'), Type.Literal('unix')]);
const VolumeNumber = Type.Integer({ minimum: 0, maximum: 0xffff });

/** What negotiation agreed; native code checks the rest. */
const Settings = Type.Object({
  volumeId: VolumeNumber,
  readOnly: Type.Boolean(),
  replies: Type.Union([
    Type.Literal('simple'),
    Type.Literal('structured'),
    Type.Literal('extended'),
  ]),
  contexts: Type.Array(
    Type.Object({
      id: Count,
      kind: Type.Union([
        Type.Literal('allocation'),
        Type.Literal('depth'),
        Type.Literal('changes'),
      ]),
      relationshipId: Count,
    }),
    { maxItems: 16 },
  ),
  minBlockBytes: Type.Integer({ minimum: 1 }),
});

const Connection = Type.Object({
  id: Count,
  volumeId: VolumeNumber,
  exportName: Text,
  transport: Transport,
  peer: Text,
  pid: Type.Optional(Type.Integer()),
  identity: Type.Object({
    transport: Transport,
    address: Type.Optional(Text),
    uid: Type.Optional(Count),
    tlsIdentities: Type.Optional(Type.Array(Text, { maxItems: 1024 })),
  }),
  since: Text,
  settings: Settings,
});

const SCHEMAS = {
  hello: Type.Object({ protocol: Count, version: Text, pid: Count }),
  offer: Type.Object({ protocol: Count, version: Text, pid: Count }),
  refused: Type.Object({ reason: Text }),
  ready: Type.Object({}),
  listener: Type.Object({
    role: Type.Union([Type.Literal('nbd-tcp'), Type.Literal('nbd-unix'), Type.Literal('http')]),
    /** As it was configured, and as it is. */
    configured: Text,
    address: Text,
  }),
  connection: Type.Object({
    connection: Connection,
    counters: Type.Object({
      requests: Requests,
      errors: Count,
      bytesIn: Count,
      bytesOut: Count,
    }),
    drainBytes: Count,
    leftoverBytes: Count,
    unsentBytes: Count,
  }),
  complete: Type.Object({ listeners: Count, connections: Count }),
  received: Type.Object({ listeners: Count, connections: Count }),
  released: Type.Object({}),
} as const;

export type MessageKind = keyof typeof SCHEMAS;
type Body<K extends MessageKind> = Static<(typeof SCHEMAS)[K]>;
export type HandedListener = Body<'listener'>;

export interface Received<K extends MessageKind> {
  readonly kind: K;
  readonly body: Body<K>;
  readonly descriptors: readonly number[];
  /** Bytes behind the JSON. */
  readonly bytes: Uint8Array;
}

/** Any of some kinds, told apart by `kind`. */
type AnyReceived<K extends MessageKind> = { [P in K]: Received<P> }[K];

/** One end of the conversation. Owns its descriptor. */
export class MessageChannel {
  readonly #fd: number;
  #closed = false;

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** @throws FlashlunError TAKEOVER_FAILED the other end has gone or does not take it */
  async send<K extends MessageKind>(
    kind: K,
    body: Body<K>,
    descriptors: readonly number[] = [],
    bytes: readonly Uint8Array[] = [],
  ): Promise<void> {
    const json = Buffer.from(JSON.stringify({ kind, ...body }));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(json.length);
    try {
      const message = Buffer.concat([length, json, ...bytes]);
      await sendMessage(this.#fd, message, descriptors, LIMITS.takeoverMessageMs);
    } catch (error) {
      throw failed(error);
    }
  }

  /**
   * The next message, which must be one of `kinds`. Its descriptors are the caller's.
   *
   * @throws FlashlunError TAKEOVER_FAILED gone, silent, or not what was expected
   */
  async receive<K extends MessageKind>(
    kinds: readonly K[],
    limitMs: number = LIMITS.takeoverMessageMs,
  ): Promise<AnyReceived<K>> {
    let message: Awaited<ReturnType<typeof receiveMessage>>;
    try {
      message = await receiveMessage(this.#fd, limitMs);
    } catch (error) {
      throw failed(error);
    }
    try {
      return parse(kinds, message.body, message.descriptors);
    } catch (error) {
      for (const descriptor of message.descriptors) closeDescriptor(descriptor);
      throw error;
    }
  }

  async sendConnection(handed: HandedConnection, fd: number): Promise<void> {
    const { connection, counters, drainBytes, leftover, unsent } = handed;
    const { requests, errors, bytesIn, bytesOut } = counters;
    const body = {
      // JSON leaves out what is undefined.
      connection: connection as Body<'connection'>['connection'],
      counters: { requests, errors, bytesIn, bytesOut },
      drainBytes,
      leftoverBytes: leftover.length,
      unsentBytes: unsent.length,
    };
    await this.send('connection', body, [fd], [leftover, unsent]);
  }

  close(): void {
    if (!this.#closed) closeDescriptor(this.#fd);
    this.#closed = true;
  }
}

/** The connection of a message. @throws FlashlunError TAKEOVER_FAILED its lengths do not fit */
export function handedConnection({ body, bytes }: Received<'connection'>): HandedConnection {
  const { connection, counters, drainBytes, leftoverBytes, unsentBytes } = body;
  if (leftoverBytes + unsentBytes !== bytes.length) throw unexpected('lengths that do not fit');
  const leftover = bytes.subarray(0, leftoverBytes);
  const unsent = bytes.subarray(leftoverBytes);
  return { id: connection.id, connection, counters, drainBytes, leftover, unsent };
}

function parse<K extends MessageKind>(
  kinds: readonly K[],
  message: Uint8Array,
  descriptors: readonly number[],
): AnyReceived<K> {
  const text = Buffer.from(message.buffer, message.byteOffset, message.byteLength);
  const jsonEnd = text.length < 4 ? 0 : 4 + text.readUInt32LE(0);
  if (jsonEnd === 0 || jsonEnd > text.length) throw unexpected('a message without its length');
  let json: unknown;
  try {
    json = JSON.parse(text.toString('utf8', 4, jsonEnd));
  } catch {
    throw unexpected('a message that is not JSON');
  }
  const kind = kinds.find((each) => each === kindOf(json));
  if (kind === undefined || !Value.Check(SCHEMAS[kind], json)) {
    throw unexpected(`'${String(kindOf(json)).slice(0, 40)}' instead of ${kinds.join(' or ')}`);
  }
  const bytes = text.subarray(jsonEnd);
  return { kind, body: json, descriptors, bytes } as unknown as AnyReceived<K>;
}

function kindOf(json: unknown): unknown {
  return typeof json === 'object' && json !== null && 'kind' in json ? json.kind : undefined;
}

function unexpected(what: string): FlashlunError {
  return takeoverFailed(`the other server sent ${what}`);
}

function failed(error: unknown): FlashlunError {
  return takeoverFailed(fromNative(error, '').message, error);
}

export function takeoverFailed(why: string, cause?: unknown): FlashlunError {
  return new FlashlunError('TAKEOVER_FAILED', `takeover failed: ${why}.`, { cause });
}
