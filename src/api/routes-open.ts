/** Routes without log-in: probes, metrics, heartbeat, the OpenAPI document, and log-in itself. */

import type { TSchema } from 'typebox';
import { isLoopbackPeer } from './peer.js';
import type { ApiServices } from './services.js';
import { Credentials, ErrorBody, SessionBody, Text } from './schemas.js';
import type { App } from './app.js';

const PLAIN = 'text/plain; charset=utf-8';

/** Adds the routes that need no session. */
export function addOpenRoutes(app: App, services: ApiServices): void {
  app.get('/healthz', describe('the process answers', { 200: Text }), async (_request, reply) =>
    reply.type(PLAIN).send('ok\n'),
  );

  app.get(
    '/readyz',
    describe('LUNs can be attached', { 200: Text, 503: Text }),
    async (_request, reply) => {
      const obstacle = services.notReady();
      if (obstacle === undefined) return reply.type(PLAIN).send('ready\n');
      return reply.code(503).type(PLAIN).send(`not ready: ${obstacle}\n`);
    },
  );

  // What rsWebTest asks for before anything else (ess.md 5.5).
  app.get(
    '/heartbeat',
    describe('the Copy Services server is there', { 200: Text }),
    async (_request, reply) => reply.type(PLAIN).send('ok'),
  );

  app.get(
    '/metrics',
    describe('Prometheus metrics; needs a session when asked from another machine', { 200: Text }),
    async (request, reply) => {
      if (!isLoopbackPeer(request.socket.remoteAddress)) {
        services.auth.authenticate(request.headers.authorization);
      }
      const text = await services.metrics.text();
      return reply.type(services.metrics.contentType).send(text);
    },
  );

  app.get('/v1/openapi.json', { schema: { hide: true } }, () => app.swagger());

  app.post(
    '/v1/session',
    {
      schema: {
        summary: 'log in',
        tags: ['session'],
        security: [],
        body: Credentials,
        response: { 201: SessionBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      const { user, password } = request.body;
      const session = await services.auth.login(user, password, request.ip);
      return reply.code(201).header('cache-control', 'no-store').send(session);
    },
  );
}

function describe(summary: string, response: Record<number, TSchema>) {
  return { schema: { summary, tags: ['server'], security: [], response } };
}
