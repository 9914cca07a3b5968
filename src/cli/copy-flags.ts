/** The options of establish, resync and reverse, and what of them the API gets. */

import { type Command, Option } from 'commander';
import { FlashlunError } from '../base/errors.js';
import { parsePair } from '../base/ids.js';
import { MIB } from '../base/units.js';
import { parseSeconds } from './context.js';

export interface CopyFlags {
  readonly nocopy?: boolean;
  readonly persistent?: boolean;
  readonly persist?: boolean;
  readonly record?: boolean;
  readonly inhibitTargetWrites?: boolean;
  readonly copyRate?: number;
  readonly priority?: number;
  readonly targetOnline?: string;
  readonly wait?: boolean;
  readonly timeout?: number;
}

/** Of the relationship, and whether to wait for its background copy. */
export function copyOptions(command: Command): Command {
  return relationshipOptions(command)
    .option('--wait', 'return when every track has been copied')
    .option('--timeout <SECONDS>', 'with --wait: give up waiting after this time', parseSeconds);
}

/** Of the relationship: a resync or a reverse replaces all of them. */
export function relationshipOptions(command: Command): Command {
  return command
    .option('--nocopy', 'no background copy: the relationship stays until it is withdrawn')
    .option('--persistent', 'the relationship stays when every track has been copied')
    .addOption(new Option('--persist').hideHelp())
    .option('--record', 'record changes: a resync or reverse then copies only those')
    .option('--inhibit-target-writes', 'hosts may not write the target')
    .option('--copy-rate <MB/s>', 'of this background copy, or unlimited', parseRate)
    .option('--priority <0-9>', 'higher ones are copied first (default: 0)', parsePriority)
    .addOption(
      new Option('--target-online <POLICY>', 'when a host is connected to the target').choices([
        'allow',
        'refuse',
        'disconnect',
      ]),
    );
}

/** As the API takes them. */
export function optionsOf(flags: CopyFlags): Record<string, unknown> {
  const { copyRate, priority, targetOnline } = flags;
  return {
    noCopy: flags.nocopy === true,
    ...(flags.persistent === true || flags.persist === true ? { persistent: true } : {}),
    ...(flags.record === true ? { record: true } : {}),
    ...(flags.inhibitTargetWrites === true ? { inhibitTargetWrites: true } : {}),
    ...(copyRate === undefined ? {} : { copyBytesPerSecond: copyRate }),
    ...(priority === undefined ? {} : { priority }),
    ...(targetOnline === undefined ? {} : { targetOnline }),
  };
}

/** @throws FlashlunError USAGE */
export function checkWait(flags: CopyFlags): void {
  if (flags.wait === true && flags.nocopy === true) {
    throw new FlashlunError(
      'USAGE',
      '--wait with --nocopy would never end. Leave one of them out.',
    );
  }
  if (flags.timeout !== undefined && flags.wait !== true) {
    throw new FlashlunError('USAGE', '--timeout is only used with --wait. Add --wait.');
  }
}

/** MB/s -> bytes a second; 0 is unlimited. @throws FlashlunError USAGE */
export function parseRate(text: string): number {
  if (text === 'unlimited') return 0;
  const rate = /^\d{1,9}(\.\d{1,6})?$/.test(text) ? Number(text) : 0;
  if (rate >= 0.1) return Math.round(rate * MIB);
  throw new FlashlunError(
    'USAGE',
    `copy rate '${text.slice(0, 40)}' refused: use MB/s, at least 0.1, or unlimited.`,
  );
}

/** @throws FlashlunError USAGE */
export function parsePriority(text: string): number {
  if (/^\d$/.test(text)) return Number(text);
  throw new FlashlunError(
    'USAGE',
    `priority '${text.slice(0, 40)}' refused: use 0 to 9; higher ones are copied first.`,
  );
}

/** `S:T` checked and normalised. @throws FlashlunError INVALID_ARGUMENT */
export function pairText(text: string): string {
  const { source, target } = parsePair(text);
  return `${source}:${target}`;
}

/** commander calls it once per word of a variadic argument. */
export function collectPairs(text: string, earlier: readonly string[] = []): string[] {
  return [...earlier, pairText(text)];
}

export function pairPath(pair: string): string {
  return `/v1/flashcopies/${encodeURIComponent(pair)}`;
}
