/** Routes of NBD connections, and of freezing volumes: what hosts do now, and holding them up. */

import { FlashlunError } from '../base/errors.js';
import type { App } from './app.js';
import {
  ConnectionBody,
  ConnectionParams,
  ConnectionsBody,
  ErrorBody,
  FreezeBody,
  Nothing,
  ThawBody,
  VolumeBody,
  VolumeParams,
} from './schemas.js';
import type { ApiServices } from './services.js';

/** Adds /v1/connections, and freeze and thaw of /v1/volumes. */
export function addConnectionRoutes(app: App, services: ApiServices): void {
  const { connections } = services;

  app.get(
    '/v1/connections',
    {
      schema: {
        summary: 'NBD clients in transmission',
        tags: ['connections'],
        response: { 200: ConnectionsBody },
      },
    },
    () => ({ connections: connections.views() }),
  );

  app.get(
    '/v1/connections/:id',
    {
      schema: {
        summary: 'one of them',
        tags: ['connections'],
        params: ConnectionParams,
        response: { 200: ConnectionBody, '4xx': ErrorBody },
      },
    },
    (request) => connections.view(connectionId(request.params.id)),
  );

  app.delete(
    '/v1/connections/:id',
    {
      schema: {
        summary: 'disconnect a client; it may connect again',
        tags: ['connections'],
        params: ConnectionParams,
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      connections.disconnect(connectionId(request.params.id));
      return reply.code(204).send(null);
    },
  );

  addFreezeRoutes(app, services);
}

function addFreezeRoutes(app: App, { freezes }: ApiServices): void {
  app.post(
    '/v1/volumes/:ref/freeze',
    {
      schema: {
        summary: 'hold up what hosts write, until thawed or for so long; reads go on',
        tags: ['volumes'],
        params: VolumeParams,
        body: FreezeBody,
        response: { 200: VolumeBody, '4xx': ErrorBody },
      },
    },
    (request) => freezes.freeze(request.params.ref, request.body?.seconds),
  );

  app.post(
    '/v1/volumes/:ref/thaw',
    {
      schema: {
        summary: 'let hosts write again; says whether they were held up until now',
        tags: ['volumes'],
        params: VolumeParams,
        response: { 200: ThawBody, '4xx': ErrorBody },
      },
    },
    (request) => freezes.thaw(request.params.ref),
  );
}

function connectionId(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new FlashlunError(
    'INVALID_ARGUMENT',
    `connection '${text.slice(0, 40)}' refused: use its number, as "flashlun connection list" ` +
      'shows it.',
  );
}
