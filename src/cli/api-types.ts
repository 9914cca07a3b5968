/** What the HTTP API answers, from its own schemas. Types only: none of the server is loaded. */

import type { Static } from 'typebox';
import type {
  ArrayBody,
  ConnectionBody,
  ConnectionsBody,
  LssBody,
  PoolBody,
  PoolsBody,
  ScrubBody,
  ThawBody,
  UsersBody,
  VolumeBody,
  VolumesBody,
} from '../api/schemas.js';
import type { TaskBody, TaskRunBody, TaskRunsBody, TasksBody } from '../api/schemas-tasks.js';
import type {
  ScheduleBody,
  ScheduleRunBody,
  ScheduleRunsBody,
  SchedulesBody,
} from '../api/schemas-schedules.js';
import type {
  FlashcopiesBody,
  FlashcopyBody,
  OneLssBody,
  UndoneBody,
  UndosBody,
  UnfrozenBody,
} from '../api/schemas-copies.js';
import type { HostBody, HostsBody, RatesBody, VolumeAccessBody } from '../api/schemas-access.js';

export type ArrayView = Static<typeof ArrayBody>;
export type ConnectionView = Static<typeof ConnectionBody>;
export type ConnectionsView = Static<typeof ConnectionsBody>;
export type FlashcopiesView = Static<typeof FlashcopiesBody>;
export type FlashcopyView = Static<typeof FlashcopyBody>;
export type HostsView = Static<typeof HostsBody>;
export type HostView = Static<typeof HostBody>;
export type LssesView = Static<typeof LssBody>;
export type PoolView = Static<typeof PoolBody>;
export type PoolsView = Static<typeof PoolsBody>;
export type RatesView = Static<typeof RatesBody>;
export type ScheduleView = Static<typeof ScheduleBody>;
export type ScheduleRunView = Static<typeof ScheduleRunBody>;
export type ScheduleRunsView = Static<typeof ScheduleRunsBody>;
export type SchedulesView = Static<typeof SchedulesBody>;
export type ScrubView = Static<typeof ScrubBody>;
export type TaskView = Static<typeof TaskBody>;
export type TaskRunView = Static<typeof TaskRunBody>;
export type TaskRunsView = Static<typeof TaskRunsBody>;
export type TasksView = Static<typeof TasksBody>;
export type ThawView = Static<typeof ThawBody>;
export type UsersView = Static<typeof UsersBody>;
export type VolumeAccessView = Static<typeof VolumeAccessBody>;
export type VolumeView = Static<typeof VolumeBody>;
export type VolumesView = Static<typeof VolumesBody>;
export type LssView = Static<typeof OneLssBody>;
export type UndoView = Static<typeof UndoneBody>;
export type UndosView = Static<typeof UndosBody>;
export type UnfrozenView = Static<typeof UnfrozenBody>;
