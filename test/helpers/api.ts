/**
 * A client of the HTTP API for tests: written against the documented surface, not with the
 * product's own client.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { until } from './wait.js';

export interface Flashcopy {
  readonly id: string;
  readonly source: string;
  readonly target: string;
  readonly copyMode: 'copy' | 'nocopy';
  readonly totalTracks: number;
  readonly outOfSyncTracks: number;
}

export interface VolumeView {
  readonly id: string;
  readonly serial: string;
  readonly name: string;
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly attached: number;
}

export interface Reply {
  readonly status: number;
  /** The JSON body, or undefined. */
  readonly body: unknown;
}

const REQUEST_DEADLINE_MS = 30_000;

export class Api {
  readonly #base: string;
  readonly #data: string;
  #token: string | undefined;

  constructor(base: string, data: string) {
    this.#base = base;
    this.#data = data;
  }

  /** One request as admin, whatever its status. */
  async request(method: string, path: string, body?: unknown): Promise<Reply> {
    this.#token ??= await this.#logIn();
    return this.#send(method, path, body);
  }

  /** One request that must succeed; its body. */
  async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    const reply = await this.request(method, path, body);
    if (reply.status >= 300) {
      throw new Error(`${method} ${path}: ${reply.status} ${JSON.stringify(reply.body)}`);
    }
    return reply.body as T;
  }

  createVolume(lss: string, sizeBytes: number, name?: string): Promise<VolumeView> {
    return this.call('POST', '/v1/volumes', { lss, sizeBytes, ...(name && { name }) });
  }

  volume(ref: string): Promise<VolumeView> {
    return this.call('GET', `/v1/volumes/${ref}`);
  }

  /** Establishes `pairs` such as '1203:1303', all at one point in time. */
  async establish(pairs: readonly string[], noCopy: boolean): Promise<void> {
    await this.call('POST', '/v1/flashcopies', {
      pairs: pairs.map((pair) => {
        const [source, target] = pair.split(':');
        return { source, target };
      }),
      // Tests establish onto targets that they have written.
      options: { noCopy, force: true, undoSeconds: 0 },
    });
  }

  async withdraw(pair: string): Promise<void> {
    await this.call('DELETE', `/v1/flashcopies/${pair}`);
  }

  async flashcopies(): Promise<Flashcopy[]> {
    const body = await this.call<{ flashcopies: Flashcopy[] }>('GET', '/v1/flashcopies');
    return body.flashcopies;
  }

  /** Waits until the background copy of a pair is done, which ends the relationship by itself. */
  async copied(pair: string, deadlineMs = 60_000): Promise<void> {
    let last: Flashcopy | undefined;
    await until(
      `the end of the background copy of ${pair}`,
      async () => {
        last = (await this.flashcopies()).find((copy) => copy.id === pair);
        return last === undefined;
      },
      { deadlineMs, diagnosis: () => JSON.stringify(last) },
    );
  }

  async #logIn(): Promise<string> {
    const password = (await readFile(join(this.#data, 'admin-password'), 'utf8')).trim();
    const reply = await this.#send('POST', '/v1/session', { user: 'admin', password });
    if (reply.status !== 201)
      throw new Error(`login: ${reply.status} ${JSON.stringify(reply.body)}`);
    return (reply.body as { token: string }).token;
  }

  async #send(method: string, path: string, body?: unknown): Promise<Reply> {
    const response = await fetch(this.#base + path, {
      method,
      signal: AbortSignal.timeout(REQUEST_DEADLINE_MS),
      headers: {
        ...(body !== undefined && { 'content-type': 'application/json' }),
        ...(this.#token !== undefined && { authorization: `Bearer ${this.#token}` }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  }
}
