/**
 * The types of saved tasks, as data: what the API, the command line and the service know of them. A
 * new verb is a row here and a function in src/copyservices/task-verbs.ts.
 */

/** As in the API (src/api/schemas-copies.ts); each type has some of them. */
export interface TaskOptions {
  readonly noCopy?: boolean;
  readonly persistent?: boolean;
  readonly record?: boolean;
  readonly inhibitTargetWrites?: boolean;
  readonly copyBytesPerSecond?: number;
  readonly priority?: number;
  readonly targetOnline?: 'allow' | 'refuse' | 'disconnect';
  readonly freeze?: boolean;
  readonly freezeSeconds?: number;
  readonly atomic?: boolean;
  readonly force?: boolean;
  readonly undoSeconds?: number;
  readonly fast?: boolean;
  readonly complete?: boolean;
}

type OptionName = keyof TaskOptions;

export interface TaskTypeFacts {
  /** What a task of this type is about. */
  readonly takes: 'pairs' | 'tasks' | 'lss';
  readonly options: readonly OptionName[];
  readonly summary: string;
}

/** Options of a relationship. */
export const COPY_OPTION_NAMES: readonly OptionName[] = [
  'noCopy',
  'persistent',
  'record',
  'inhibitTargetWrites',
  'copyBytesPerSecond',
  'priority',
  'targetOnline',
];

const ESTABLISH: readonly OptionName[] = [
  ...COPY_OPTION_NAMES,
  'freeze',
  'freezeSeconds',
  'atomic',
  'force',
  'undoSeconds',
];

function pairs(summary: string, options: readonly OptionName[] = []): TaskTypeFacts {
  return { takes: 'pairs', options, summary };
}

export const TASK_TYPES = {
  establish: pairs('makes targets copies of their sources, at one point in time', ESTABLISH),
  withdraw: pairs('ends relationships; those that have ended are no failure', ['complete']),
  resync: pairs('copies again, all pairs at one point in time', COPY_OPTION_NAMES),
  reverse: pairs('turns relationships round, one by one', [...COPY_OPTION_NAMES, 'fast']),
  copy: pairs('begins the background copy of nocopy relationships'),
  pause: pairs('holds up background copies'),
  resume: pairs('lets background copies go on'),
  'set-revertible': pairs('copies again and keeps the image of before'),
  commit: pairs('gives up the image of before'),
  revert: pairs('goes back to the image of before'),
  'consistency-created': {
    takes: 'lss',
    options: [],
    summary: 'lets hosts write again to what "establish --freeze" holds up in LSSs',
  },
  group: {
    takes: 'tasks',
    options: [],
    summary: 'runs tasks in the order given, up to the first that fails',
  },
} as const satisfies Record<string, TaskTypeFacts>;

export type TaskType = keyof typeof TASK_TYPES;

export const TASK_TYPE_NAMES = Object.keys(TASK_TYPES) as TaskType[];
