/** `flashlun verify`: reads LUNs whole and compares their shared tracks with checksums. */

import { setTimeout as delay } from 'node:timers/promises';
import type { Command } from 'commander';
import type { ApiClient } from '../../base/api-client.js';
import { FlashlunError } from '../../base/errors.js';
import { parsePair } from '../../base/ids.js';
import type { FlashcopiesView, FlashcopyView, ScrubView } from '../api-types.js';
import { type CliContext, Interrupted, jsonOption, print, withApi } from '../context.js';
import { formatPercent } from '../output.js';

/** As wait.ts: frequent at first, rarer later. */
const FIRST_LOOK_MS = 50;
const LONGEST_GAP_MS = 1_000;
const TRACK_BYTES = 65_536;

/** What is printed as JSON. */
interface VerifyReport {
  readonly volumes: readonly ScrubView[];
  /** Of a pair: absent when there is no such relationship any more. */
  readonly pair?: FlashcopyView;
}

interface VerifyFlags {
  readonly stop?: boolean;
}

/** Adds `verify` to the program. */
export function addVerifyCommand(program: Command, context: CliContext): void {
  jsonOption(program.command('verify'))
    .description('read a LUN whole and compare its shared tracks with their checksums')
    .argument('<VOLUME>', 'id, serial or name; or SOURCE:TARGET, for both')
    .option('--stop', 'stop a verification that runs')
    .addHelpText('after', '\nExit code 4: something does not match, or cannot be read.')
    .action((ref: string, flags: VerifyFlags, command: Command) =>
      withApi(context, command, async (api) => {
        const refs = volumesOf(ref);
        const volumes =
          flags.stop === true
            ? await Promise.all(refs.map((each) => scrubJson(api, 'DELETE', each)))
            : await verifyAll(context, api, refs);
        const pair = refs.length === 2 ? await findPair(api, volumes) : undefined;
        const report: VerifyReport = pair === undefined ? { volumes } : { volumes, pair };
        print(context, command, report, () => reportText(report));
        if (flags.stop !== true) judge(volumes);
      }),
    );
}

function volumesOf(ref: string): string[] {
  if (!ref.includes(':')) return [ref];
  const { source, target } = parsePair(ref);
  return [source, target];
}

function scrubJson(api: ApiClient, method: 'GET' | 'POST' | 'DELETE', ref: string) {
  return api.json<ScrubView>(method, `/v1/volumes/${encodeURIComponent(ref)}/verify`);
}

/** One after the other: two at once would only make the disk seek. */
async function verifyAll(
  context: CliContext,
  api: ApiClient,
  refs: readonly string[],
): Promise<ScrubView[]> {
  const interrupt = new AbortController();
  const onSigint = (): void => interrupt.abort();
  process.once('SIGINT', onSigint);
  try {
    const ended: ScrubView[] = [];
    for (const ref of refs) ended.push(await verifyOne(context, api, ref, interrupt.signal));
    return ended;
  } catch (error) {
    if (!interrupt.signal.aborted) throw error;
    throw new Interrupted('stopped watching. The server goes on; --stop would stop it.');
  } finally {
    process.off('SIGINT', onSigint);
  }
}

async function verifyOne(
  context: CliContext,
  api: ApiClient,
  ref: string,
  signal: AbortSignal,
): Promise<ScrubView> {
  const tty = context.stderr.isTTY === true;
  let view = await scrubJson(api, 'POST', ref);
  for (
    let gapMs = FIRST_LOOK_MS;
    view.state === 'running';
    view = await scrubJson(api, 'GET', ref)
  ) {
    const percent = formatPercent((100 * view.nextTrack) / Math.max(view.totalTracks, 1));
    if (tty) context.stderr.write(`\r\x1b[Kverifying ${view.volume}, ${percent}`);
    await delay(gapMs, undefined, { signal });
    gapMs = Math.min(gapMs * 2, LONGEST_GAP_MS);
  }
  if (tty) context.stderr.write('\r\x1b[K');
  return view;
}

async function findPair(
  api: ApiClient,
  volumes: readonly ScrubView[],
): Promise<FlashcopyView | undefined> {
  const id = volumes.map(({ volume }) => volume).join(':');
  const { flashcopies } = await api.json<FlashcopiesView>('GET', '/v1/flashcopies');
  return flashcopies.find((each) => each.id === id);
}

function reportText({ volumes, pair }: VerifyReport): string {
  const lines = volumes.flatMap(scrubLines);
  if (pair !== undefined) {
    lines.push(
      `${pair.id}: ${tracks(pair.outOfSyncTracks)} of the target ` +
        `${pair.outOfSyncTracks === 1 ? 'is' : 'are'} still T0 data shared with the source.`,
    );
  } else if (volumes.length === 2) {
    const names = volumes.map(({ volume }) => volume).join(':');
    lines.push(`${names}: no relationship; the two were verified each by itself.`);
  }
  return lines.map((line) => `${line}\n`).join('');
}

function scrubLines(view: ScrubView): string[] {
  const lines = view.mismatches.map(({ track, fileOffset, sharedWith }) => {
    const shared = sharedWith.length === 0 ? '' : `, shared with ${sharedWith.join(', ')}`;
    return (
      `${view.volume}: track ${track} (from byte ${track * TRACK_BYTES} on) does not match its ` +
      `checksum; byte ${fileOffset} of pool/tracks${shared}`
    );
  });
  lines.push(
    ...view.ioErrors.map(({ track, message }) => `${view.volume}: track ${track}: ${message}`),
  );
  const ended = view.state === 'done' ? '' : ` (${view.state} at track ${view.nextTrack})`;
  lines.push(
    `${view.volume}: ${view.verified} verified, ${view.sealed} got a checksum, ` +
      `${view.readOnly} only read, ${view.mismatchCount} do not match, ` +
      `${view.ioErrorCount} unreadable${ended}`,
  );
  return lines;
}

function tracks(count: number): string {
  return count === 1 ? '1 track' : `${count} tracks`;
}

function judge(volumes: readonly ScrubView[]): void {
  const failed = volumes.find(({ state }) => state !== 'done');
  if (failed !== undefined) {
    const why = failed.problem ?? 'it was stopped';
    throw new FlashlunError('VERIFY_FAILED', `${failed.volume} was not verified whole: ${why}.`);
  }
  const bad = volumes.reduce((sum, each) => sum + each.mismatchCount + each.ioErrorCount, 0);
  if (bad === 0) return;
  throw new FlashlunError(
    'VERIFY_FAILED',
    `${tracks(bad)} damaged. The data is served as it is: restore those tracks from a copy ` +
      'that does not share them, then check the disk. See "Scrubbing" in docs/operations.md.',
  );
}
