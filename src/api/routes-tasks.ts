/** Routes of saved tasks. */

import type { App } from './app.js';
import { userOf } from './principal.js';
import { ErrorBody, Nothing } from './schemas.js';
import {
  ImportTasksBody,
  NewTaskBody,
  NewWorkBody,
  TaskBody,
  TaskParams,
  TaskRunBody,
  TaskRunsBody,
  TasksBody,
  WorkRunBody,
} from './schemas-tasks.js';
import type { ApiServices } from './services.js';

const tags = ['tasks'];

/** Adds /v1/tasks. */
export function addTasksRoutes(app: App, services: ApiServices): void {
  addTaskRoutes(app, services);
  addRunRoutes(app, services);
  addOneTaskRoutes(app, services);
}

function addTaskRoutes(app: App, { tasks }: ApiServices): void {
  app.get(
    '/v1/tasks',
    { schema: { summary: 'saved tasks', tags, response: { 200: TasksBody } } },
    () => ({ tasks: tasks.list() }),
  );

  app.post(
    '/v1/tasks',
    {
      schema: {
        summary: 'save a task',
        tags,
        body: NewTaskBody,
        response: { 201: TaskBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => reply.code(201).send(tasks.create(request.body)),
  );

  app.post(
    '/v1/tasks/import',
    {
      schema: {
        summary: 'save several tasks, all or none',
        tags,
        body: ImportTasksBody,
        response: { 200: TasksBody, '4xx': ErrorBody },
      },
    },
    ({ body }) => {
      tasks.import(body.tasks, body.replace ?? false);
      return { tasks: body.tasks.map(({ name }) => tasks.get(name)) };
    },
  );
}

function addRunRoutes(app: App, { tasks }: ApiServices): void {
  app.post(
    '/v1/tasks/run',
    {
      schema: {
        summary: 'do what a task would do, without saving one',
        tags,
        body: NewWorkBody,
        response: { 200: WorkRunBody, '4xx': ErrorBody },
      },
    },
    (request) => tasks.runNow(request.body, `user ${userOf(request)}`),
  );

  app.post(
    '/v1/tasks/:name/run',
    {
      schema: {
        summary: 'run a task; a refusal is an error, and kept as its last result',
        tags,
        params: TaskParams,
        response: { 200: TaskRunBody, '4xx': ErrorBody },
      },
    },
    (request) => tasks.run(request.params.name, `user ${userOf(request)}`),
  );

  app.get(
    '/v1/tasks/:name/runs',
    {
      schema: {
        summary: 'its last results, the newest first',
        tags,
        params: TaskParams,
        response: { 200: TaskRunsBody, '4xx': ErrorBody },
      },
    },
    (request) => ({ runs: tasks.history(request.params.name) }),
  );
}

/** Looking at one task, and deleting it. */
function addOneTaskRoutes(app: App, { tasks }: ApiServices): void {
  app.get(
    '/v1/tasks/:name',
    {
      schema: {
        summary: 'one task',
        tags,
        params: TaskParams,
        response: { 200: TaskBody, '4xx': ErrorBody },
      },
    },
    (request) => tasks.get(request.params.name),
  );

  app.delete(
    '/v1/tasks/:name',
    {
      schema: {
        summary: 'delete a task; refused while a group or a schedule runs it',
        tags,
        params: TaskParams,
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      tasks.delete(request.params.name);
      return reply.code(204).send(null);
    },
  );
}
