/**
 * rsExecuteTask: the steps of the white paper's Figure 11 over the HTTP API.
 *
 * All tasks are found before the first one runs, so a misspelt name changes nothing. They run one
 * after the other; after a failure the rest does not run, because a later task usually builds on
 * an earlier one.
 *
 * The original had a push connection over which outcomes came; here the request that runs a task
 * answers with its outcome, and the status server is joined for the record only.
 */

import type { ApiClient } from '../../base/api-client.js';
import { FlashlunError } from '../../base/errors.js';
import { LIMITS } from '../../base/limits.js';
import { type EssCommand, joinStatusServer, taskPath, withServer } from '../command.js';
import { EXIT, step } from '../exit.js';
import { MESSAGES } from '../messages.js';
import type { Transcript } from '../transcript.js';

export const EXECUTE_TASK: EssCommand = {
  name: 'rsExecuteTask',
  server: true,
  words: { what: 'task', least: 1, most: LIMITS.essCliTasks },
  synopsis: 'TASK [TASK...]',
  help: 'Runs saved Copy Services tasks, one after the other, and waits for their outcome.\n',
  saysSuccessful: true,
  run: (run) =>
    withServer(run, async (registered) => {
      await joinStatusServer(registered, run.transcript);
      await findTasks(registered.api, run.args.words, run.transcript);
      await runTasks(registered.api, run.args.words, run.transcript);
    }),
};

async function findTasks(
  api: ApiClient,
  tasks: readonly string[],
  transcript: Transcript,
): Promise<void> {
  transcript.step(MESSAGES.finding);
  for (const task of tasks) {
    const missing = MESSAGES.notFound(EXECUTE_TASK.name, task);
    await step(() => api.json('GET', taskPath(task)), EXIT.taskNotFound, missing);
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
