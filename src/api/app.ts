/**
 * The Fastify instance all routes share: parsing, limits, error answers, request log.
 *
 * Errors of every origin leave as `{code, message, details}` with the status of the ERRORS table.
 */

import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import swagger from '@fastify/swagger';
import type { TypeBoxTypeProvider } from '@fastify/type-provider-typebox';
import {
  fastify,
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from 'fastify';
import { FlashlunError, fromNative, httpStatusOf } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';
import type { Logger } from '../base/log.js';
import type { Principal } from './auth.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** Set by the log-in check of /v1; undefined on routes that need none. */
    principal: Principal | undefined;
  }
}

export type App = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;

/** Makes the instance, without routes. */
export async function createApp(version: string, log: Logger): Promise<App> {
  const app = fastify({
    // Requests are logged below in our own form; Fastify's two lines per request say less.
    logger: false,
    bodyLimit: LIMITS.httpBodyBytes,
    requestTimeout: LIMITS.httpRequestMs,
    keepAliveTimeout: LIMITS.httpKeepAliveMs,
    http: {
      headersTimeout: LIMITS.httpHeadersMs,
      connectionsCheckingInterval: LIMITS.httpCheckMs,
    },
    clientErrorHandler: answerUnreadable,
    routerOptions: { maxParamLength: 512 },
    frameworkErrors: (error, request, reply) => {
      void sendError(request, reply, error, log);
    },
    // Nothing is dropped or converted silently: `"sizeBytes": "10G"` is refused, not guessed.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false } },
  }).withTypeProvider<TypeBoxTypeProvider>();
  app.server.maxConnections = LIMITS.httpConnections;
  app.decorateRequest('principal', undefined);
  acceptEmptyJson(app);
  answerErrors(app, log);
  logRequests(app, log);
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'flashlun',
        description: 'An ESS storage array with FlashCopy, served over NBD.',
        version,
      },
      components: { securitySchemes: { session: { type: 'http', scheme: 'bearer' } } },
      security: [{ session: [] }],
    },
  });
  return app;
}

/** POST without a body is what "run this task" is, whatever content type the client declares. */
function acceptEmptyJson(app: App): void {
  const parse = app.getDefaultJsonParser('error', 'error');
  app.removeContentTypeParser('application/json');
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (request, body, done) => {
    if (body === '') done(null, undefined);
    else void parse(request, body.toString(), done);
  });
}

function answerErrors(app: App, log: Logger): void {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    void sendError(request, reply, error, log);
  });
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0]?.slice(0, 100) ?? '';
    const error = new FlashlunError(
      'NOT_FOUND',
      `there is no ${request.method} ${path}. GET /v1/openapi.json lists what there is.`,
    );
    void sendError(request, reply, error, log);
  });
}

/** What Node refuses before there is a request: not HTTP, headers too large or too late. */
function answerUnreadable(error: Error & { code?: string }, socket: Socket): void {
  // With bytes still to be sent this would land in the middle of another answer.
  if (error.code === 'ECONNRESET' || !socket.writable || socket.writableLength > 0) {
    socket.destroy();
    return;
  }
  const [status, reason] = unreadable(error.code);
  const message = `request refused: ${reason}.`;
  const body = JSON.stringify({ code: 'INVALID_ARGUMENT', message });
  // Whoever does not take the answer must not keep the connection.
  socket.setTimeout(LIMITS.httpCheckMs, () => socket.destroy());
  socket.end(
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nconnection: close\r\n` +
      'content-type: application/json; charset=utf-8\r\n' +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
    () => socket.destroy(),
  );
}

function unreadable(code: string | undefined): [status: number, reason: string] {
  if (code === 'HPE_HEADER_OVERFLOW') return [431, 'its headers are too large'];
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') return [408, 'it did not arrive in time'];
  return [400, 'it is not HTTP'];
}

function sendError(
  request: FastifyRequest,
  reply: FastifyReply,
  error: FastifyError | FlashlunError,
  log: Logger,
): FastifyReply {
  const known = translate(error);
  let status = httpStatusOf(known);
  if (known.code === 'INVALID_ARGUMENT' && isClientError(error)) status = error.statusCode;
  if (known.code === 'INTERNAL') {
    log.error({ err: error, method: request.method, url: request.url }, 'request failed');
  }
  const retryAfter = known.details?.['retryAfterSeconds'];
  if (typeof retryAfter === 'number') reply.header('retry-after', retryAfter);
  if (status === 401) reply.header('www-authenticate', 'Bearer');
  const details = known.details === undefined ? {} : { details: known.details };
  return reply.code(status).send({ code: known.code, message: known.message, ...details });
}

function translate(error: FastifyError | FlashlunError): FlashlunError {
  if (error instanceof FlashlunError) return error;
  if (isClientError(error)) {
    return new FlashlunError('INVALID_ARGUMENT', `request refused: ${describe(error)}.`, {
      cause: error,
    });
  }
  const known = fromNative(error, '');
  // What went wrong inside is for the log, not for whoever asked.
  return known.code === 'INTERNAL' ? new FlashlunError('INTERNAL', '', { cause: error }) : known;
}

/** Fastify's own refusals: not JSON, too large, against the schema. */
function isClientError(
  error: FastifyError | FlashlunError,
): error is FastifyError & { statusCode: number } {
  if (error instanceof FlashlunError || error.statusCode === undefined) return false;
  return error.statusCode >= 400 && error.statusCode < 500;
}

/** One line for a schema violation: `body/sizeBytes must be integer`. */
function describe(error: FastifyError): string {
  const [first] = error.validation ?? [];
  if (first === undefined) return error.message.replaceAll(/\s+/g, ' ').replace(/\.$/, '');
  const place = `${error.validationContext ?? 'request'}${first.instancePath}`;
  const unknown = first.params['additionalProperty'];
  const which = typeof unknown === 'string' ? ` ('${unknown.slice(0, 40)}')` : '';
  return `${place} ${first.message ?? 'is not valid'}${which}`;
}

/** Changes at info, with who made them; reads at debug. */
function logRequests(app: App, log: Logger): void {
  app.addHook('onResponse', (request, reply, done) => {
    const level = request.method === 'GET' || request.method === 'HEAD' ? 'debug' : 'info';
    log[level](
      {
        method: request.method,
        url: request.url,
        status: reply.statusCode,
        user: request.principal?.user,
        address: request.ip,
        milliseconds: Math.round(reply.elapsedTime),
      },
      'request',
    );
    done();
  });
}
