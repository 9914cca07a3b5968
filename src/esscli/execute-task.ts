/**
 * rsExecuteTask: the steps of the white paper's Figure 11 over the HTTP API.
 *
 *   heartbeat -> log on -> register (102) -> join the status server (101)
 *     -> find all tasks -> run them -> outcome
 *
 * All tasks are found before the first one runs, so a misspelt name changes nothing. They run one
 * after the other; after a failure the rest does not run, because a later task usually builds on
 * an earlier one.
 *
 * The original had a push connection over which outcomes came; here the request that runs a task
 * answers with its outcome, and the status server is joined for the record only.
 */

import {
  ApiClient,
  CLIENT_DEADLINES,
  type ClientDeadlines,
  isTimeout,
} from '../base/api-client.js';
import { readSecret } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import type { ExecuteTaskArguments } from './arguments.js';
import { MESSAGES } from './messages.js';
import {
  checkJoinStatusReply,
  joinStatusRequest,
  parseRegisterReply,
  registerRequest,
} from './registration-client.js';
import type { Transcript } from './transcript.js';

/** Exit codes; ours, as the original's are not known beyond 0 and not 0. */
export const EXIT = {
  ok: 0,
  usage: 1,
  cannotReach: 2,
  refused: 3,
  taskNotFound: 4,
  taskFailed: 5,
  timedOut: 6,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

/** Who this machine says it is. */
export interface LocalHost {
  readonly name: string;
  readonly address: string;
}

/**
 * A step that did not work: the code to exit with, the transcript's line for it, and the reason.
 */
export class StepFailure extends Error {
  readonly exit: ExitCode;
  readonly lines: readonly string[];

  constructor(exit: ExitCode, lines: readonly string[], cause: unknown) {
    super(cause instanceof Error ? cause.message : String(cause), { cause });
    this.exit = exit;
    this.lines = lines;
  }
}

/** Runs the tasks. @throws StepFailure, FlashlunError USAGE */
export async function executeTasks(
  args: ExecuteTaskArguments,
  host: LocalHost,
  transcript: Transcript,
  deadlines: ClientDeadlines = CLIENT_DEADLINES,
): Promise<void> {
  const request = registerRequest(host.name, host.address);
  const password = passwordOf(args);
  const api = new ApiClient(args.server, deadlines);

  await step(() => api.heartbeat(), EXIT.cannotReach, MESSAGES.heartbeatFailed);
  transcript.step(MESSAGES.heartbeatOk);
  await step(() => api.logIn(args.user, password), EXIT.refused, MESSAGES.logonRefused);
  try {
    transcript.stampedStep(MESSAGES.localHost(host.name, host.address));
    await step(() => register(api, request, transcript), EXIT.refused, MESSAGES.registerRefused);
    await findTasks(api, args.tasks, transcript);
    await runTasks(api, args.tasks, transcript);
  } finally {
    await api.logOut();
  }
}

function passwordOf(args: ExecuteTaskArguments): string {
  if (args.password !== undefined) return readSecret(args.password);
  throw new FlashlunError(
    'USAGE',
    `no password for user ${args.user}: add /p PASSWORD or set FLASHLUN_PASSWORD. ` +
      'See rsExecuteTask /h.',
  );
}

async function register(api: ApiClient, request: string, transcript: Transcript): Promise<void> {
  transcript.stampedStep(MESSAGES.registering);
  transcript.stampedStep(MESSAGES.registerRequest(request));
  const reply = await send(api, request);
  transcript.stampedStep(MESSAGES.registerResponse(reply));
  const clientId = parseRegisterReply(reply);
  transcript.stampedStep(MESSAGES.registered);
  transcript.step(MESSAGES.taskManager);
  transcript.step(MESSAGES.statusConnected);
  transcript.stampedStep(MESSAGES.joiningStatus);
  const join = joinStatusRequest(clientId);
  transcript.stampedStep(MESSAGES.statusRequest(join));
  const joined = await send(api, join);
  transcript.stampedStep(MESSAGES.statusResponse(joined));
  checkJoinStatusReply(joined, clientId);
  transcript.stampedStep(MESSAGES.registered);
  transcript.step(MESSAGES.messengerStarted);
}

function send(api: ApiClient, request: string): Promise<string> {
  return api.text('POST', '/v1/copyservices/registration', request);
}

async function findTasks(
  api: ApiClient,
  tasks: readonly string[],
  transcript: Transcript,
): Promise<void> {
  transcript.step(MESSAGES.finding);
  for (const task of tasks) {
    await step(() => api.json('GET', taskPath(task)), EXIT.taskNotFound, MESSAGES.notFound(task));
    transcript.step(MESSAGES.found(task));
  }
}

/**
 * One request schedules a task, runs it and answers with the outcome, so the lines of the first
 * two come together.
 */
async function runTasks(
  api: ApiClient,
  tasks: readonly string[],
  transcript: Transcript,
): Promise<void> {
  transcript.step(MESSAGES.scheduling);
  for (const task of tasks) transcript.step(MESSAGES.scheduled(task));
  transcript.step(MESSAGES.monitoring);
  transcript.step(MESSAGES.waiting);
  for (const [index, task] of tasks.entries()) {
    const rest = tasks.slice(index + 1).map((name) => MESSAGES.notRun(name));
    await step(() => runTask(api, task), EXIT.taskFailed, MESSAGES.failed(task), ...rest);
    transcript.outcome(MESSAGES.completed(task));
  }
}

async function runTask(api: ApiClient, task: string): Promise<void> {
  const result = await api.json<{ status?: unknown; message?: unknown } | undefined>(
    'POST',
    `${taskPath(task)}/run`,
    { deadline: 'runMs' },
  );
  if (result?.status === 'completed') return;
  const reason = typeof result?.message === 'string' ? result.message : 'no reason given';
  throw new FlashlunError('INTERNAL', reason);
}

async function step(
  work: () => Promise<unknown>,
  exit: ExitCode,
  ...lines: readonly string[]
): Promise<void> {
  try {
    await work();
  } catch (error) {
    throw new StepFailure(exitFor(error, exit), lines, error);
  }
}

/** What went wrong on the way to the server says more than the step it happened in. */
function exitFor(error: unknown, exitOfStep: ExitCode): ExitCode {
  // A heartbeat without an answer is a server that cannot be reached.
  if (exitOfStep === EXIT.cannotReach) return exitOfStep;
  if (isTimeout(error)) return EXIT.timedOut;
  if (!(error instanceof FlashlunError)) return exitOfStep;
  if (error.code === 'CANNOT_CONNECT') return EXIT.cannotReach;
  if (error.code === 'UNAUTHENTICATED' || error.code === 'FORBIDDEN') return EXIT.refused;
  const missing = error.code === 'TASK_NOT_FOUND' || error.code === 'NOT_FOUND';
  // The server could not look the task up, which is not the same as not finding it.
  if (exitOfStep === EXIT.taskNotFound && !missing) return EXIT.taskFailed;
  // Deleted by somebody between finding and running.
  if (exitOfStep === EXIT.taskFailed && error.code === 'TASK_NOT_FOUND') return EXIT.taskNotFound;
  return exitOfStep;
}

function taskPath(task: string): string {
  return `/v1/tasks/${encodeURIComponent(task)}`;
}
