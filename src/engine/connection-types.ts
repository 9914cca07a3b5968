/** What the engine knows of NBD connections: negotiated facts, TLS sessions, limits, counters. */

/** A metadata context that an NBD client selected. */
export interface SelectedContext {
  /** As the client was told it. */
  readonly id: number;
  readonly kind: 'allocation' | 'depth' | 'changes';
  /** Of `changes`; else 0. */
  readonly relationshipId: number;
}

/** How requests and replies look: without headers of chunks, with them, with 64-bit lengths. */
export type ReplyStyle = 'simple' | 'structured' | 'extended';

/** What negotiation agreed about the transmission phase. */
export interface Negotiated {
  readonly replies: ReplyStyle;
  readonly contexts: readonly SelectedContext[];
  /** Offsets and lengths are multiples of it: the client promised so. A power of two. */
  readonly minBlockBytes: number;
}

/** What a connection works by, for all of its life: also in another server that goes on with it. */
export interface ConnectionSettings extends Negotiated {
  readonly volumeId: number;
  readonly readOnly: boolean;
}

/** What native transmission starts from. */
export interface AdoptOptions extends ConnectionSettings {
  /** An open session made by `TlsContext`, which is given away; plain text without one. */
  readonly tls?: TlsSession | undefined;
  /**
   * False: parking ends it, for the descriptor leads to this process. With `tls` it is so anyhow:
   * nobody else has the keys.
   */
  readonly movable?: boolean | undefined;
}

/** Of a TLS server: a certificate (PEM texts, empty where there is none), or pre-shared keys. */
export interface TlsCredentials {
  /** With its chain. */
  readonly certificate: string;
  readonly key: string;
  /** Of clients; needed unless verifyPeer is `no`. */
  readonly ca: string;
  readonly crl: string;
  /** `optional`: a client may show no certificate, but one that it shows must verify. */
  readonly verifyPeer: 'no' | 'optional' | 'required';
  readonly psk: readonly { readonly identity: string; readonly key: Uint8Array }[];
}

/** What a session made of the ciphertext it was given. */
export interface TlsReceived {
  /** `ended`: the client sends no more; `broken`: for good, `error` says why. */
  readonly state: 'handshake' | 'open' | 'ended' | 'broken';
  readonly data: Buffer;
  /** To be sent, in every state. */
  readonly output: Buffer;
  readonly error: string;
}

/** The other end of an open session; what is there has been verified. */
export interface TlsPeerFacts {
  /** `TLSv1.3`. */
  readonly protocol: string;
  /** IANA's name. */
  readonly cipher: string;
  /** DER. */
  readonly certificate?: Buffer;
  readonly pskIdentity?: string;
}

/** The server's end of one TLS connection, without a socket: ciphertext in, ciphertext out. */
export interface TlsSession {
  receive(ciphertext: Uint8Array): TlsReceived;
  /** @throws NativeError IO the session is broken. */
  send(plaintext: Uint8Array): Buffer;
  /** close_notify. */
  end(): Buffer;
  /** Ciphertext that the connection will decrypt. @throws NativeError LIMIT too much. */
  hold(ciphertext: Uint8Array): void;
  peer(): TlsPeerFacts;
}

/** Checked credentials that sessions are made from. */
export interface TlsContext {
  newSession(): TlsSession;
}

/** What the hosts of a volume may do in a second; 0 is no limit. */
export interface RateLimits {
  readonly volumeId: number;
  readonly iops: number;
  readonly bytesPerSecond: number;
  /** Of each connection by itself. */
  readonly connectionIops: number;
  readonly connectionBytesPerSecond: number;
  /** So much unused time may be caught up. */
  readonly burstMs: number;
}

/** Requests of a volume that rate limits delayed since the pool was opened. */
export interface ThrottledState {
  readonly volumeId: number;
  readonly requests: number;
  /** Sum over connections. */
  readonly seconds: number;
}

export interface ConnectionLimits {
  /** For payloads in flight of all connections, beyond the 256 KiB that each has for itself. */
  readonly memoryBytes: number;
  /** After so long a TCP client that answers nothing is gone; for connections from now on. */
  readonly peerTimeoutSeconds: number;
}

export interface ConnectionMemory {
  readonly mostBytes: number;
  readonly usedBytes: number;
  /** How often a request got nothing and went on in pieces. */
  readonly refused: number;
}

/** What a connection is at and has done; plain numbers, so that thousands cost little. */
export interface ConnectionState {
  readonly id: number;
  readonly requests: RequestCounts;
  /** Replies with an error. */
  readonly errors: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Requests that wait for the disk, a flush or a thaw. */
  readonly inFlight: number;
  /** Of those: for a thaw. */
  readonly held: number;
}

export interface RequestCounts {
  readonly read: number;
  readonly write: number;
  readonly flush: number;
  readonly trim: number;
  readonly writeZeroes: number;
  readonly other: number;
}

/** How a parked connection goes on, besides its socket and what negotiation agreed. */
export interface ParkedState {
  readonly id: number;
  /** Requests that are not executed yet. */
  readonly leftover: Uint8Array;
  /** Replies that the client has not taken; they leave first. */
  readonly unsent: Uint8Array;
  /** Bytes of a payload that nobody wants any more. */
  readonly drainBytes: number;
}

export interface ParkedConnection extends ParkedState {
  /** Its socket: the engine's, until it is told to go on or to forget. */
  readonly fd: number;
}

/** A parked connection that goes on in this process. */
export interface ResumedConnection extends ParkedState {
  readonly counters: Omit<ConnectionState, 'id' | 'inFlight' | 'held'>;
}

export interface ConnectionCounters {
  readonly requests: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

/**
 * Why a connection ended: `disconnect` NBD_CMD_DISC, `eof`, `protocol` a violation (detail says
 * which), `io`, `stopped` by us, `fenced` its client had gone and another one came, `parked`
 * another server goes on with it.
 */
export type CloseReason =
  | 'disconnect'
  | 'eof'
  | 'protocol'
  | 'io'
  | 'stopped'
  | 'fenced'
  | 'parked';

export type OnClosed = (reason: CloseReason, detail: string, counters: ConnectionCounters) => void;
