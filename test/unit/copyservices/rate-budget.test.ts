import { expect, test } from 'vitest';
import { RateBudget } from '../../../src/copyservices/rate-budget.js';

const never = new AbortController().signal;

test('without a rate nothing waits', async () => {
  const budget = new RateBudget(undefined);
  budget.charge(2 ** 40);
  expect(budget.waitMs).toBe(0);
  await budget.admit(never);
});

test('what was charged is waited for at the rate, exactly', () => {
  let nowMs = 0;
  const budget = new RateBudget(1000, () => nowMs);
  expect(budget.waitMs).toBe(0);
  budget.charge(500);
  expect(budget.waitMs).toBe(500);
  budget.charge(250);
  expect(budget.waitMs).toBe(750);
  nowMs = 700;
  expect(budget.waitMs).toBe(50);
  nowMs = 800;
  expect(budget.waitMs).toBe(0);
});

test('idle time is not saved up', () => {
  let nowMs = 0;
  const budget = new RateBudget(1000, () => nowMs);
  nowMs = 60_000;
  budget.charge(1000);
  expect(budget.waitMs).toBe(1000);
});

test('waiting ends at once when aborted', async () => {
  const budget = new RateBudget(1);
  budget.charge(1_000_000);
  const controller = new AbortController();
  const waiting = budget.admit(controller.signal);
  controller.abort();
  await expect(waiting).rejects.toThrow(/abort/i);
  await expect(budget.admit(controller.signal)).rejects.toThrow(/abort/i);
});

test('admission comes when the debt is paid', async () => {
  const budget = new RateBudget(1_000_000);
  budget.charge(30_000);
  const startedMs = performance.now();
  await budget.admit(never);
  // Timers may fire up to a millisecond early; admit() looks again, so it never returns early.
  expect(performance.now() - startedMs).toBeGreaterThanOrEqual(29);
});
