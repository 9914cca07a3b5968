/**
 * Options of the rs* commands: `/v` or `-v`, any case, any order, mixed with the task names.
 *
 * A parser of its own, because the usual ones do not know `/` and would take `-vu` or `--u=x`,
 * which these commands never had.
 */

import { nonEmpty } from '../base/command-line.js';
import { FlashlunError } from '../base/errors.js';

export interface ExecuteTaskArguments {
  readonly help: boolean;
  readonly verbose: boolean;
  readonly user: string;
  /** As typed: may be `@FILE`. Undefined when neither option nor environment gives one. */
  readonly password: string | undefined;
  readonly server: string;
  readonly tasks: readonly string[];
}

const VALUE_OPTIONS = { u: 'user', p: 'password', s: 'server' } as const;
type ValueOption = (typeof VALUE_OPTIONS)[keyof typeof VALUE_OPTIONS];

interface Words {
  help: boolean;
  verbose: boolean;
  values: Partial<Record<ValueOption, string>>;
  tasks: string[];
}

/**
 * Reads the command line; what it does not say comes from FLASHLUN_USER, FLASHLUN_PASSWORD and
 * FLASHLUN_SERVER.
 * @throws FlashlunError USAGE
 */
export function parseArguments(
  args: readonly string[],
  env: NodeJS.ProcessEnv,
): ExecuteTaskArguments {
  const { help, verbose, values, tasks } = readWords(args);
  const server = values.server ?? nonEmpty(env['FLASHLUN_SERVER']) ?? '';
  if (!help && server === '') {
    throw usage('no server given: add /s SERVER or set FLASHLUN_SERVER');
  }
  if (!help && tasks.length === 0) throw usage('no task given: add the name of a saved task');
  return {
    help,
    verbose,
    server,
    tasks,
    user: values.user ?? nonEmpty(env['FLASHLUN_USER']) ?? 'admin',
    password: values.password ?? nonEmpty(env['FLASHLUN_PASSWORD']),
  };
}

function readWords(args: readonly string[]): Words {
  const words: Words = { help: false, verbose: false, values: {}, tasks: [] };
  const queue = [...args];
  for (let word = queue.shift(); word !== undefined; word = queue.shift()) {
    if (word === '--') {
      words.tasks.push(...queue.splice(0));
    } else if (word.toLowerCase() === '--help') {
      words.help = true;
    } else if (/^[-/]/.test(word)) {
      readOption(word, queue, words);
    } else {
      words.tasks.push(word);
    }
  }
  return words;
}

function readOption(word: string, queue: string[], words: Words): void {
  const letter = word.slice(1).toLowerCase();
  if (letter === 'v') {
    words.verbose = true;
  } else if (letter === 'h' || letter === '?') {
    words.help = true;
  } else if (isValueOption(letter)) {
    words.values[VALUE_OPTIONS[letter]] = valueFor(word, queue);
  } else {
    throw usage(`unknown option ${word}: there are /v, /u USER, /p PASSWORD and /s SERVER`);
  }
}

/** Takes the next word, whatever it starts with: passwords may start with anything. */
function valueFor(option: string, queue: string[]): string {
  const value = queue.shift();
  // Printed examples blank out user and password ("/u   /p   /s server"): an option there is a
  // value left out.
  if (value === undefined || value === '' || /^[-/][vups]$/i.test(value)) {
    throw usage(`${option} needs a value after it`);
  }
  return value;
}

function isValueOption(letter: string): letter is keyof typeof VALUE_OPTIONS {
  return Object.hasOwn(VALUE_OPTIONS, letter);
}

function usage(reason: string): FlashlunError {
  return new FlashlunError('USAGE', `${reason}. See rsExecuteTask /h.`);
}
