/**
 * Where log lines go: stderr, but never at the price of the server. A disk that is full or a pipe
 * that nobody reads costs lines, which are counted, and the count is told once writing works again.
 */

import { fstatSync, writeSync } from 'node:fs';
import { LIMITS } from './limits.js';

/** Takes a line, or refuses it; never throws, never waits for a reader. */
export type WriteLine = (line: string) => boolean;

/** Counts what `write` refuses and reports the number before the next line that it takes. */
export class LossyLog {
  readonly #write: WriteLine;
  #dropped = 0;

  constructor(write: WriteLine) {
    this.#write = write;
  }

  write(line: string): void {
    this.report();
    if (this.#dropped > 0 || !this.#write(line)) this.#dropped += 1;
  }

  /** Tells of lost lines, when there are any and there is room again. */
  report(): void {
    if (this.#dropped === 0) return;
    const facts = { level: 'warn', time: new Date().toISOString(), dropped: this.#dropped };
    const msg = 'log lines were lost: they could not be written';
    if (this.#write(`${JSON.stringify({ ...facts, msg })}\n`)) this.#dropped = 0;
  }
}

/** The process's stderr. */
export function stderrLog(): LossyLog {
  const kind = fstatSync(2);
  // A file takes a line at once or refuses it, and the last line before a crash is in it.
  if (!kind.isFIFO() && !kind.isSocket()) return new LossyLog(fileWriter(2));
  const log = new LossyLog(streamWriter(process.stderr, LIMITS.logQueueBytes));
  process.stderr.on('drain', () => {
    log.report();
  });
  process.stderr.on('error', () => {
    // The reader is gone; there is nobody left to tell.
  });
  return log;
}

/** Lines into a file or device. */
export function fileWriter(fd: number): WriteLine {
  let isTorn = false;
  return (line) => {
    const bytes = Buffer.from(isTorn ? `\n${line}` : line);
    let done = 0;
    try {
      while (done < bytes.length) done += writeSync(fd, bytes, done);
      isTorn = false;
      return true;
    } catch {
      // A disk that fills up takes a part first; the next line must not be glued to it.
      isTorn ||= done > 0;
      return false;
    }
  };
}

/** Lines into a pipe or socket, which may be stalled: at most `queueBytes` wait in memory. */
export function streamWriter(
  stream: Pick<NodeJS.WriteStream, 'write' | 'writableLength' | 'destroyed'>,
  queueBytes: number,
): WriteLine {
  return (line) => {
    if (stream.destroyed || stream.writableLength + line.length > queueBytes) return false;
    stream.write(line);
    return true;
  };
}
