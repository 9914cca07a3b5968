/** What tests of `serve --takeover` share. */
import { expect } from 'vitest';
import type { Scope } from './cleanup.js';
import { type Server, startServer } from './server.js';

/** Of what GET /v1/connections tells. */
export interface ConnectionView {
  readonly id: number;
  readonly volume: string;
  readonly transport: string;
  readonly features: readonly string[];
  readonly requests: { readonly read: number; readonly write: number };
}

export async function connections(server: Server): Promise<ConnectionView[]> {
  return (await server.api.call<{ connections: ConnectionView[] }>('GET', '/v1/connections'))
    .connections;
}

/** Starts the next server with --takeover and waits for the end of the one before. */
export async function next(scope: Scope, old: Server, ...args: string[]): Promise<Server> {
  const server = await startServer(scope, { data: old.data, args: ['--takeover', ...args] });
  expect(await old.endedByItself()).toBe(0);
  return server;
}
