/** Routes of the pools. */

import type { App } from './app.js';
import {
  ErrorBody,
  GrowPoolBody,
  NewPoolBody,
  PoolBody,
  PoolParams,
  PoolsBody,
} from './schemas.js';
import type { ApiServices } from './services.js';

/** Adds /v1/pools. */
export function addPoolRoutes(app: App, { pools }: ApiServices): void {
  const tags = ['pools'];
  app.get(
    '/v1/pools',
    { schema: { summary: 'all pools', tags, response: { 200: PoolsBody } } },
    () => ({ pools: pools.list() }),
  );

  app.post(
    '/v1/pools',
    {
      schema: {
        summary: 'make a pool on a new file or an unused block device',
        tags,
        body: NewPoolBody,
        response: { 201: PoolBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => reply.code(201).send(await pools.create(request.body)),
  );

  app.get(
    '/v1/pools/:name',
    {
      schema: {
        summary: 'one pool',
        tags,
        params: PoolParams,
        response: { 200: PoolBody, '4xx': ErrorBody },
      },
    },
    (request) => pools.get(request.params.name),
  );

  app.post(
    '/v1/pools/:name/grow',
    {
      schema: {
        summary: 'enlarge a pool',
        tags,
        params: PoolParams,
        body: GrowPoolBody,
        response: { 200: PoolBody, '4xx': ErrorBody },
      },
    },
    (request) => pools.grow(request.params.name, request.body.sizeBytes),
  );
}
