/**
 * The one table of errors: stable code -> HTTP status and exit code of the command line.
 *
 * Codes are part of the interface (`{code, message, details}` of the HTTP API); messages are not.
 * Exit codes are the DS CLI's: 2 usage, 3 cannot connect, 4 server error, 5 authentication, 6
 * refused by a rule.
 */

interface ErrorEntry {
  /** Status of the HTTP answer that carries this code. */
  readonly http: number;
  /** Exit code of a command that ends with this code. */
  readonly exit: 2 | 3 | 4 | 5 | 6;
  /** Used when an error is made without a text of its own. */
  readonly message?: string;
}

export const ERRORS = {
  USAGE: { http: 400, exit: 2 },
  INVALID_ARGUMENT: { http: 400, exit: 2 },
  CONFIG_INVALID: { http: 400, exit: 2 },

  UNAUTHENTICATED: { http: 401, exit: 5, message: 'wrong user or password, or no login' },
  FORBIDDEN: { http: 403, exit: 5, message: 'this user may not do that' },

  NOT_FOUND: { http: 404, exit: 6 },
  VOLUME_NOT_FOUND: { http: 404, exit: 6 },
  TASK_NOT_FOUND: { http: 404, exit: 6 },
  RELATIONSHIP_NOT_FOUND: { http: 404, exit: 6 },
  USER_NOT_FOUND: { http: 404, exit: 6 },
  HOST_NOT_FOUND: { http: 404, exit: 6 },
  SCHEDULE_NOT_FOUND: { http: 404, exit: 6 },

  ALREADY_EXISTS: { http: 409, exit: 6 },
  VOLUME_EXISTS: { http: 409, exit: 6 },
  TASK_EXISTS: { http: 409, exit: 6 },
  VOLUME_IN_USE: { http: 409, exit: 6 },
  HOST_IN_USE: { http: 409, exit: 6 },
  SCHEDULE_RUNNING: { http: 409, exit: 6 },
  /** A copy that a schedule keeps for a time, whoever asks. */
  COPY_LOCKED: { http: 409, exit: 6 },
  /** A task of a group or of a schedule. */
  TASK_IN_USE: { http: 409, exit: 6 },
  SIZE_INVALID: { http: 400, exit: 6 },
  LSS_INVALID: { http: 400, exit: 6 },
  LSS_FULL: { http: 409, exit: 6 },
  FC_SAME_VOLUME: { http: 409, exit: 6 },
  FC_SIZE_MISMATCH: { http: 409, exit: 6 },
  /** A thick volume and a thin one, or thick ones of two pools: space could not be reserved. */
  FC_THICKNESS: { http: 409, exit: 6 },
  /** A volume with blocks of 512 bytes and one with 4096: hosts could not read the copy. */
  FC_BLOCK_SIZE: { http: 409, exit: 6 },
  FC_TARGET_IN_USE: { http: 409, exit: 6 },
  FC_TARGET_REPEATED: { http: 409, exit: 6 },
  /** One volume as source and as target in one request: there would be no one T0 for all pairs. */
  FC_CHAINED: { http: 409, exit: 6 },
  /** A resync or a reverse of a relationship that did not record its changes (strict). */
  FC_NOT_RECORDING: { http: 409, exit: 6 },
  /** A second relationship of a volume with change recording. */
  FC_RECORDING: { http: 409, exit: 6 },
  /** The background copy has not ended. */
  FC_COPY_RUNNING: { http: 409, exit: 6 },
  /** There is no background copy to pause, to resume or to begin. */
  FC_NO_COPY_RUNNING: { http: 409, exit: 6 },
  /** The relationship is revertible: it waits for a commit or a revert. */
  FC_REVERTIBLE: { http: 409, exit: 6 },
  FC_NOT_REVERTIBLE: { http: 409, exit: 6 },
  /** A 13th target (strict). */
  FC_TARGET_LIMIT: { http: 409, exit: 6 },
  /** A source that is a target, or a target that is a source (strict). */
  FC_CASCADE: { http: 409, exit: 6 },
  /** Hosts are connected to the target. */
  FC_TARGET_ONLINE: { http: 409, exit: 6 },
  /** Hosts have written to the target since it was last established. */
  FC_TARGET_WRITTEN: { http: 409, exit: 6 },
  /** No freeze to end, or one that ended before: the copies are not one point in time. */
  FC_FREEZE_EXPIRED: { http: 409, exit: 6 },
  /** Nothing is kept that an undo could bring back. */
  FC_NOTHING_TO_UNDO: { http: 409, exit: 6 },
  FC_TIMEOUT: { http: 503, exit: 4 },
  /** A limit of limits.ts or native/core/limits.h. */
  LIMIT_REACHED: { http: 409, exit: 6 },

  NO_SPACE: { http: 507, exit: 4, message: 'the pool is full' },
  POOL_DAMAGED: { http: 500, exit: 4 },
  /** Made by `flashlun verify`: the server reports what it found, the command line judges. */
  VERIFY_FAILED: { http: 500, exit: 4 },
  POOL_POISONED: { http: 503, exit: 4 },
  IO_ERROR: { http: 500, exit: 4 },
  /** The SQLite database is damaged or of a newer version. */
  METADATA_UNUSABLE: { http: 500, exit: 4 },
  DATA_DIR_LOCKED: { http: 500, exit: 4 },
  ADDRESS_IN_USE: { http: 500, exit: 4 },
  /**
   * An address that cannot be listened on for another reason: no permission, no such interface, no
   * such folder.
   */
  ADDRESS_UNUSABLE: { http: 500, exit: 4 },
  /** The running server goes on: something is frozen, another takeover, another version. */
  TAKEOVER_REFUSED: { http: 409, exit: 6 },
  TAKEOVER_FAILED: { http: 500, exit: 4 },
  /** A freeze of a volume that is frozen already. */
  VOLUME_FROZEN: { http: 409, exit: 6 },
  RATE_LIMITED: { http: 429, exit: 4 },
  SHUTTING_DOWN: { http: 503, exit: 4, message: 'the server is shutting down' },
  /**
   * Made by clients only; a server never answers with it, 502 is what a proxy of ours would say.
   */
  CANNOT_CONNECT: { http: 502, exit: 3 },
  INTERNAL: { http: 500, exit: 4, message: 'internal error' },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof ERRORS;

export interface FlashlunErrorOptions {
  /** Facts for programs, for example `{volume: '1203'}`; part of the HTTP answer, so no secrets. */
  readonly details?: Record<string, unknown>;
  readonly cause?: unknown;
}

/** An error with a stable code. The message is one line for people: what, why, what to do. */
export class FlashlunError extends Error {
  readonly code: ErrorCode;
  declare readonly details?: Record<string, unknown>;

  constructor(code: ErrorCode, message: string, options: FlashlunErrorOptions = {}) {
    const text = message === '' ? defaultMessage(code) : message;
    super(text, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'FlashlunError';
    this.code = code;
    if (options.details !== undefined) this.details = options.details;
  }
}

function defaultMessage(code: ErrorCode): string {
  const entry: ErrorEntry = ERRORS[code];
  return entry.message ?? code;
}

/** Whether `value` is a code of the table; for codes that arrive over the network. */
export function isErrorCode(value: unknown): value is ErrorCode {
  return typeof value === 'string' && Object.hasOwn(ERRORS, value);
}

/** HTTP status for any thrown value; what is not a FlashlunError is ours to blame, so 500. */
export function httpStatusOf(error: unknown): number {
  return ERRORS[error instanceof FlashlunError ? error.code : 'INTERNAL'].http;
}

/** Exit code of a command that ends with `error`. */
export function exitCodeOf(error: unknown): number {
  return ERRORS[error instanceof FlashlunError ? error.code : 'INTERNAL'].exit;
}

/**
 * Codes of the engine -> codes of the table. Keys mirror `NativeCode` of src/engine/types.ts (base
 * imports nothing of ours, so they are repeated here; a test compares the two lists).
 */
export const NATIVE_CODES = {
  // The facade never passes kNoWait reads through, so this one reaching us is a bug.
  WOULD_BLOCK: 'INTERNAL',
  INVALID: 'INVALID_ARGUMENT',
  NOT_FOUND: 'NOT_FOUND',
  EXISTS: 'ALREADY_EXISTS',
  BUSY: 'VOLUME_IN_USE',
  LIMIT: 'LIMIT_REACHED',
  NO_SPACE: 'NO_SPACE',
  LOCKED: 'DATA_DIR_LOCKED',
  CORRUPT: 'POOL_DAMAGED',
  IO: 'IO_ERROR',
  POISONED: 'POOL_POISONED',
  TIMEOUT: 'FC_TIMEOUT',
  CLOSED: 'SHUTTING_DOWN',
} as const satisfies Record<string, ErrorCode>;

/**
 * Turns an error of the engine into a FlashlunError whose message starts with `context` (what was
 * being done, for example `establish 1203:1303`). A FlashlunError passes unchanged; anything else
 * becomes INTERNAL. Never throws.
 */
export function fromNative(error: unknown, context: string): FlashlunError {
  if (error instanceof FlashlunError) return error;
  const text = error instanceof Error ? error.message : String(error);
  const message = context === '' ? text : `${context}: ${text}`;
  return new FlashlunError(codeOfNative(error), message, { cause: error });
}

function codeOfNative(error: unknown): ErrorCode {
  if (!(error instanceof Error) || !('code' in error)) return 'INTERNAL';
  const code = error.code;
  if (typeof code !== 'string' || !Object.hasOwn(NATIVE_CODES, code)) return 'INTERNAL';
  return NATIVE_CODES[code as keyof typeof NATIVE_CODES];
}
