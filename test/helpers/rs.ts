/** Running the rs* commands, and their transcripts without what differs from run to run. */
import { join } from 'node:path';
import { exec, type ExecResult } from './exec.js';
import { ROOT } from './server.js';

/** `bin/NAME`, with the words of `line`. */
export function rs(
  name: string,
  line: string,
  env: Readonly<Record<string, string>>,
): Promise<ExecResult> {
  return exec(join(ROOT, 'bin', name), line === '' ? [] : line.split(' '), { env });
}

/** Lines of stdout, with `<ts>` for a time stamp as Java's yyyy/MM/dd HH:mm:ss:S writes it. */
export function transcriptOf(result: ExecResult): string[] {
  const stamp = /^\d{4}\/\d\d\/\d\d \d\d:\d\d:\d\d:(0|[1-9]\d{0,2}) /;
  return result.stdout
    .split('\n')
    .slice(0, -1)
    .map((line) => line.replace(stamp, '<ts> '));
}
