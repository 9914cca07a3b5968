/**
 * Writes the lines of an rs* command: all of them with /v, otherwise only those that say how it
 * ended.
 */

export interface LineSink {
  write(text: string): unknown;
}

export class Transcript {
  readonly #out: LineSink;
  readonly #err: LineSink;
  readonly #verbose: boolean;
  readonly #now: () => Date;

  constructor(out: LineSink, err: LineSink, verbose: boolean, now: () => Date = () => new Date()) {
    this.#out = out;
    this.#err = err;
    this.#verbose = verbose;
    this.#now = now;
  }

  /** A step; only with /v. */
  step(text: string): void {
    if (this.#verbose) this.#out.write(`${text}\n`);
  }

  /** A step with the time in front, as the rsRegister lines have it; only with /v. */
  stampedStep(text: string): void {
    if (this.#verbose) this.#out.write(`${formatTimestamp(this.#now())} ${text}\n`);
  }

  /** A remark that is no part of the output. */
  note(text: string): void {
    this.#err.write(`${text}\n`);
  }

  /** An outcome; always. */
  outcome(text: string): void {
    this.#out.write(`${text}\n`);
  }
}

/**
 * Java's `yyyy/MM/dd HH:mm:ss:S` in local time. S is not padded: 94 ms is `:94`, as the paper
 * prints it.
 */
export function formatTimestamp(time: Date): string {
  const date = [time.getMonth() + 1, time.getDate()].map(twoDigits).join('/');
  const clock = [time.getHours(), time.getMinutes(), time.getSeconds()].map(twoDigits).join(':');
  return `${time.getFullYear()}/${date} ${clock}:${time.getMilliseconds()}`;
}

function twoDigits(value: number): string {
  return String(value).padStart(2, '0');
}
