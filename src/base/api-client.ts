/**
 * The one HTTP client of the command lines: JSON and text over the global fetch, with deadlines and
 * with every failure turned into a FlashlunError. It is in base because both `cli` and `esscli` use
 * it and neither may import the other.
 *
 * The password is sent once, to log in; every later request carries the token. Redirects are not
 * followed, so that neither can end up at another machine.
 */

import { FlashlunError, isErrorCode } from './errors.js';

/** Port of the HTTP API when an address names none. */
export const DEFAULT_API_PORT = 8452;

/** How long clients wait, in milliseconds. */
export const CLIENT_DEADLINES = {
  /**
   * A request that reads or changes a row; the server answers in milliseconds unless its disk is
   * stuck.
   */
  requestMs: 30_000,
  /** The first sign of life: a person is waiting to hear that the address is wrong. */
  heartbeatMs: 10_000,
  /** Nobody waits for it, and a server that is gone must not hold up the line that says so. */
  logOutMs: 2_000,
  /**
   * Establish and task run wait for writes in flight to drain; an ESS holds writes for up to 120 s.
   */
  runMs: 150_000,
} as const;

export type ClientDeadlines = Readonly<Record<keyof typeof CLIENT_DEADLINES, number>>;

export interface RequestOptions {
  readonly body?: unknown;
  /** Default: `requestMs`. */
  readonly deadline?: keyof ClientDeadlines;
  readonly signal?: AbortSignal;
}

/**
 * `host`, `host:port`, `[::1]:port` or a URL -> the base URL without a trailing slash; http and
 * port 8452 by default.
 * @throws FlashlunError USAGE
 */
