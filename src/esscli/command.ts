/** What an rs* command is, and the way to the server that most of them share. */

import { ApiClient, type ClientDeadlines } from '../base/api-client.js';
import { readSecret } from '../base/command-line.js';
import { type Arguments, type ArgumentSpec, usage } from './arguments.js';
import { EXIT, step } from './exit.js';
import { MESSAGES } from './messages.js';
import {
  checkJoinStatusReply,
  joinStatusRequest,
  parseRegisterReply,
  registerRequest,
} from './registration-client.js';
import type { Transcript } from './transcript.js';

/** Who this machine says it is. */
export interface LocalHost {
  readonly name: string;
  readonly address: string;
}

/** One run of a command. */
export interface Run {
  readonly spec: ArgumentSpec;
  readonly args: Arguments;
  readonly env: NodeJS.ProcessEnv;
  readonly host: LocalHost;
  readonly transcript: Transcript;
  readonly deadlines: ClientDeadlines;
}

export interface EssCommand extends ArgumentSpec {
  /** After the options: `TASK [TASK...]`. */
  readonly synopsis: string;
  /** What it does, in whole lines. */
  readonly help: string;
  /** Whether the last line says "Command successful"; a list is over with its last row. */
  readonly saysSuccessful: boolean;
  /** Exceptions: StepFailure, FlashlunError. */
  run(run: Run): Promise<void>;
}

/** A server that has registered us. */
export interface Registered {
  readonly api: ApiClient;
  readonly clientId: number;
}

/** "rsWebTest": asks for a sign of life before anything else. @throws StepFailure */
export async function heartbeat({ args, deadlines, transcript }: Run): Promise<ApiClient> {
  const api = new ApiClient(args.server, deadlines);
  await step(() => api.heartbeat(), EXIT.cannotReach, MESSAGES.heartbeatFailed);
  transcript.step(MESSAGES.heartbeatOk);
  return api;
}

/**
 * Heartbeat, log-on, registration (102); then `work`, and log-off however it ends.
 *
 * @param hostLine whether a line of the command's own names the host, as rsPrimeServer has it
 * @throws StepFailure, FlashlunError USAGE
 */
export async function withServer(
  run: Run,
  work: (registered: Registered) => Promise<void>,
  hostLine = false,
): Promise<void> {
  const { args, host, spec, transcript } = run;
  const request = registerRequest(host.name, host.address);
  const password = passwordOf(run);
  const api = await heartbeat(run);
  if (hostLine) transcript.step(MESSAGES.localHostIs(spec.name, host.name));
  const refused = MESSAGES.logonRefused(spec.name);
  await step(() => api.logIn(args.user, password), EXIT.refused, refused);
  try {
    transcript.stampedStep(MESSAGES.localHost(host.name, host.address));
    const clientId = await step(
      () => register(api, request, transcript),
      EXIT.refused,
      MESSAGES.registerRefused,
    );
    transcript.step(MESSAGES.taskManager(spec.name));
    await work({ api, clientId });
  } finally {
    await api.logOut();
  }
}

/** Joins the status server (101). @throws StepFailure */
export function joinStatusServer(
  { api, clientId }: Registered,
  transcript: Transcript,
): Promise<void> {
  const join = async (): Promise<void> => {
    transcript.step(MESSAGES.statusConnected);
    transcript.stampedStep(MESSAGES.joiningStatus);
    const request = joinStatusRequest(clientId);
    transcript.stampedStep(MESSAGES.statusRequest(request));
    const reply = await send(api, request);
    transcript.stampedStep(MESSAGES.statusResponse(reply));
    checkJoinStatusReply(reply, clientId);
    transcript.stampedStep(MESSAGES.registered);
    transcript.step(MESSAGES.messengerStarted);
  };
  return step(join, EXIT.refused, MESSAGES.registerRefused);
}

export function taskPath(task: string): string {
  return `/v1/tasks/${encodeURIComponent(task)}`;
}

async function register(api: ApiClient, request: string, transcript: Transcript): Promise<number> {
  transcript.stampedStep(MESSAGES.registering);
  transcript.stampedStep(MESSAGES.registerRequest(request));
  const reply = await send(api, request);
  transcript.stampedStep(MESSAGES.registerResponse(reply));
  const clientId = parseRegisterReply(reply);
  transcript.stampedStep(MESSAGES.registered);
  return clientId;
}

function send(api: ApiClient, request: string): Promise<string> {
  return api.text('POST', '/v1/copyservices/registration', request);
}

function passwordOf({ args, spec }: Run): string {
  if (args.password !== undefined) return readSecret(args.password);
  throw usage(spec, `no password for user ${args.user}: add /p PASSWORD or set FLASHLUN_PASSWORD`);
}
