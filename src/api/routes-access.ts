/** Routes of hosts, volume access (LUN masking) and rate limits. */

import type { App } from './app.js';
import { userOf } from './principal.js';
import { ErrorBody, Nothing, VolumeParams } from './schemas.js';
import {
  AllowBody,
  HostBody,
  HostChangeBody,
  HostParams,
  HostsBody,
  NewHostBody,
  RatesBody,
  RatesChangeBody,
  ReplaceAccessBody,
  VolumeAccessBody,
  VolumeHostParams,
} from './schemas-access.js';
import type { ApiServices } from './services.js';

/** Adds /v1/hosts, /v1/volumes/:ref/access and /v1/volumes/:ref/limits. */
export function addAccessRoutes(app: App, services: ApiServices): void {
  addHostRoutes(app, services);
  addVolumeAccessRoutes(app, services);
  addRateRoutes(app, services);
}

function addHostRoutes(app: App, { access }: ApiServices): void {
  const tags = ['hosts'];
  const one = { tags, params: HostParams };

  app.get(
    '/v1/hosts',
    { schema: { summary: 'all hosts', tags, response: { 200: HostsBody } } },
    () => ({ hosts: access.hostList() }),
  );

  app.post(
    '/v1/hosts',
    {
      schema: {
        summary: 'name a host, and say what its clients are known by',
        tags,
        body: NewHostBody,
        response: { 201: HostBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      const { name, ...change } = request.body;
      access.hosts.create(name, change, userOf(request));
      return reply.code(201).send(access.host(name));
    },
  );

  app.get(
    '/v1/hosts/:name',
    {
      schema: {
        ...one,
        summary: 'one host and the volumes it may attach',
        response: { 200: HostBody, '4xx': ErrorBody },
      },
    },
    (request) => access.host(request.params.name),
  );

  app.patch(
    '/v1/hosts/:name',
    {
      schema: {
        ...one,
        summary: 'replace what is given; connections that are no longer allowed end',
        body: HostChangeBody,
        response: { 200: HostBody, '4xx': ErrorBody },
      },
    },
    (request) => access.updateHost(request.params.name, request.body, userOf(request)),
  );

  app.delete(
    '/v1/hosts/:name',
    {
      schema: {
        ...one,
        summary: 'delete a host; refused while it has access to a volume',
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      access.deleteHost(request.params.name, userOf(request));
      return reply.code(204).send(null);
    },
  );
}

function addVolumeAccessRoutes(app: App, { access }: ApiServices): void {
  const path = '/v1/volumes/:ref/access';
  const tags = ['volumes'];
  const one = { tags, params: VolumeParams, response: { 200: VolumeAccessBody, '4xx': ErrorBody } };
  const ofHost = { ...one, params: VolumeHostParams };

  app.get(path, { schema: { ...one, summary: 'who may attach it' } }, (request) =>
    access.show(request.params.ref),
  );

  app.put(
    path,
    { schema: { ...one, summary: 'exactly these hosts, or nobody', body: ReplaceAccessBody } },
    (request) => {
      const rules = request.body.hosts.map((rule) => ({
        host: rule.host,
        readOnly: rule.access === 'read-only',
      }));
      return access.replace(request.params.ref, rules, userOf(request));
    },
  );

  app.delete(
    path,
    { schema: { ...one, summary: 'back to the default: clients on the server itself' } },
    (request) => access.reset(request.params.ref, userOf(request)),
  );

  app.put(
    `${path}/:host`,
    { schema: { ...ofHost, summary: 'let a host attach it', body: AllowBody } },
    (request) => {
      const { ref, host } = request.params;
      return access.allow(ref, host, request.body.access === 'read-only', userOf(request));
    },
  );

  app.delete(
    `${path}/:host`,
    { schema: { ...ofHost, summary: 'take a host off it; without any, nobody may attach it' } },
    (request) => access.deny(request.params.ref, request.params.host, userOf(request)),
  );
}

function addRateRoutes(app: App, { rates }: ApiServices): void {
  const path = '/v1/volumes/:ref/limits';
  const common = {
    tags: ['volumes'],
    params: VolumeParams,
    response: { 200: RatesBody, '4xx': ErrorBody },
  };

  app.get(path, { schema: { ...common, summary: 'its rate limits' } }, (request) =>
    rates.show(request.params.ref),
  );

  app.patch(
    path,
    {
      schema: {
        ...common,
        summary:
          'change what is given; null takes a limit away. Requests are delayed, never failed',
        body: RatesChangeBody,
      },
    },
    (request) => rates.change(request.params.ref, request.body, userOf(request)),
  );
}
