/**
 * `flashlun pool check`: the files of a pool whose server is stopped. The one client command that
 * needs no server; the engine is loaded only here.
 */

import path from 'node:path';
import type { Command } from 'commander';
import { nonEmpty } from '../../base/command-line.js';
import { formatSize } from '../../base/units.js';
import type { CheckedPool, PoolFinding } from '../../pool-check.js';
import { type CliContext, EndedWith, jsonOption, print } from '../context.js';
import { formatFields, formatTable } from '../output.js';

/** Of `pool check`. 7 is its own: nothing is lost, but something is to be repaired. */
const EXIT = { clean: 0, recoverable: 7, damaged: 4 } as const;

const MEANING = {
  clean: 'the pool is as it should be',
  recoverable: 'nothing is lost: the next start of the server repairs what is listed above',
  damaged: 'the server would refuse this pool: restore the directory from a backup',
} as const;

/** Adds `pool` to the program. */
export function addPoolCommands(program: Command, context: CliContext): void {
  const pool = program.command('pool').description('the files of the pool');
  jsonOption(pool.command('check'))
    .description('verify all metadata of a pool whose server is stopped; changes nothing')
    .argument('[DIR]', 'pool directory (default: pool in the data directory)')
    .addHelpText(
      'after',
      '\nExit codes: 0 clean, 7 recoverable (the next start repairs), 4 damaged or not checked.' +
        '\n\nExample: flashlun pool check /var/lib/flashlun/pool',
    )
    .action(async (named: string | undefined, _flags: unknown, command: Command) => {
      const { data } = command.optsWithGlobals<{ data?: string }>();
      const dataDir = data ?? nonEmpty(context.env['FLASHLUN_DATA']) ?? 'data';
      const dir = path.resolve(context.cwd, named ?? path.join(dataDir, 'pool'));
      const { checkPool } = await import('../../pool-check.js');
      const report = await checkPool(dir);
      print(context, command, report, () => reportText(report));
      if (report.verdict !== 'clean') throw new EndedWith(EXIT[report.verdict]);
    });
}

function reportText(report: CheckedPool): string {
  const verdict = `${report.verdict}: ${MEANING[report.verdict]}\n`;
  return [summary(report), findings(report), verdict].filter((part) => part !== '').join('\n');
}

function summary(report: CheckedPool): string {
  if (report.poolUuid === '') return formatFields([['pool', report.dir]]);
  const { volumes, relationships, usedTracks, capacityTracks, usedBytes } = report;
  return formatFields([
    ['pool', `${report.dir}, ${report.poolUuid}`],
    ['superblock', `generation ${report.generation}, ${report.superblockCopies} of 4 copies`],
    ['closed in order', report.closedInOrder ? 'yes' : 'no: the next start replays'],
    ['checkpoints', `records up to ${report.currentLsn}, before that ${report.previousLsn}`],
    ['checkpoint pages', `${report.usedPages} used of ${report.areaPages}`],
    ['journal', `${report.groups} groups, ${report.records} records to replay`],
    ['kill ring', `${report.ringRecords} records to replay`],
    ['volumes', `${volumes}, and ${relationships} relationships`],
    ['tracks', `${usedTracks} used of ${capacityTracks} (${formatSize(usedBytes)})`],
    ['tracks file', `${report.tracksBytes} bytes, ${report.neededBytes} needed behind its label`],
  ]);
}

function findings(report: CheckedPool): string {
  if (report.findings.length === 0) return '';
  const table = formatTable<PoolFinding>(
    [
      { title: 'MEANS', value: (finding) => finding.severity },
      { title: 'FILE', value: (finding) => finding.file },
      { title: 'PLACE', value: (finding) => finding.place },
      { title: 'WHAT', value: (finding) => finding.text },
    ],
    report.findings,
  );
  const all = Object.values(report.found).reduce((sum, count) => sum + count, 0);
  const more = all - report.findings.length;
  return more === 0 ? table : `${table}... and ${more} more\n`;
}