export function parseServerUrl(text: string): string {
  const trimmed = text.trim();
  const withScheme = /^[a-z][a-z0-9+.-]*:\/\//i.test(trimmed) ? trimmed : `http://${trimmed}`;
  const url = URL.canParse(withScheme) ? new URL(withScheme) : undefined;
  const plain = url?.username === '' && url.password === '' && url.search === '' && url.hash === '';
  if (url === undefined || !plain || !['http:', 'https:'].includes(url.protocol)) {
    throw new FlashlunError(
      'USAGE',
      `'${text}' is not a server address. Write host, host:port or a URL, for example ` +
        `http://127.0.0.1:${DEFAULT_API_PORT}.`,
    );
  }
  // A bare address means our port; somebody who writes a URL with a scheme and no port gets our
  // port for http and the usual 443 for https, where a reverse proxy is likely.
  const explicitPort = /:\d+$/.test(withScheme.replace(/^[^/]*\/\//, '').split('/')[0] ?? '');
  if (!explicitPort && url.protocol === 'http:') url.port = String(DEFAULT_API_PORT);
  return `${url.protocol}//${url.host}${url.pathname.replace(/\/+$/, '')}`;
}

/** A client of one server, logged in or not. */
export class ApiClient {
  readonly baseUrl: string;
  readonly #deadlines: ClientDeadlines;
  #token: string | undefined;

  /** @param server what {@link parseServerUrl} accepts; tests shorten the deadlines */
  constructor(server: string, deadlines: ClientDeadlines = CLIENT_DEADLINES) {
    this.baseUrl = parseServerUrl(server);
    this.#deadlines = deadlines;
  }

  /**
   * `GET /heartbeat`, which needs no login. @throws FlashlunError unless the server answers with
   * success
   */
  async heartbeat(): Promise<void> {
    await this.#send('GET', '/heartbeat', { deadline: 'heartbeatMs' });
  }

  /** Logs in; later requests carry the session's token. @throws FlashlunError UNAUTHENTICATED */
  async logIn(user: string, password: string): Promise<void> {
    const session = await this.json('POST', '/v1/session', { body: { user, password } });
    const token = isRecord(session) ? session['token'] : undefined;
    if (typeof token !== 'string') throw this.#notFlashlun('the login answer has no token');
    this.#token = token;
  }

  /**
   * Ends the session. Best effort: the command's work is done, and the server expires sessions
   * anyway.
   */
  async logOut(): Promise<void> {
    if (this.#token === undefined) return;
    try {
      await this.#send('DELETE', '/v1/session', { deadline: 'logOutMs' });
    } catch {
      // Nothing to add to a command that has already succeeded or failed.
    }
    this.#token = undefined;
  }

  /**
   * Sends a request and returns the decoded JSON answer; undefined for 204. @throws FlashlunError
   */
  async json<T = unknown>(method: string, path: string, options: RequestOptions = {}) {
    const text = await this.#send(method, path, options);
    if (text === '') return undefined as T;
    const value = tryParseJson(text);
    if (value === undefined) throw this.#notFlashlun(`${method} ${path} did not answer with JSON`);
    return value as T;
  }

  /**
   * Sends plain text and returns the plain-text answer without surrounding blanks. @throws
   * FlashlunError
   */
  async text(method: string, path: string, body: string): Promise<string> {
    return (await this.#send(method, path, { body })).trim();
  }

  async #send(method: string, path: string, options: RequestOptions): Promise<string> {
    const timeoutMs = this.#deadlines[options.deadline ?? 'requestMs'];
    const timeout = AbortSignal.timeout(timeoutMs);
    const signal =
      options.signal === undefined ? timeout : AbortSignal.any([timeout, options.signal]);
    const init: RequestInit = {
      method,
      signal,
      redirect: 'manual',
      headers: this.#headers(options),
    };
    if (options.body !== undefined) {
      init.body = typeof options.body === 'string' ? options.body : JSON.stringify(options.body);
    }
    let status: number;
    let text: string;
    try {
      const response = await fetch(this.baseUrl + path, init);
      status = response.status;
      text = await response.text();
    } catch (error) {
      if (options.signal?.aborted === true) throw error;
      throw this.#connectionError(error, timeoutMs);
    }
    if (status >= 200 && status <= 299) return text;
    throw this.#answerError(status, text, `${method} ${path}`);
  }

  #headers(options: RequestOptions): Record<string, string> {
    const headers: Record<string, string> = { accept: 'application/json, text/plain' };
    if (this.#token !== undefined) headers['authorization'] = `Bearer ${this.#token}`;
    if (options.body !== undefined) {
      headers['content-type'] =
        typeof options.body === 'string' ? 'text/plain' : 'application/json';
    }
    return headers;
  }

  #answerError(status: number, text: string, request: string): FlashlunError {
    const body = tryParseJson(text);
    if (!isRecord(body) || typeof body['message'] !== 'string') {
      return this.#notFlashlun(`${request} answered ${status}`);
    }
    const { code, message, details } = body;
    // A newer server may know codes that this client does not; its status still tells whose fault
    // it was.
    const known = isErrorCode(code) ? code : codeOfStatus(status);
    return new FlashlunError(known, message, isRecord(details) ? { details } : {});
  }

  #notFlashlun(why: string): FlashlunError {
    return new FlashlunError(
      'INTERNAL',
      `${this.baseUrl} does not answer like a flashlun server (${why}). Check the address.`,
    );
  }

  #connectionError(error: unknown, timeoutMs: number): FlashlunError {
    if (error instanceof Error && error.name === 'TimeoutError') {
      return new FlashlunError(
        'CANNOT_CONNECT',
        `no answer from ${this.baseUrl} within ${timeoutMs / 1000} s. ` +
          'Check that the server is alive.',
        { cause: error, details: { timedOut: true } },
      );
    }
    return new FlashlunError(
      'CANNOT_CONNECT',
      `cannot connect to ${this.baseUrl}: ${networkReason(error)}. ` +
        'Start the server (flashlun serve) or check the address.',
      { cause: error },
    );
  }
}

/** Whether a request was given up because nothing was heard in time. */
export function isTimeout(error: unknown): boolean {
  return error instanceof FlashlunError && error.details?.['timedOut'] === true;
}

const NETWORK_REASONS: Record<string, string> = {
  ECONNREFUSED: 'nothing listens there',
  ECONNRESET: 'the connection was closed before the answer',
  UND_ERR_SOCKET: 'the connection was closed before the answer',
  ENOTFOUND: 'there is no host of this name',
  EAI_AGAIN: 'the name cannot be looked up now',
  EHOSTUNREACH: 'the host cannot be reached',
  ENETUNREACH: 'the network cannot be reached',
  ETIMEDOUT: 'no answer',
  UND_ERR_CONNECT_TIMEOUT: 'no answer',
};

/**
 * fetch wraps what happened: TypeError "fetch failed" -> cause with a code, or an AggregateError of
 * several.
 */
function networkReason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = isRecord(cause) && typeof cause['code'] === 'string' ? cause['code'] : '';
  const known = NETWORK_REASONS[code];
  if (known !== undefined) return known;
  const message = cause instanceof Error ? cause.message : String(cause);
  return message === '' ? code : message;
}

function codeOfStatus(status: number) {
  if (status === 401) return 'UNAUTHENTICATED';
  if (status === 403) return 'FORBIDDEN';
  if (status === 404) return 'NOT_FOUND';
  if (status === 429) return 'RATE_LIMITED';
  return status < 500 ? 'INVALID_ARGUMENT' : 'INTERNAL';
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function tryParseJson(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    return undefined;
  }
}
