/** Routes of schedules. */

import type { App } from './app.js';
import { userOf } from './principal.js';
import { ErrorBody, Nothing } from './schemas.js';
import {
  NewScheduleBody,
  ScheduleBody,
  ScheduleChangeBody,
  ScheduleParams,
  ScheduleRunBody,
  ScheduleRunsBody,
  SchedulesBody,
} from './schemas-schedules.js';
import type { ApiServices } from './services.js';

const tags = ['schedules'];
const one = { tags, params: ScheduleParams };

/** Adds /v1/schedules. */
export function addSchedulesRoutes(app: App, services: ApiServices): void {
  addScheduleRoutes(app, services);
  addScheduleRunRoutes(app, services);
}

function addScheduleRoutes(app: App, { schedules }: ApiServices): void {
  app.get(
    '/v1/schedules',
    { schema: { summary: 'all schedules', tags, response: { 200: SchedulesBody } } },
    () => ({ schedules: schedules.list() }),
  );

  app.post(
    '/v1/schedules',
    {
      schema: {
        summary: 'run a task, or a rotation of copies, at certain times',
        tags,
        body: NewScheduleBody,
        response: { 201: ScheduleBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => reply.code(201).send(schedules.create(request.body, userOf(request))),
  );

  app.get(
    '/v1/schedules/:name',
    {
      schema: {
        ...one,
        summary: 'one schedule',
        response: { 200: ScheduleBody, '4xx': ErrorBody },
      },
    },
    (request) => schedules.get(request.params.name),
  );

  app.patch(
    '/v1/schedules/:name',
    {
      schema: {
        ...one,
        summary: 'switch on or off; times that pass while it is off are not made up for',
        body: ScheduleChangeBody,
        response: { 200: ScheduleBody, '4xx': ErrorBody },
      },
    },
    (request) => schedules.setEnabled(request.params.name, request.body.enabled, userOf(request)),
  );

  app.delete(
    '/v1/schedules/:name',
    {
      schema: {
        ...one,
        summary: 'delete; refused while a copy of it is locked. Relationships stay',
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      schedules.delete(request.params.name, userOf(request));
      return reply.code(204).send(null);
    },
  );
}

function addScheduleRunRoutes(app: App, { scheduler, schedules }: ApiServices): void {
  app.post(
    '/v1/schedules/:name/run',
    {
      schema: {
        ...one,
        summary: 'run it now; a refusal is an error, and kept as a result',
        response: { 200: ScheduleRunBody, '4xx': ErrorBody },
      },
    },
    (request) => scheduler.runNow(request.params.name),
  );

  app.get(
    '/v1/schedules/:name/runs',
    {
      schema: {
        ...one,
        summary: 'its last runs, the newest first',
        response: { 200: ScheduleRunsBody, '4xx': ErrorBody },
      },
    },
    (request) => ({ runs: schedules.history(request.params.name) }),
  );
}
