/** The HTTP API over the real engine and database, without sockets. */
import type { InjectOptions } from 'fastify';
import { Auth } from '../../../src/api/auth.js';
import { createApiServer } from '../../../src/api/server.js';
import { ChangeQueue } from '../../../src/array/change-queue.js';
import { VolumeFreezes } from '../../../src/array/freeze.js';
import { HostPriming } from '../../../src/copyservices/host-priming.js';
import { Registration } from '../../../src/copyservices/registration.js';
import { Scheduler } from '../../../src/copyservices/scheduler.js';
import { Schedules } from '../../../src/copyservices/schedules.js';
import { TaskService } from '../../../src/copyservices/tasks.js';
import { CounterRepository } from '../../../src/metadata/counters.js';
import {
  CopyRepository,
  ScheduleRepository,
  ScheduleRunRepository,
} from '../../../src/metadata/schedules.js';
import { TaskRepository } from '../../../src/metadata/tasks.js';
import { type Role, SessionRepository, UserRepository } from '../../../src/metadata/users.js';
import { newCounts } from '../../../src/nbd/access.js';
import { ConnectionRegistry } from '../../../src/nbd/connections.js';
import { createMetrics } from '../../../src/metrics/registry.js';
import type { Scope } from '../../helpers/cleanup.js';
import { openTestCopyServices } from '../array/pool.js';
import { openTestDatabase, QUIET } from '../metadata/open.js';

const CHEAP = { ln: 4, r: 8, p: 1 };

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly headers: Readonly<Record<string, unknown>>;
  /** The JSON body. */
  readonly body: Record<string, unknown>;
}

export type TestApi = Awaited<ReturnType<typeof openTestApi>>;

/** Volumes 1203, 1204, 1303, 1304 of 1 MiB, users admin and monitor with password `secret`. */
export async function openTestApi(scope: Scope) {
  const services = await openTestCopyServices(scope);
  const { engine, array, pools, copyServices, backgroundCopy, scrubs } = services;
  const db = await openTestDatabase(scope);
  const auth = new Auth({
    users: new UserRepository(db),
    sessions: new SessionRepository(db, 10),
    cost: CHEAP,
  });
  for (const role of ['admin', 'monitor'] satisfies Role[]) {
    await auth.addUser(role, 'secret', role);
  }
  const state: { obstacle: string | undefined } = { obstacle: undefined };
  const tasks = new TaskService(new TaskRepository(db, 10), array, copyServices, QUIET);
  const records = new ScheduleRepository(db);
  const runs = new ScheduleRunRepository(db, 10);
  const copies = new CopyRepository(db);
  const common = { runs, copies, tasks, log: QUIET };
  const schedules = new Schedules({ ...common, schedules: records, array });
  const registration = new Registration(new CounterRepository(db));
  const api = await createApiServer({
    ...services,
    tasks,
    schedules,
    scheduler: new Scheduler({ ...common, schedules, records, copyServices }),
    registration,
    priming: new HostPriming(registration, services.access),
    auth,
    freezes: new VolumeFreezes(engine, array, new ChangeQueue()),
    connections: new ConnectionRegistry(engine, newCounts(), QUIET),
    metrics: createMetrics({
      engine,
      pools,
      copyServices,
      backgroundCopy,
      scrubs,
      nbd: services.nbd,
      version: '1.2.3',
    }),
    nbdAddresses: () => ({
      tcp: '127.0.0.1:10809',
      unix: null,
      tls: 'off',
      tlsCredentials: 'none',
    }),
    notReady: () => state.obstacle,
    version: '1.2.3',
    log: QUIET,
  });
  scope.defer('close the API', () => api.close());

  const send = async (options: InjectOptions): Promise<Answer> => {
    const { statusCode, payload, headers } = await api.app.inject(options);
    const isJson = String(headers['content-type']).includes('json');
    const body = (isJson ? JSON.parse(payload) : {}) as Record<string, unknown>;
    return { status: statusCode, text: payload, headers, body };
  };
  const logIn = async (user: Role) => {
    const { token } = await auth.login(user, 'secret', '127.0.0.1');
    return (
      method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE',
      url: string,
      payload?: InjectOptions['payload'],
      contentType?: string,
    ) =>
      send({
        method,
        url,
        headers: {
          authorization: `Bearer ${token}`,
          ...(contentType === undefined ? {} : { 'content-type': contentType }),
        },
        ...(payload === undefined ? {} : { payload }),
      });
  };
  return { ...services, api, state, send, logIn };
}
