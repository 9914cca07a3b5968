/** Routes of the ESS command lines: registration strings, and the disk maps of hosts. */

import { LIMITS } from '../base/limits.js';
import type { App } from './app.js';
import { userOf } from './principal.js';
import { ErrorBody, Text } from './schemas.js';
import { HostBody, PrimeBody } from './schemas-access.js';
import type { ApiServices } from './services.js';

/** Adds /v1/copyservices/registration and /v1/copyservices/prime. */
export async function addClientRoutes(app: App, services: ApiServices): Promise<void> {
  await addRegistrationRoute(app, services);
  app.post(
    '/v1/copyservices/prime',
    {
      schema: {
        summary:
          'what the host of a registered client calls its disks; replaces what it told before',
        tags: ['copyservices'],
        body: PrimeBody,
        response: { 200: HostBody, '4xx': ErrorBody },
      },
    },
    (request) => {
      const { clientId, disks } = request.body;
      return services.priming.prime(clientId, disks, userOf(request));
    },
  );
}

/** In a scope of its own: only here a body of any type is taken as text. */
async function addRegistrationRoute(app: App, { registration }: ApiServices): Promise<void> {
  await app.register((scope: App, _options, done) => {
    scope.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, parsed) => {
      parsed(null, body);
    });
    scope.post(
      '/v1/copyservices/registration',
      {
        bodyLimit: LIMITS.registrationBytes,
        schema: {
          summary: 'registration strings of command line clients, one a line; a reply for each',
          tags: ['copyservices'],
          consumes: ['text/plain'],
          produces: ['text/plain'],
          body: Text,
          response: { 200: Text, '4xx': ErrorBody },
        },
      },
      async (request, reply) =>
        reply.type('text/plain; charset=utf-8').send(registration.handle(request.body, request.ip)),
    );
    done();
  });
}
