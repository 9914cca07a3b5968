/**
 * The real server as a child process: `bin/flashlun serve` on a data directory and on ports of the
 * kernel's choice.
 *
 * A restart on the same data directory is a second `startServer` with the same `data`.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import type { NetConnectOpts } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Api } from './api.js';
import type { Scope } from './cleanup.js';
import { exec, type ExecResult, killGroup } from './exec.js';
import { until } from './wait.js';

export const ROOT = fileURLToPath(new URL('../..', import.meta.url));
export const FLASHLUN = join(ROOT, 'bin/flashlun');

const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 20_000;
/** Of the log, for the diagnosis of a failure. */
const KEPT_LOG_CHARS = 16_384;

export interface ServerOptions {
  /** An existing data directory; without it a new temporary one. */
  readonly data?: string;
  /** More arguments of `serve`. */
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** What DATA/flashlun.json holds. */
interface Addresses {
  readonly pid: number;
  readonly http: string;
  readonly nbd: { readonly tcp: string | null; readonly unix: string | null };
}

export class Server {
  readonly data: string;
  readonly addresses: Addresses;
  readonly api: Api;
  readonly #child: ChildProcess;
  readonly #log: () => string;
  #killed = false;

  constructor(data: string, addresses: Addresses, child: ChildProcess, log: () => string) {
    this.data = data;
    this.addresses = addresses;
    this.api = new Api(addresses.http, data);
    this.#child = child;
    this.#log = log;
  }

  get pid(): number {
    return this.addresses.pid;
  }

  get log(): string {
    return this.#log();
  }

  /** False from the moment of `kill9` on: this process hears of the end a moment later. */
  get running(): boolean {
    return !this.#killed && this.#exists;
  }

  get #exists(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  get unixPath(): string {
    if (this.addresses.nbd.unix === null) throw new Error('this server has no unix socket');
    return this.addresses.nbd.unix;
  }

  /** `nbd+unix` URI of an export. */
  unixUri(exportName: string): string {
    return `nbd+unix:///${exportName}?socket=${this.unixPath}`;
  }

  get tcp(): { host: string; port: number } {
    const match = /^(.*):(\d+)$/.exec(this.addresses.nbd.tcp ?? '');
    if (match === null) throw new Error('this server has no TCP listener');
    return { host: match[1]!, port: Number(match[2]) };
  }

  /** Where to connect to. */
  address(transport: 'tcp' | 'unix'): NetConnectOpts {
    return transport === 'tcp' ? this.tcp : { path: this.unixPath };
  }

  tcpUri(exportName: string): string {
    return `nbd://${this.tcp.host}:${this.tcp.port}/${exportName}`;
  }

  /** `bin/flashlun --data DATA ...`, whatever its exit code. */
  flashlun(...args: string[]): Promise<ExecResult> {
    return exec(FLASHLUN, ['--data', this.data, ...args]);
  }

  /** SIGTERM; the exit code must be 0. */
  async stop(): Promise<void> {
    if (!this.running) return;
    this.#child.kill('SIGTERM');
    await this.#ended('stop after SIGTERM');
    if (this.#child.exitCode !== 0) {
      throw new Error(
        `the server ended with ${this.#child.exitCode ?? this.#child.signalCode}\n${this.log}`,
      );
    }
  }

  /** Waits for the server to end by itself, and returns its exit code. */
  async endedByItself(): Promise<number | null> {
    await this.#ended('end by itself');
    return this.#child.exitCode;
  }

  /** SIGKILL: nothing of the process can run any more. */
  async kill9(): Promise<void> {
    this.#killed = true;
    this.#child.kill('SIGKILL');
    await this.#ended('end after SIGKILL');
  }

  #ended(what: string): Promise<true> {
    return until(`the server's ${what}`, () => !this.#exists, {
      deadlineMs: STOP_DEADLINE_MS,
      diagnosis: () => this.log,
    });
  }
}

function serveArgs(data: string, more: readonly string[] = []): string[] {
  return ['serve', '--data', data, '--http', '127.0.0.1:0', '--nbd', '127.0.0.1:0', ...more];
}

/**
 * Starts a server, waits until it has written its addresses, and stops it at the end of the scope.
 */
export async function startServer(scope: Scope, options: ServerOptions = {}): Promise<Server> {
  const data = options.data ?? join(await scope.tempDir(), 'data');
  const child = spawn(FLASHLUN, serveArgs(data, options.args), {
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, ...options.env },
    detached: true,
  });
  let log = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (chunk: string) => {
      log = (log + chunk).slice(-KEPT_LOG_CHARS);
    });
  }
  child.on('error', (error) => {
    log += String(error);
  });
  scope.defer('stop the server', () => {
    if (child.pid !== undefined) killGroup(child.pid);
  });
  const addresses = await until('the start of the server', () => addressesOf(data, child), {
    deadlineMs: START_DEADLINE_MS,
    diagnosis: () => log,
  });
  const server = new Server(data, addresses, child, () => log);
  scope.defer('stop the server in good order', () => server.stop());
  return server;
}

/**
 * The addresses, once the file is of this process: the one of an earlier start may still be there.
 */
async function addressesOf(data: string, child: ChildProcess): Promise<Addresses | undefined> {
  if (child.exitCode !== null || child.signalCode !== null) {
    throw new Error(`the server ended at its start (${child.exitCode ?? child.signalCode})`);
  }
  const text = await readFile(join(data, 'flashlun.json'), 'utf8').catch(() => '');
  const addresses = parsed(text);
  return addresses?.pid === child.pid ? addresses : undefined;
}

function parsed(text: string): Addresses | undefined {
  try {
    return JSON.parse(text) as Addresses;
  } catch {
    return undefined;
  }
}

/** Starts a server that must refuse to start, and returns its exit code and output. */
export function refusedStart(
  data: string,
  options: Omit<ServerOptions, 'data'> = {},
): Promise<ExecResult> {
  return exec(FLASHLUN, serveArgs(data, options.args), {
    deadlineMs: START_DEADLINE_MS,
    ...(options.env === undefined ? {} : { env: options.env }),
  });
}
