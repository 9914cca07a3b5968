/** Schemas of schedules; as schemas.ts. */

import Type from 'typebox';
import { LIMITS } from '../base/limits.js';
import { Count, oneOf, orNull, Pair, Ref, strictObject, Time } from './schemas.js';
import { COPY_OPTIONS, CopyOptions } from './schemas-copies.js';

const Volumes = Type.Array(Ref, { minItems: 1, maxItems: LIMITS.pairsPerEstablish });
const MissedPolicy = oneOf('once', 'skip');

const NewRotation = strictObject({
  sources: Volumes,
  targetSets: Type.Array(Volumes, {
    minItems: 1,
    maxItems: LIMITS.targetSets,
    description: 'used in turn; each has a volume for each source, in their order',
  }),
  options: Type.Optional(CopyOptions),
  keep: Type.Optional(Type.Integer({ description: 'copies kept; default all target sets' })),
  lockSeconds: Type.Optional(
    Type.Integer({ description: 'so long a copy is not replaced, withdrawn or deleted' }),
  ),
});

export const NewScheduleBody = strictObject({
  name: Ref,
  cron: Type.String({ maxLength: LIMITS.cronChars, examples: ['30 2 * * mon-fri', '@daily'] }),
  timeZone: Type.Optional(Type.String({ maxLength: 64, examples: ['Europe/Berlin'] })),
  enabled: Type.Optional(Type.Boolean()),
  missed: Type.Optional(MissedPolicy),
  task: Type.Optional(Ref),
  rotation: Type.Optional(NewRotation),
});

export const ScheduleChangeBody = strictObject({ enabled: Type.Boolean() });
export const ScheduleParams = strictObject({ name: Ref });

export const ScheduleRunBody = Type.Object({
  dueAt: orNull(Type.String({ description: 'null: somebody asked for it' })),
  startedAt: Time,
  finishedAt: orNull(Time),
  status: oneOf('running', 'completed', 'failed', 'skipped', 'interrupted'),
  message: Type.String(),
});

export const ScheduleRunsBody = Type.Object({ runs: Type.Array(ScheduleRunBody) });

export const ScheduleBody = Type.Object({
  name: Type.String(),
  cron: Type.String(),
  timeZone: Type.String(),
  enabled: Type.Boolean(),
  missed: MissedPolicy,
  task: orNull(Type.String()),
  rotation: orNull(
    Type.Object({
      sources: Type.Array(Type.String()),
      targetSets: Type.Array(Type.Array(Type.String())),
      options: Type.Object(COPY_OPTIONS),
      keep: Count,
      lockSeconds: Count,
    }),
  ),
  createdAt: Time,
  nextRunAt: orNull(Time),
  lastRun: orNull(ScheduleRunBody),
  copies: Type.Array(
    Type.Object({
      pairs: Type.Array(Pair),
      establishedAt: Time,
      lockedUntil: orNull(Time),
    }),
    { description: 'that a rotation keeps, the newest first' },
  ),
});

export const SchedulesBody = Type.Object({ schedules: Type.Array(ScheduleBody) });
