/**
 * Logging: one pino logger a process, children for parts. Lines are JSON on stderr, so that stdout
 * stays free for what `flashlun serve` tells the person who started it. Nothing of the data path
 * logs, and a log that cannot be written stops nothing (log-sink.ts).
 */

import { type DestinationStream, type Logger, pino } from 'pino';
import { stderrLog } from './log-sink.js';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface LoggerOptions {
  readonly level?: LogLevel;
  /** Where lines go instead of stderr; tests collect them. */
  readonly stream?: DestinationStream;
}

/**
 * Makes the process's logger. Secrets under these keys never reach a line, however they got into
 * one.
 */
export function createLogger(options: LoggerOptions = {}): Logger {
  const stream = options.stream ?? stderrLog();
  const secrets = ['password', 'token', 'authorization'];
  return pino(
    {
      level: options.level ?? 'info',
      base: null,
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: [...secrets, ...secrets.map((key) => `*.${key}`)], censor: '[hidden]' },
    },
    stream,
  );
}
