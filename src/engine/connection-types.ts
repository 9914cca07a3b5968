/** What the engine knows of NBD connections: plain types, no code. */

/** What negotiation agreed with one NBD client; the native transmission phase starts from it. */
export interface AdoptOptions {
  readonly volumeId: number;
  readonly structuredReplies: boolean;
  readonly readOnly: boolean;
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
