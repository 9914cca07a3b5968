/**
 * Options of the rs* commands: `/v` or `-v`, any case, any order, mixed with the other words.
 *
 * A parser of its own, because the usual ones do not know `/` and would take `-vu` or `--u=x`,
 * which these commands never had.
 */

import { nonEmpty } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';
import { LIMITS } from '../base/limits.js';

/** What a command takes. */
export interface ArgumentSpec {
  readonly name: string;
  /** Whether it talks to a server, and so has /u, /p and /s. */
  readonly server: boolean;
  /** Letters of its own options, all with a value, and what they are for. */
  readonly values?: Readonly<Record<string, string>>;
  /** Words that are no options: what they are, and how few and how many. */
  readonly words: { readonly what: string; readonly least: number; readonly most: number };
}

export interface Arguments {
  readonly help: boolean;
  readonly verbose: boolean;
  readonly user: string;
  /** As typed: may be `@FILE`. Undefined when neither option nor environment gives one. */
  readonly password: string | undefined;
  readonly server: string;
  /** By letter, the options of `ArgumentSpec.values` that were given. */
  readonly values: Readonly<Record<string, string>>;
  readonly words: readonly string[];
}

const SERVER_OPTIONS = { u: 'USER', p: 'PASSWORD', s: 'SERVER' } as const;

interface Read {
  help: boolean;
  verbose: boolean;
  values: Record<string, string>;
  words: string[];
}

/**
 * Reads the command line; what it does not say comes from FLASHLUN_USER, FLASHLUN_PASSWORD and
 * FLASHLUN_SERVER.
 * @throws FlashlunError USAGE
 */
export function parseArguments(
  spec: ArgumentSpec,
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): Arguments {
  const { help, verbose, values, words } = read(spec, args);
  const { u, p, s, ...own } = values;
  const server = s ?? nonEmpty(env['FLASHLUN_SERVER']) ?? '';
  if (!help && spec.server && server === '') {
    throw usage(spec, 'no server given: add /s SERVER or set FLASHLUN_SERVER');
  }
  if (!help) checkWords(spec, words);
  return {
    help,
    verbose,
    server,
    words,
    values: own,
    user: u ?? nonEmpty(env['FLASHLUN_USER']) ?? 'admin',
    password: p ?? nonEmpty(env['FLASHLUN_PASSWORD']),
  };
}

function checkWords(spec: ArgumentSpec, words: readonly string[]): void {
  const { what, least, most } = spec.words;
  if (words.length < least) throw usage(spec, `no ${what} given`);
  if (words.length <= most) return;
  const extra = words[most] ?? '';
  if (most === 0) throw usage(spec, `'${extra}' is too much: it takes options only`);
  throw usage(spec, `${words.length} words given, and it takes at most ${most} (${what})`);
}

function read(spec: ArgumentSpec, args: readonly string[]): Read {
  if (args.length > LIMITS.essCliWords) {
    throw usage(spec, `more than ${LIMITS.essCliWords} words on the command line`);
  }
  const result: Read = { help: false, verbose: false, values: {}, words: [] };
  const queue = [...args];
  for (let word = queue.shift(); word !== undefined; word = queue.shift()) {
    if (word === '--') {
      result.words.push(...queue.splice(0));
    } else if (word.toLowerCase() === '--help') {
      result.help = true;
    } else if (/^[-/]/.test(word)) {
      readOption(spec, word, queue, result);
    } else {
      result.words.push(word);
    }
  }
  return result;
}

function readOption(spec: ArgumentSpec, word: string, queue: string[], result: Read): void {
  const letter = word.slice(1).toLowerCase();
  const known = valueOptions(spec);
  if (letter === 'v') {
    result.verbose = true;
  } else if (letter === 'h' || letter === '?') {
    result.help = true;
  } else if (Object.hasOwn(known, letter)) {
    result.values[letter] = valueFor(spec, word, queue);
  } else {
    const options = Object.entries(known).map(([each, what]) => `/${each} ${what}`);
    const list = ['/v', ...options];
    const last = list.pop();
    const all = list.length === 0 ? last : `${list.join(', ')} and ${last}`;
    throw usage(spec, `unknown option ${word}: there are ${all}`);
  }
}

function valueOptions(spec: ArgumentSpec): Readonly<Record<string, string>> {
  return { ...(spec.server ? SERVER_OPTIONS : {}), ...spec.values };
}

/** Takes the next word, whatever it starts with: passwords may start with anything. */
function valueFor(spec: ArgumentSpec, option: string, queue: string[]): string {
  const value = queue.shift();
  // Printed examples blank out user and password ("/u   /p   /s server"): an option there is a
  // value left out.
  const letters = ['v', ...Object.keys(valueOptions(spec))].join('');
  const isOption = value !== undefined && new RegExp(`^[-/][${letters}]$`, 'i').test(value);
  if (value === undefined || value === '' || isOption) {
    throw usage(spec, `${option} needs a value after it`);
  }
  return value;
}

/** An error about the command line of this command. */
export function usage(spec: Pick<ArgumentSpec, 'name'>, reason: string): FlashlunError {
  return new FlashlunError('USAGE', `${reason}. See ${spec.name} /h.`);
}
