/** A listener that hands every socket to the engine at once, without negotiation. */
import { once } from 'node:events';
import { createServer } from 'node:net';
import { join } from 'node:path';
import type { AdoptOptions, CloseReason, Engine } from '../../../src/engine/index.js';
import { handOver } from '../../../src/nbd/hand-over.js';
import type { Scope } from '../../helpers/cleanup.js';

export interface Closed {
  readonly reason: CloseReason;
  readonly detail: string;
  readonly requests: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
}

export interface Served {
  readonly path: string;
  /** Ids of the connections, in the order they came. */
  readonly ids: number[];
  /** How connections ended, in the order they did. */
  readonly closed: Closed[];
}

export async function serve(
  scope: Scope,
  engine: Engine,
  options: AdoptOptions,
  leftover: Uint8Array = new Uint8Array(),
): Promise<Served> {
  const served: Served = { path: join(await scope.tempDir(), 's'), ids: [], closed: [] };
  const server = createServer({ pauseOnConnect: true, allowHalfOpen: true }, (socket) => {
    const adopt = (fd: number, bytes: Uint8Array): number =>
      engine.adopt(fd, options, bytes, (reason, detail, counters) => {
        served.closed.push({ reason, detail, ...counters });
      });
    served.ids.push(handOver(socket, leftover, adopt));
  });
  server.listen(served.path);
  await once(server, 'listening');
  scope.defer('close the listener', () => server.close());
  return served;
}
