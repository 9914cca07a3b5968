/** Who asks, for audit lines and results. */

import type { FastifyRequest } from 'fastify';

export function userOf(request: Pick<FastifyRequest, 'principal'>): string {
  return request.principal?.user ?? 'unknown';
}
