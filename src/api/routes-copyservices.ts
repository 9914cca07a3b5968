/** Routes of Copy Services: FlashCopy relationships, saved tasks, registration of clients. */

import { parsePair } from '../base/ids.js';
import { LIMITS } from '../base/limits.js';
import type { App } from './app.js';
import {
  ErrorBody,
  FlashcopiesBody,
  FlashcopiesQuery,
  FlashcopyBody,
  NewFlashcopiesBody,
  NewTaskBody,
  Nothing,
  PairParams,
  TaskBody,
  TaskParams,
  TaskRunBody,
  TasksBody,
  Text,
} from './schemas.js';
import type { ApiServices } from './services.js';

/** Adds /v1/flashcopies, /v1/tasks and /v1/copyservices/registration. */
export async function addCopyServicesRoutes(app: App, services: ApiServices): Promise<void> {
  addFlashcopyRoutes(app, services);
  addAgainRoutes(app, services);
  addTaskRoutes(app, services);
  addOneTaskRoutes(app, services);
  await addRegistrationRoute(app, services);
}

function addFlashcopyRoutes(app: App, { copyServices }: ApiServices): void {
  const tags = ['flashcopies'];

  app.get(
    '/v1/flashcopies',
    {
      schema: {
        summary: 'relationships, of one volume or all',
        tags,
        querystring: FlashcopiesQuery,
        response: { 200: FlashcopiesBody, '4xx': ErrorBody },
      },
    },
    (request) => ({ flashcopies: copyServices.list(request.query.volume) }),
  );

  app.post(
    '/v1/flashcopies',
    {
      schema: {
        summary: 'establish all pairs at one point in time, or none',
        tags,
        body: NewFlashcopiesBody,
        response: { 201: FlashcopiesBody, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      const { pairs, options } = request.body;
      const noCopy = options?.noCopy ?? false;
      return reply.code(201).send({ flashcopies: await copyServices.establish({ pairs, noCopy }) });
    },
  );

  app.get(
    '/v1/flashcopies/:pair',
    {
      schema: {
        summary: 'one relationship, as SOURCE:TARGET',
        tags,
        params: PairParams,
        response: { 200: FlashcopyBody, '4xx': ErrorBody },
      },
    },
    (request) => copyServices.show(parsePair(request.params.pair)),
  );

  app.delete(
    '/v1/flashcopies/:pair',
    {
      schema: {
        summary: 'withdraw: end a relationship; both volumes keep their content',
        tags,
        params: PairParams,
        response: { 204: Nothing, '4xx': ErrorBody },
      },
    },
    async (request, reply) => {
      await copyServices.withdraw(parsePair(request.params.pair));
      return reply.code(204).send(null);
    },
  );
}

/** A new T0 of a relationship that is there. */
function addAgainRoutes(app: App, { copyServices }: ApiServices): void {
  const tags = ['flashcopies'];
  const params = PairParams;
  const response = { 200: FlashcopyBody, '4xx': ErrorBody };

  app.post(
    '/v1/flashcopies/:pair/resync',
    {
      schema: {
        summary: 'copy again: the target becomes what the source is now',
        tags,
        params,
        response,
      },
    },
    (request) => copyServices.resync(parsePair(request.params.pair)),
  );

  app.post(
    '/v1/flashcopies/:pair/reverse',
    {
      schema: {
        summary: 'turn round: the source becomes what the target is now, and is the target then',
        tags,
        params,
        response,
      },
    },
    (request) => copyServices.reverse(parsePair(request.params.pair)),
  );
}

function addTaskRoutes(app: App, { tasks }: ApiServices): void {
  const tags = ['tasks'];

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
    async (request, reply) => {
      const { name, type, pairs, options, description } = request.body;
      const task = tasks.create({
        name,
        type,
        pairs,
        options: { noCopy: options?.noCopy ?? false },
        description: description ?? '',
      });
      return reply.code(201).send(task);
    },
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
    (request) => tasks.run(request.params.name),
  );
}

/** Looking at one task, and deleting it. */
function addOneTaskRoutes(app: App, { tasks }: ApiServices): void {
  const tags = ['tasks'];

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
        summary: 'delete a task',
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
          summary: 'one registration string of a command line client, and its answer',
          tags: ['copyservices'],
          consumes: ['text/plain'],
          produces: ['text/plain'],
          body: Text,
          response: { 200: Text, '4xx': ErrorBody },
        },
      },
      async (request, reply) =>
        reply.type('text/plain; charset=utf-8').send(registration.handle(request.body)),
    );
    done();
  });
}
