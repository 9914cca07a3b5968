/** Schemas of saved tasks; as schemas.ts. */

import Type from 'typebox';
import { LIMITS } from '../base/limits.js';
import { TASK_TYPE_NAMES } from '../base/task-types.js';
import { oneOf, orNull, Pair, Pairs, Ref, strictObject, Time } from './schemas.js';
import { ESTABLISH_OPTIONS } from './schemas-copies.js';

const OPTIONS = {
  ...ESTABLISH_OPTIONS,
  fast: Type.Optional(Type.Boolean({ description: 'of a reverse: also while copying' })),
  complete: Type.Optional(
    Type.Boolean({ description: 'of a withdraw: end by itself when all is copied' }),
  ),
};

const TaskTypeName = oneOf(...TASK_TYPE_NAMES);

const WorkFields = {
  type: TaskTypeName,
  pairs: Type.Optional(Pairs),
  tasks: Type.Optional(
    Type.Array(Ref, {
      minItems: 1,
      maxItems: LIMITS.tasksPerGroup,
      description: 'of a group: what it runs, in this order',
    }),
  ),
  lss: Type.Optional(
    Type.Array(Ref, { minItems: 1, maxItems: 16, description: 'of a consistency-created' }),
  ),
  options: Type.Optional(strictObject(OPTIONS)),
};

const Description = Type.Optional(Type.String({ maxLength: LIMITS.taskDescriptionBytes }));

export const NewWorkBody = strictObject(WorkFields);
export const NewTaskBody = strictObject({ name: Ref, ...WorkFields, description: Description });

export const ImportTasksBody = strictObject({
  tasks: Type.Array(NewTaskBody, { minItems: 1, maxItems: LIMITS.tasksPerImport }),
  replace: Type.Optional(
    Type.Boolean({ description: 'tasks of these names take the place of those there are' }),
  ),
});

const TaskRunFields = {
  status: oneOf('completed', 'failed'),
  message: Type.String(),
  startedAt: Time,
  finishedAt: Time,
  startedBy: Type.String({ examples: ['user admin', 'schedule nightly', 'group G'] }),
};

export const WorkRunBody = Type.Object(TaskRunFields);
export const TaskRunBody = Type.Object({ name: Type.String(), ...TaskRunFields });
export const TaskRunsBody = Type.Object({ runs: Type.Array(Type.Object(TaskRunFields)) });

export const TaskBody = Type.Object({
  name: Type.String(),
  type: TaskTypeName,
  pairs: Type.Array(Pair),
  tasks: Type.Array(Type.String()),
  lss: Type.Array(Type.String()),
  options: Type.Object(OPTIONS),
  description: Type.String(),
  createdAt: Time,
  lastRun: orNull(Type.Object(TaskRunFields)),
});

export const TasksBody = Type.Object({ tasks: Type.Array(TaskBody) });
export const TaskParams = strictObject({ name: Ref });
