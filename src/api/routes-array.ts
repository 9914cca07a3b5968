/** Routes of the array: the machine, its LSSs and volumes, users, the session. */

import { FlashlunError } from '../base/errors.js';
import { TRACK_BYTES } from '../engine/types.js';
import type { App } from './app.js';
import { addPoolRoutes } from './routes-pools.js';
import {
  ArrayBody,
  ErrorBody,
  LssBody,
  NewVolumeBody,
  Nothing,
  ResizeVolumeBody,
  ScrubBody,
  UsersBody,
  VolumeBody,
  VolumeParams,
  VolumesBody,
  VolumesQuery,
} from './schemas.js';
import type { ApiServices } from './services.js';

/** What `lsdev`-like tools of the period print for an ESS 800. */
const MODEL = '2105-800';

/** Adds /v1/array, /v1/lss, /v1/volumes, /v1/users and the end of a session. */
export function addArrayRoutes(app: App, services: ApiServices): void {
  const { array, auth } = services;

  app.get(
    '/v1/array',
    { schema: { summary: 'the machine', tags: ['array'], response: { 200: ArrayBody } } },
    () => {
      const { capacityTracks, usedTracks, direct, ioBackend } = services.engine.info();
      return {
        machine: array.machine,
        serial: array.essSerial,
        model: MODEL,
        version: services.version,
        pool: {
          capacityBytes: capacityTracks * TRACK_BYTES,
          usedBytes: usedTracks * TRACK_BYTES,
        },
        io: { cache: direct ? 'none' : 'writeback', backend: ioBackend },
        nbd: services.nbdAddresses(),
        lss: array.lss().map(({ id }) => id),
      };
    },
  );

  app.get(
    '/v1/lss',
    { schema: { summary: 'LSSs with volumes', tags: ['array'], response: { 200: LssBody } } },
    () => ({ lss: array.lss() }),
  );

  app.get(
    '/v1/users',
    { schema: { summary: 'users', tags: ['users'], response: { 200: UsersBody } } },
    (request) => {
      if (request.principal?.role !== 'admin') throw new FlashlunError('FORBIDDEN', '');
      return { users: auth.users() };
    },
  );

  app.delete(
    '/v1/session',
    { schema: { summary: 'log out', tags: ['session'], response: { 204: Nothing } } },
    async (request, reply) => {
      auth.logout(request.headers.authorization);
      return reply.code(204).send(null);
    },
  );

  addVolumeList(app, services);
  addVolumeRoutes(app, services);
  addPoolRoutes(app, services);
  addScrubRoutes(app, services);
}

function addScrubRoutes(app: App, { scrubs }: ApiServices): void {
  const path = '/v1/volumes/:ref/verify';
  const common = { tags: ['volumes'], params: VolumeParams };

  app.post(
    path,
    {
      schema: {
        ...common,
        summary: 'begin to read the whole volume and to compare it with its checksums',
        response: { 202: ScrubBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => reply.code(202).send(scrubs.start(request.params.ref)),
  );

  app.get(
    path,
    {
      schema: {
        ...common,
        summary: 'how that goes, or how it went the last time',
        response: { 200: ScrubBody, '4xx': ErrorBody },
      },
    },
    (request) => scrubs.get(request.params.ref),
  );

  app.delete(
    path,
    {
      schema: {
        ...common,
        summary: 'stop it',
        response: { 200: ScrubBody, '4xx': ErrorBody },
      },
    },
    (request) => scrubs.stop(request.params.ref),
  );
}

function addVolumeList(app: App, { access, array }: ApiServices): void {
  app.get(
    '/v1/volumes',
    {
      schema: {
        summary: 'all volumes, or those that a host has by its disk map (host focus)',
        tags: ['volumes'],
        querystring: VolumesQuery,
        response: { 200: VolumesBody, '4xx': ErrorBody },
      },
    },
    ({ query }) => {
      const focus = query.host === undefined ? undefined : access.focus(query.host);
      const volumes = array.volumes();
      return { volumes: volumes.filter(({ id }) => focus === undefined || focus.has(id)) };
    },
  );
}

function addVolumeRoutes(app: App, { array }: ApiServices): void {
  app.post(
    '/v1/volumes',
    {
      schema: {
        summary: 'make a volume',
        tags: ['volumes'],
        body: NewVolumeBody,
        response: { 201: VolumeBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => reply.code(201).send(await array.create(request.body)),
  );

  app.get(
    '/v1/volumes/:ref',
    {
      schema: {
        summary: 'one volume, by id, serial or name',
        tags: ['volumes'],
        params: VolumeParams,
        response: { 200: VolumeBody, '4xx': ErrorBody },
      },
    },
    (request) => array.get(request.params.ref),
  );

  app.patch(
    '/v1/volumes/:ref',
    {
      schema: {
        summary: 'grow a volume, online; clients see it when they connect again',
        tags: ['volumes'],
        params: VolumeParams,
        body: ResizeVolumeBody,
        response: { 200: VolumeBody, '4xx': ErrorBody },
      },
    },
    (request) => array.resize(request.params.ref, request.body.sizeBytes),
  );

  app.delete(
    '/v1/volumes/:ref',
    {
      schema: {
        summary: 'delete a volume and its data',
        tags: ['volumes'],
        params: VolumeParams,
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      await array.delete(request.params.ref);
      return reply.code(204).send(null);
    },
  );
}
