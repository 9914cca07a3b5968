/** The HTTP server: routes, the log-in check of /v1, listening and stopping. */

import type { AddressInfo } from 'node:net';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import { type App, createApp } from './app.js';
import { addAccessRoutes } from './routes-access.js';
import { addArrayRoutes } from './routes-array.js';
import { addConnectionRoutes } from './routes-connections.js';
import { addCopyServicesRoutes } from './routes-copyservices.js';
import { addOpenRoutes } from './routes-open.js';
import type { ApiServices } from './services.js';

/** Builds the server with all its routes, not yet listening. */
export async function createApiServer(services: ApiServices): Promise<ApiServer> {
  const app = await createApp(services.version, services.log);
  addOpenRoutes(app, services);
  await app.register(async (scope: App) => {
    scope.addHook('onRequest', (request, _reply, done) => {
      const principal = services.auth.authenticate(request.headers.authorization);
      request.principal = principal;
      const changes = !['GET', 'HEAD'].includes(request.method);
      const ownSession = request.routeOptions.url === '/v1/session';
      if (principal.role === 'monitor' && changes && !ownSession) {
        throw new FlashlunError(
          'FORBIDDEN',
          `user ${principal.user} may look but not change anything (role monitor).`,
        );
      }
      done();
    });
    addArrayRoutes(scope, services);
    addAccessRoutes(scope, services);
    addConnectionRoutes(scope, services);
    await addCopyServicesRoutes(scope, services);
  });
  await app.ready();
  return new ApiServer(app);
}

export class ApiServer {
  /** For tests: `app.inject()` sends a request without a socket. */
  readonly app: App;

  constructor(app: App) {
    this.app = app;
  }

  /**
   * Starts to listen; port 0 lets the kernel choose.
   *
   * @throws FlashlunError ADDRESS_IN_USE, ADDRESS_UNUSABLE
   */
  async listen(host: string, port: number): Promise<{ host: string; port: number }> {
    try {
      await this.app.listen({ host, port });
    } catch (error) {
      throw describeListenError(error, `${host}:${port}`);
    }
    return this.#address();
  }

  /** As listen, on a socket that listens already; takes its descriptor. */
  async listenOn(fd: number): Promise<{ host: string; port: number }> {
    const { server } = this.app;
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ fd }, () => {
        server.removeListener('error', reject);
        resolve();
      });
    });
    return this.#address();
  }

  #address(): { host: string; port: number } {
    // A TCP listener always has an address of this form.
    const { address, port } = this.app.server.address() as AddressInfo;
    return { host: address, port };
  }

  /**
   * Stops accepting on the socket, which goes on listening for whoever has a duplicate of it, and
   * resolves when no request is in flight; those that take longer than `graceMs` are cut off.
   */
  async pause(graceMs: number): Promise<void> {
    const { server } = this.app;
    const cutOff = setTimeout(() => server.closeAllConnections(), graceMs);
    await new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeIdleConnections();
    });
    clearTimeout(cutOff);
  }

  /** Stops accepting, lets requests in flight end, and cuts off those that take too long. */
  async close(): Promise<void> {
    const cutOff = setTimeout(() => {
      this.app.server.closeAllConnections();
    }, LIMITS.httpCloseMs);
    try {
      await this.app.close();
    } finally {
      clearTimeout(cutOff);
    }
  }
}

function describeListenError(error: unknown, address: string): FlashlunError {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'EADDRINUSE') {
    return new FlashlunError(
      'ADDRESS_IN_USE',
      `cannot listen for HTTP on ${address}: the port is in use. Stop the program that has it, ` +
        'or choose another with --http HOST:PORT.',
      { cause: error },
    );
  }
  const reason = error instanceof Error ? error.message : String(error);
  return new FlashlunError('ADDRESS_UNUSABLE', `cannot listen for HTTP on ${address}: ${reason}.`, {
    cause: error,
  });
}
